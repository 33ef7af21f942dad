"""`nasmesh network`: show, export and import ONNX networks."""

import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clients.cli.options import SCHEDULER, AsJson, Force, Insecure, Scheduler, connect
from clients.cli.output import message_dict, print_json, print_line, print_messages, print_table
from nasmesh.errors import Conflict, Invalid, Rejected

if TYPE_CHECKING:
    from nasmesh.model.admission import Admitted

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
    form: Annotated[Form, typer.Option(help="Weightless network, trained model, or checkpoint.")] = Form.DEFAULT,
    force: Force = False,
    scheduler: Scheduler = SCHEDULER,
    as_json: AsJson = False,
    insecure: Insecure = False,
) -> None:
    """Write the ONNX bytes of a network or of a trial, after checking them against their digest."""
    from nasmesh.v1 import scheduler_service_pb2 as pb

    if output.exists() and not force:
        raise Conflict("FILE_EXISTS", f"--output: {output} exists; name another file or add --force", field="output")
    if not output.absolute().parent.is_dir():
        raise Invalid("FOLDER_MISSING", f"--output: there is no folder {output.absolute().parent}", field="output")
    forms = {
        Form.DEFAULT: pb.EXPORT_FORM_UNSPECIFIED,
        Form.NETWORK: pb.EXPORT_FORM_NETWORK,
        Form.MODEL: pb.EXPORT_FORM_MODEL,
        Form.CHECKPOINT: pb.EXPORT_FORM_CHECKPOINT,
    }
    with connect(scheduler, insecure=insecure) as client:
        exported = client.export(name, forms[form])
    temporary = output.with_name(f".{output.name}.{os.getpid()}")
    temporary.write_bytes(exported.content)
    os.replace(temporary, output)
    if as_json:
        print_json({"path": str(output), "object": message_dict(exported.object)})
    else:
        print_line(f"{output}: {len(exported.content):,} bytes, SHA-256 {exported.object.sha256}")


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
