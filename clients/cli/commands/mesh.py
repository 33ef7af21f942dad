"""`nasmesh up`: a whole mesh on this machine, in the foreground; with --search, one search from start to report."""

import signal
import sys
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

import nasmesh
from clients.cli.access_options import client_access
from clients.cli.options import WATCH_PATIENCE_S, AsJson, Force, Out, Overrides, connect
from clients.cli.output import print_json, print_line
from nasmesh.errors import Invalid, NasmeshError
from nasmesh.rpc.access import ServerAccess
from nasmesh.settings import format_address, home, parse_address, read_settings

if TYPE_CHECKING:
    from clients.cli.processes import LocalMesh, Program
    from nasmesh.v1.search_pb2 import SearchSpec

_DEFAULT_OUT = Path("runs/{search}")


def _shown(flag: str, text: str) -> Any:
    return typer.Option(flag, metavar="FILE", help=text, rich_help_panel="Access")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("up")(up)


def up(  # noqa: PLR0913 - the flags of a command
    search: Annotated[
        Path | None, typer.Option("--search", metavar="SPEC", help="Run this specification live, then shut down.")
    ] = None,
    out: Out = None,
    force: Force = False,
    overrides: Overrides = None,
    any_port: Annotated[bool, typer.Option("--any-port", help="Use free ports, not 7400 to 7403.")] = False,
    train_slots: Annotated[int, typer.Option(min=1, max=64, help="Trainings at once.")] = 1,
    tls_cert: Annotated[Path | None, _shown("--tls-cert", "Certificate of the scheduler: speak TLS.")] = None,
    tls_key: Annotated[Path | None, _shown("--tls-key", "Its key, mode 0600.")] = None,
    tls_ca: Annotated[Path | None, _shown("--tls-ca", "Ask its callers for certificates of this authority.")] = None,
    tokens: Annotated[Path | None, _shown("--tokens", "Ask its callers for a token in this file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Start scheduler, generate, train and evaluate as separate processes, and stop them on Ctrl-C.

    Their logs are in {home}/logs. A program that dies is started again; nothing is lost by it.
    """
    door = _door(tls_cert, tls_key, tls_ca, tokens)
    spec = _read(search, out, overrides or [], force=force)
    say = _say_on_stderr if as_json else print_line
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGHUP, _interrupt)
    from clients.cli.processes import LocalMesh

    mesh = LocalMesh(home(), _programs(train_slots, door), any_port, say, access=client_access())
    try:
        with mesh:
            if spec is None:
                _tell_up(mesh, as_json=as_json, any_port=any_port)
                mesh.wait()
                return
            say(f"mesh up: scheduler {mesh.addresses['scheduler']}, logs in {_relative(mesh.home / 'logs')}")
            code = _run(mesh, spec, out=out or _DEFAULT_OUT, force=force, as_json=as_json)
    except KeyboardInterrupt:
        if mesh.failure is not None:
            raise mesh.failure from None
        if spec is None:
            say("stopped")
            return
        raise
    raise typer.Exit(code)


def _read(search: Path | None, out: Path | None, overrides: list[str], *, force: bool) -> "SearchSpec | None":
    """Find every fault in the input before anything is started."""
    if search is None:
        if out is not None or overrides:
            raise Invalid("SEARCH_MISSING", "--search: --out and --set need a specification", field="search")
        return None
    from clients.cli.report.folder import check_folder
    from nasmesh.client import read_spec

    spec = read_spec(search, overrides)
    check_folder(out or _DEFAULT_OUT, force=force)
    return spec


def _door(cert: Path | None, key: Path | None, ca: Path | None, tokens: Path | None) -> ServerAccess:
    """Return what the scheduler shows and asks for: flags over environment."""
    settings = read_settings()
    return ServerAccess(
        cert or settings.tls_cert, key or settings.tls_key, ca or settings.tls_ca, tokens or settings.tokens
    )


def _programs(train_slots: int, door: ServerAccess) -> "list[Program]":
    from clients.cli.processes import Program

    programs = [
        Program("scheduler", "scheduler", 7400, door.flags()),
        Program("generate", "generate_svc", 7401),
        Program("train", "train_svc", 7402, ("--slots", str(train_slots))),
        Program("evaluate", "evaluate_svc", 7403),
    ]
    return [replace(program, metrics=where) for program, where in zip(programs, _metrics(len(programs)), strict=True)]


def _metrics(programs: int) -> list[str]:
    """Return where each program serves metrics: the port of NASMESH_METRICS and those after it, any where it is 0.

    Raises Invalid (ADDRESS_INVALID, METRICS_PLAINTEXT) for an address that is wrong or has no room after it.
    """
    wanted = read_settings().metrics
    if not wanted:
        return [""] * programs
    from nasmesh.rpc.observing import metrics_address

    host, port = parse_address(wanted, field="NASMESH_METRICS")
    metrics_address(wanted, insecure=False)
    if port and port + programs > 65536:
        most = 65536 - programs
        text = f"NASMESH_METRICS: {programs} programs take port {port} and those after it; choose one up to {most}"
        raise Invalid("ADDRESS_INVALID", text, field="NASMESH_METRICS")
    return [format_address(host, port + number if port else 0) for number in range(programs)]


def _run(mesh: "LocalMesh", spec: "SearchSpec", *, out: Path, force: bool, as_json: bool) -> int:
    """Run one search in the mesh; cancel it when interrupted, so that the next `up` does not go on with it."""
    from clients.cli.commands.search import finish

    with connect(mesh.addresses["scheduler"], insecure=False, patience_s=WATCH_PATIENCE_S) as client:
        created = client.create_search(spec)
        try:
            return finish(client, created.name, out=out, force=force, as_json=as_json)
        except KeyboardInterrupt:
            if mesh.failure is None:
                _cancel(mesh, created.name)
            raise


def _cancel(mesh: "LocalMesh", name: str) -> None:
    try:
        with connect(mesh.addresses["scheduler"], insecure=False) as client:
            client.cancel_search(name)
        _say_on_stderr(f"interrupted: {name} is cancelled; what was measured is kept")
    except NasmeshError as error:
        _say_on_stderr(f"interrupted: {name} could not be cancelled ({error.message})")


def _tell_up(mesh: "LocalMesh", *, as_json: bool, any_port: bool) -> None:
    metrics = {program.name: program.metrics for program in mesh.programs if not program.metrics.endswith(":0")}
    if as_json:
        told = {"addresses": mesh.addresses, "home": str(mesh.home), "logs": str(mesh.home / "logs")}
        print_json({**told, **({"metrics": metrics} if any(metrics.values()) else {})})
        return
    print_line(f"nasmesh {nasmesh.__version__} is up; logs in {_relative(mesh.home / 'logs')}")
    for name, address in mesh.addresses.items():
        where = f"   metrics http://{metrics[name]}/metrics" if metrics.get(name) else ""
        print_line(f"  {name:<10} {address}{where}")
    flag = f" --scheduler {mesh.addresses['scheduler']}" if any_port else ""
    print_line(f"Ctrl-C stops it. In another terminal: nasmesh search create -f examples/digits.yaml --wait{flag}")


def _relative(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _say_on_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - stdout holds the one JSON object


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
