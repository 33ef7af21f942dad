"""`nasmesh network transform`: a trained network made deeper or wider, computing what it did."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clients.cli.options import SCHEDULER, AsJson, Insecure, Overwrite, Scheduler, connect
from clients.cli.output import print_json, print_line
from nasmesh.errors import Conflict, Invalid

if TYPE_CHECKING:
    from nasmesh.model.morph_apply import Step

_NETWORK = 'ONNX file; or digest, "networks/{digest}", "searches/{id}/trials/{number}" at the scheduler.'


def register(app: typer.Typer) -> None:
    """Add the command to the group of networks."""
    app.command("transform")(transform_network)


def transform_network(  # noqa: PLR0913 - the flags of a command
    network: Annotated[str, typer.Argument(metavar="NETWORK", help=_NETWORK)],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="File to write.")],
    widen: Annotated[
        list[str] | None, typer.Option(metavar="BLOCK=CHANNELS", help="Give a block more channels. Repeatable.")
    ] = None,
    deepen: Annotated[
        list[str] | None,
        typer.Option(metavar="BLOCK[=KERNEL]", help="Add a convolution unit at a block [kernel 3]. Repeatable."),
    ] = None,
    skip: Annotated[
        list[str] | None, typer.Option(metavar="SOURCE=BLOCK", help='Add a skip from a block or "x". Repeatable.')
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Draws which channels are copied, and adapters.")] = 0,
    force: Overwrite = False,
    scheduler: Scheduler = SCHEDULER,
    as_json: AsJson = False,
    insecure: Insecure = False,
) -> None:
    """Make a network wider, then deeper, then add skips, so that its outputs stay what they are.

    The child's weights are the parent's, rearranged: train it on from there. Outputs are compared in onnxruntime
    before anything is written.
    """
    try:
        from nasmesh.model.morph_apply import transform
        from nasmesh.model.quarantine import admit_untrusted
    except ModuleNotFoundError as error:
        message = f"network transform needs {error.name}, which is not installed here; pip install 'nasmesh[evaluate]'"
        raise Invalid("ONNX_MISSING", message) from error
    if output.exists() and not force:
        raise Conflict("FILE_EXISTS", f"--output: {output} exists; name another file or add --force", field="output")
    if not output.absolute().parent.is_dir():
        raise Invalid("FOLDER_MISSING", f"--output: there is no folder {output.absolute().parent}", field="output")
    steps = list(_steps(widen or [], deepen or [], skip or []))
    if not steps:
        raise Invalid("USAGE", "name at least one of --widen, --deepen, --skip; see nasmesh network transform --help")
    content = _content(network, scheduler, insecure=insecure)
    child = transform(admit_untrusted(content, checkpoint=True).model, steps, seed=seed)
    temporary = output.with_name(f".{output.name}.{os.getpid()}")
    temporary.write_bytes(child.content)
    os.replace(temporary, output)
    figures = {"parameters": child.after.parameters, "macs": child.after.macs, "max_abs_diff": child.max_abs_diff}
    if as_json:
        print_json({"path": str(output), **figures})
        return
    print_line(
        f"{output}: {child.before.parameters:,} -> {child.after.parameters:,} parameters, "
        f"{child.before.macs:,} -> {child.after.macs:,} MACs"
    )
    if child.max_abs_diff is None:
        print_line("the network has no weights, so only its form was changed")
    else:
        print_line(f"outputs differ from the parent's by at most {child.max_abs_diff:.2g}")


def _steps(widen: list[str], deepen: list[str], skip: list[str]) -> "Iterator[Step]":
    from nasmesh.model.morph_apply import Deepen, Skip, Widen

    for text in widen:
        block, _, channels = text.partition("=")
        yield Widen(block, _number("--widen", text, channels, "BLOCK=CHANNELS"))
    for text in deepen:
        block, given, kernel = text.partition("=")
        yield Deepen(block, _number("--deepen", text, kernel, "BLOCK=KERNEL")) if given else Deepen(block)
    for text in skip:
        source, given, block = text.partition("=")
        if not given:
            raise Invalid("USAGE", f"--skip: {text[:80]!r} is not SOURCE=BLOCK", field="skip")
        yield Skip(source, block)


def _number(option: str, text: str, digits: str, form: str) -> int:
    if not (digits.isascii() and digits.isdecimal() and len(digits) < 10):
        raise Invalid("USAGE", f"{option}: {text[:80]!r} is not {form}, with a whole number", field=option[2:])
    return int(digits)


def _content(network: str, scheduler: str, *, insecure: bool) -> bytes:
    path = Path(network)
    if path.is_file():
        return path.read_bytes()
    if path.suffix == ".onnx":
        raise Invalid("FILE_UNREADABLE", f"{network}: there is no such file", field="network")
    with connect(scheduler, insecure=insecure) as client:
        return client.export(network).content
