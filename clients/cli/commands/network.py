"""`nasmesh network`: show, export and import ONNX networks."""

import hashlib
import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clients.cli.options import SCHEDULER, AsJson, Insecure, Overwrite, Scheduler, connect
from clients.cli.output import message_dict, print_json, print_line, print_messages, print_table
from nasmesh.errors import Conflict, Invalid, Rejected
from nasmesh.limits import STORE_LINK_S, STORE_LINK_S_MAX

if TYPE_CHECKING:
    from nasmesh.client.client import Client, Exported
    from nasmesh.model.admission import Admitted
    from nasmesh.v1 import scheduler_service_pb2 as pb

app = typer.Typer(no_args_is_help=True, help="Networks: ONNX objects named by their content.")
Subject = Annotated[
    str, typer.Argument(metavar="NETWORK", help='Digest, "networks/{digest}", or "searches/{id}/trials/{number}".')
]


class Form(StrEnum):
    """Forms of a network; names as in ExportForm."""

    DEFAULT = "default"
    NETWORK = "network"
    MODEL = "model"
    CHECKPOINT = "checkpoint"
    INT8 = "int8"
    PYTHON = "python"
    REPORT = "report"


@app.command("list")
def list_networks(scheduler: Scheduler = SCHEDULER, as_json: AsJson = False, insecure: Insecure = False) -> None:
    """List networks in the order of first use."""
    from clients.cli.display.view import format_count

    with connect(scheduler, insecure=insecure) as client:
        found = list(client.list_networks())
    if as_json:
        print_messages(found)
        return
    rows = [(item.name, format_count(item.parameters), format_count(item.macs)) for item in found]
    print_table(("name", ">parameters", ">MACs"), rows, empty="no network has been recorded yet")


@app.command("show")
def show_network(
    name: Subject, scheduler: Scheduler = SCHEDULER, as_json: AsJson = False, insecure: Insecure = False
) -> None:
    """Show what is known of a network without training."""
    with connect(scheduler, insecure=insecure) as client:
        item = client.get_trial(name).network if "/trials/" in name else client.get_network(name)
    if as_json:
        print_json(message_dict(item))
        return
    print_line(item.name)
    rows = [("parameters", f"{item.parameters:,}"), ("MACs", f"{item.macs:,}")]
    rows += [(key.replace("_", " "), value) for key, value in sorted(item.summary.items())]
    rows += [("object", item.object.key), ("size", f"{item.object.size_bytes:,} bytes")]
    print_table(("", ""), rows, empty="")


@app.command("export")
def export_network(  # noqa: PLR0913 - the flags of a command
    name: Subject,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="File to write.")],
    form: Annotated[
        Form,
        typer.Option(
            help="Weightless network; trained model; checkpoint; its 8-bit copy; stand-alone PyTorch (FILE, and beside "
            "it .npz); its evaluation's report."
        ),
    ] = Form.DEFAULT,
    opset: Annotated[
        int, typer.Option(metavar="N", help="Version of ONNX's operator set of a model, 16 to 23; 0: as trained.")
    ] = 0,
    force: Overwrite = False,
    scheduler: Scheduler = SCHEDULER,
    as_json: AsJson = False,
    insecure: Insecure = False,
) -> None:
    """Write the bytes of a network or of a trial, after checking them against their digest."""
    if opset and form not in (Form.DEFAULT, Form.MODEL):
        raise Invalid("USAGE", f"--opset: only a trained model is converted, not --form {form}", field="opset")
    files = [output, output.with_suffix(".npz")] if form is Form.PYTHON else [output]
    for path in files:
        if path.exists() and not force:
            raise Conflict("FILE_EXISTS", f"--output: {path} exists; name another file or add --force", field="output")
    if not output.absolute().parent.is_dir():
        raise Invalid("FOLDER_MISSING", f"--output: there is no folder {output.absolute().parent}", field="output")
    if form is Form.PYTHON and output.suffix == ".npz":
        raise Invalid("USAGE", "--output: name the Python file; its weights get that name with .npz", field="output")
    with connect(scheduler, insecure=insecure) as client:
        exported, contents = _exported(client, name, form, opset, output.name)
    for file, content in contents.items():
        temporary = output.with_name(f".{file}.{os.getpid()}")
        temporary.write_bytes(content)
        os.replace(temporary, output.with_name(file))
    if as_json:
        paths = [str(output.with_name(file)) for file in contents]
        print_json({"path": str(output), "paths": paths, "object": message_dict(exported.object)})
        return
    for file, content in contents.items():
        shown = exported.object.sha256 if content is exported.content else hashlib.sha256(content).hexdigest()
        print_line(f"{output.with_name(file)}: {len(content):,} bytes, SHA-256 {shown}")


@app.command("link")
def link_network(
    name: Subject,
    form: Annotated[
        Form, typer.Option(help="As of export; 8-bit copies and reports too, but for python.")
    ] = Form.DEFAULT,
    seconds: Annotated[
        int,
        typer.Option(
            "--for", min=1, max=STORE_LINK_S_MAX, metavar="SECONDS", help="How long it is good for, at most 7 days."
        ),
    ] = STORE_LINK_S,
    scheduler: Scheduler = SCHEDULER,
    as_json: AsJson = False,
    insecure: Insecure = False,
) -> None:
    """Print an address from which anybody who has it may download a network or a trial, straight from S3."""
    if form is Form.PYTHON:
        raise Invalid("USAGE", "--form: python is written by export; an object is linked as it is stored", field="form")
    with connect(scheduler, insecure=insecure) as client:
        found = client.link(name, _form(form), seconds=seconds)
    if as_json:
        print_json(message_dict(found))
        return
    print_line(found.url)


def _form(form: Form) -> "pb.ExportForm.ValueType":
    """Return what the scheduler calls a form; of Python's it knows the model."""
    from nasmesh.v1 import scheduler_service_pb2 as pb

    forms = {
        Form.DEFAULT: pb.EXPORT_FORM_UNSPECIFIED,
        Form.NETWORK: pb.EXPORT_FORM_NETWORK,
        Form.MODEL: pb.EXPORT_FORM_MODEL,
        Form.CHECKPOINT: pb.EXPORT_FORM_CHECKPOINT,
        Form.INT8: pb.EXPORT_FORM_QUANTIZED,
        Form.PYTHON: pb.EXPORT_FORM_MODEL,
        Form.REPORT: pb.EXPORT_FORM_REPORT,
    }
    return forms[form]


def _exported(client: "Client", name: str, form: Form, opset: int, file: str) -> "tuple[Exported, dict[str, bytes]]":
    """Return the object that was fetched, and what is written of it by file name."""
    exported = client.export(name, _form(form))
    if form is Form.PYTHON:
        from clients.cli.report.artefacts import written_out
        from clients.cli.report.collect import facts_of_trial

        written = written_out(exported.content, facts_of_trial(client, client.get_trial(name)), file)
        return exported, dict(written.files)
    if opset:
        from clients.cli.report.artefacts import in_opset
        from clients.cli.report.verify import agree

        converted = in_opset(exported.content, opset)
        agree(exported.content, converted, f"{file} in opset {opset}")
        return exported, {file: converted}
    return exported, {file: exported.content}


@app.command("import")
def import_network(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="ONNX file, at most 64 MiB.")],
    scheduler: Scheduler = SCHEDULER,
    as_json: AsJson = False,
    insecure: Insecure = False,
) -> None:
    """Store an ONNX file as an object that a search's space may name (space.fixed.object).

    The file is admitted first, as a generate server would: what a search would refuse is not stored.
    """
    from nasmesh.client.transfer import check_size

    try:
        check_size(path.stat().st_size)  # before reading: a wrong file may be of any size
        content = path.read_bytes()
    except OSError as error:
        raise Invalid("FILE_UNREADABLE", f"{path}: cannot be read ({error.strerror})", field="file") from error
    counts = _admitted(content, path).counts
    with connect(scheduler, insecure=insecure) as client:
        ref = client.import_(content)
    if as_json:
        print_json(message_dict(ref))
        return
    print_line(f"{path} is stored: {counts.parameters:,} parameters, {counts.macs:,} MACs; a specification names it as")
    print_line(
        "space:\n  fixed:\n    object:"
        f"\n      key: {ref.key}\n      sha256: {ref.sha256}\n      sizeBytes: {ref.size_bytes}"
    )


def _admitted(content: bytes, path: Path) -> "Admitted":
    """Return what admission makes of a file, read by a child with limits.

    Raises Rejected with the reason of the refusal, Invalid (ONNX_MISSING) where nothing here can read it.
    """
    try:
        from nasmesh.model.quarantine import import_untrusted
    except ModuleNotFoundError as error:
        raise Invalid(
            "ONNX_MISSING",
            f"file: {path} is read before it is stored, and {error.name} is not installed here; "
            "pip install 'nasmesh[generate]'",
            field="file",
        ) from error
    try:
        return import_untrusted(content)
    except Rejected as error:
        raise Rejected(error.reason, f"file: {path} is not stored: {error.message}", field="file") from error
