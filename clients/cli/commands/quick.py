"""`nasmesh search --data …`: a search from data, a bound and a time, without a specification."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clients.cli.options import (
    SCHEDULER,
    WATCH_PATIENCE_S,
    AsJson,
    Force,
    Insecure,
    Out,
    Overrides,
    Scheduler,
    connect,
)
from clients.cli.output import print_line
from nasmesh.errors import Conflict, Invalid
from nasmesh.exits import visible

if TYPE_CHECKING:
    from nasmesh.client import Client
    from nasmesh.v1 import dataset_pb2

_COUNT = re.compile(r"(\d{1,12}(?:\.\d{1,6})?)\s*([kKmMgG]?)")
_TIME = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)\s*(s|m|min|h)?")
_SCALE = {"": 1, "k": 1_000, "m": 1_000_000, "g": 1_000_000_000}
_SECONDS = {None: 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_LEAST_S = 10.0
_NAME = re.compile(r"[^a-z0-9]+")


def register(searches: typer.Typer) -> None:
    """Make `nasmesh search` with --data, but without a command, this."""
    searches.callback(invoke_without_command=True)(quick)


def quick(  # noqa: PLR0913 - the flags of a command
    context: typer.Context,
    data: Annotated[
        str, typer.Option("--data", metavar="PATH|NAME", help="Your data, or the name of a data set: starts a search.")
    ] = "",
    max_params: Annotated[str, typer.Option(metavar="N", help="Largest network: 500k, 2M; left out: no bound.")] = "",
    budget: Annotated[str, typer.Option(metavar="TIME", help="For everything: 90s, 20m, 1.5h.")] = "20m",
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of everything.")] = 1,
    int8: Annotated[bool, typer.Option("--int8", help="Make and score an 8-bit copy of the final network.")] = False,
    label: Annotated[str, typer.Option(metavar="NAME", help="Of your data: the column or array of classes.")] = "",
    target: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Of your data: what to predict, numbers. Repeatable.")
    ] = None,
    identifier: Annotated[str, typer.Option("--id", metavar="ID", help="Id of the search; chosen when left out.")] = "",
    overrides: Overrides = None,
    save: Annotated[
        Path | None, typer.Option("--save", metavar="FILE", help="Where the specification goes; left out: ID.yaml.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Infer, print and check only; data at a path is added, no search made.")
    ] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait for the end.")] = False,
    out: Out = None,
    force: Force = False,
    as_json: AsJson = False,
    scheduler: Scheduler = SCHEDULER,
    insecure: Insecure = False,
) -> None:
    """Searches: create, look at, watch, cancel, get the best network; with --data, one without a specification."""
    if context.invoked_subcommand is not None:
        _refuse_beside(context)
        return
    if not data:
        typer.echo(context.get_help())
        raise typer.Exit(2)
    from clients.cli.commands.search import finish, tell_created
    from clients.cli.inference import Wish, infer
    from clients.cli.report.folder import check_folder
    from nasmesh.client.written import dump_spec, override_spec

    wish = Wish(read_count(max_params), read_seconds(budget), seed, int8)
    if out is not None:
        check_folder(out, force=force)
    with connect(scheduler, insecure=insecure) as client:
        dataset = _dataset(client, data, label, target or ())
        plan = infer(dataset, wish, [generator.name for generator in client.generators()])
        spec = override_spec(plan.spec, overrides or ())
        reasons = [*plan.reasons, *([f"but as --set says: {', '.join(overrides)}"] if overrides else [])]
        found = client.create_search(spec, search_id=identifier, validate_only=check)
    path = save or (None if check else Path(f"{found.name.partition('/')[2]}.yaml"))
    if path is not None:
        _save(path, dump_spec(spec, comment="\n".join((f"nasmesh search --data {data}", *reasons))))
    if not as_json:
        print_line(visible("\n".join([*reasons, *([f"specification: {path}"] if path else [])])))
    if check or detach:
        tell_created(found, check=check, as_json=as_json)
        return
    folder = out or Path("runs") / found.name.partition("/")[2]
    with connect(scheduler, insecure=insecure, patience_s=WATCH_PATIENCE_S) as client:
        raise typer.Exit(finish(client, found.name, out=folder, force=force, as_json=as_json))


def _save(path: Path, text: str) -> None:
    """Write the specification; the search is under way by then, so a place that cannot be written is only told."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        sys.stderr.write(f"the specification is not saved: {path} cannot be written ({error.strerror})\n")


def _refuse_beside(context: typer.Context) -> None:
    """Refuse options that stand before a command, which would not see them."""
    for parameter in context.command.params:
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE" and parameter.expose_value:
            what = f"belongs after {context.invoked_subcommand}, or goes with --data and no command"
            raise Invalid("USAGE", f"{parameter.opts[0]}: {what}", field=name)


def read_count(text: str) -> int:
    """Return the number that "500k" means, 0 for nothing; raises Invalid (USAGE)."""
    match = _COUNT.fullmatch(text.strip()) if text else None
    if text and match is None:
        raise Invalid("USAGE", f"--max-params: {text[:40]!r} is no number, for example 500k or 2M", field="max_params")
    value = int(float(match[1]) * _SCALE[match[2].lower()]) if match else 0
    if text and value < 1:
        raise Invalid("USAGE", f"--max-params: {text[:40]!r} is less than one parameter", field="max_params")
    return value


def read_seconds(text: str) -> float:
    """Return the seconds that "20m" means; raises Invalid (USAGE)."""
    match = _TIME.fullmatch(text.strip())
    if match is None:
        raise Invalid("USAGE", f"--budget: {text[:40]!r} is no time, for example 90s, 20m or 1.5h", field="budget")
    value = float(match[1]) * _SECONDS[match[2]]
    if value < _LEAST_S:
        raise Invalid("USAGE", f"--budget: {value:g} s are too short for a search; give at least 10s", field="budget")
    return value


def _dataset(client: "Client", data: str, label: str, target: Sequence[str]) -> "dataset_pb2.Dataset":
    """Return the data set of a name; what lies at a path is added first, under the path's own name."""
    path = Path(data)
    if not path.exists():
        if "/" in data and not data.startswith("datasets/"):
            raise Invalid("DATA_MISSING", f"--data: nothing is at {data}, and no data set is called so", field="data")
        if label or target:
            message = "--label, --target: say how files are read, and a named data set has been read already; drop them"
            raise Invalid("USAGE", message, field="label")
        return client.get_dataset(data)
    from clients.cli.adding import store_dataset
    from nasmesh.data.adding.options import Options

    options = Options(label=label, target=tuple(target))
    stem = path.resolve().name.partition(".")[0]
    name = _NAME.sub("-", stem.lower()).strip("-")[:40] or "data"
    name = name if name[0].isalpha() else f"data-{name}"
    try:
        return store_dataset(client, name, path, options)[0]
    except Invalid as error:
        if not error.reason.startswith("DATASET_"):
            raise
        how = f"to say how it is read: nasmesh dataset add {name} {data} [OPTIONS], then nasmesh search --data {name}"
        raise Invalid(error.reason, f"{error.message}; {how}", field=error.field) from error
    except Conflict as error:
        if not error.reason.startswith("DATASET_"):
            raise
        how = f"to choose a name: nasmesh dataset add NAME {data}, then nasmesh search --data NAME"
        raise Conflict(error.reason, f"{error.message}; {how}", field=error.field) from error
