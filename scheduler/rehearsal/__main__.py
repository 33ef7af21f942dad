"""`python -m scheduler.rehearsal`: what `nasmesh rehearse` becomes; flags, table, JSON."""

import argparse
import dataclasses
import io
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from nasmesh.client.spec import read_spec
from nasmesh.errors import Invalid, Unavailable
from nasmesh.exits import guarded_command
from nasmesh.flags import FlagParser
from nasmesh.logs import configure
from nasmesh.rpc.access import add_client_flags, client_access
from nasmesh.settings import Settings, read_settings
from scheduler.admin import display
from scheduler.admin.places import store_beside
from scheduler.journal.places import place_of
from scheduler.piped import PipedGenerator
from scheduler.rehearsal.data import added_data
from scheduler.rehearsal.fitting import fitted
from scheduler.rehearsal.model import Model
from scheduler.rehearsal.rehearsing import Rehearsal, Timed, rehearse

_AGENTS = 10_000


def parse_flags(argv: Sequence[str] | None, settings: Settings) -> argparse.Namespace:
    """Return what a command line says; raises Invalid (USAGE)."""
    known = ", ".join(field.name for field in dataclasses.fields(Model))
    parser = FlagParser("nasmesh rehearse", description="How long a search takes with N agents, in virtual time.")
    parser.add_argument("-f", "--file", type=Path, required=True, metavar="SPEC", help="YAML specification")
    parser.add_argument(
        "--set", action="append", default=[], metavar="PATH=VALUE", help="override one field; repeatable"
    )
    parser.add_argument(
        "--agents", default="1", metavar="N[,N…]", help="hosts, each trains and scores one at a time [1]"
    )
    parser.add_argument("--generators", type=int, default=1, metavar="N", help="slots for generate work [1]")
    parser.add_argument(
        "--train-model", default="", metavar="NAME=VALUE[,…]", help=f"figures of the model; names: {known}"
    )
    parser.add_argument("--from", dest="source", default="", metavar="SEARCH", help="take the figures from a search")
    parser.add_argument(
        "--journal", default=settings.journal, metavar="URL", help="where that and added data are [%(default)s]"
    )
    parser.add_argument("--target", default="", metavar="HOST:PORT", help="generate server [a new one]")
    parser.add_argument(
        "--store",
        default="",
        metavar="URL",
        help="objects that the specification names [{home}/objects]",
    )
    parser.add_argument("--insecure", action="store_true", help="dial a target beyond this machine without TLS")
    add_client_flags(parser, settings)
    parser.add_argument("--networks", action="store_true", help="with --json: name every network that was proposed")
    parser.add_argument("--json", action="store_true", help="print one JSON object, for scripts")
    return parser.parse_args(argv)


def hosts_of(text: str) -> list[int]:
    """Return the numbers of "1,8,64"; raises Invalid (AGENTS_INVALID)."""
    parts = text.split(",")
    if not all(part.isascii() and part.isdigit() and 1 <= int(part) <= _AGENTS for part in parts):
        raise Invalid(
            "AGENTS_INVALID", f"agents: {text[:80]!r} is no list of numbers from 1 to {_AGENTS}", field="agents"
        )
    return [int(part) for part in parts]


def model_of(text: str, model: Model) -> Model:
    """Return the model with the figures of "name=value,…", named as --json prints them, too.

    Raises Invalid (MODEL_INVALID).
    """
    known = [field.name for field in dataclasses.fields(Model)]
    printed = {display.camel(name): name for name in known}
    found: dict[str, float] = {}
    for part in filter(None, text.split(",")):
        given, _, value = part.partition("=")
        name = printed.get(given, given)
        try:
            found[name] = float(value)
        except ValueError:
            found[name] = -1.0
        if name not in known or not 0 <= found[name] < 1e12:
            message = f"train-model: {part[:80]!r} is not NAME=VALUE with a name of {', '.join(sorted(known))}"
            raise Invalid("MODEL_INVALID", message, field="train-model")
    return dataclasses.replace(model, **found)


def run(flags: argparse.Namespace) -> int:
    """Rehearse for every number of agents and tell."""
    hosts = hosts_of(flags.agents)
    spec = read_spec(flags.file, flags.set)
    model = Model()
    if flags.source:
        model = fitted(place_of(flags.journal), flags.source, model)
    model = model_of(flags.train_model, model)
    added = added_data(flags.journal, spec.data.dataset)
    found = []
    store = store_beside(flags.store, read_settings())
    with PipedGenerator(
        target=flags.target, store=store, insecure=flags.insecure, access=client_access(flags)
    ) as piped:
        generator = Timed(piped.ask, piped.server)
        one = partial(rehearse, generators=flags.generators, added=added)
        for count in hosts:
            with display.progress(f"{count} agents", spec.budget.max_trials) as advance:
                try:
                    found.append(one(spec, count, generator, model, told=advance))
                except Unavailable as error:
                    if error.reason != "GENERATOR_ABSENT":
                        raise
                    told = f"{error.message}, and name it here with --target HOST:PORT"
                    raise Unavailable(error.reason, told, field=error.field) from error
    if flags.json:
        rows = [row if flags.networks else dataclasses.replace(row, networks=[]) for row in found]
        display.say_json({"model": model, "rehearsals": rows})
    else:
        tell(found)
    return 0


def tell(found: Sequence[Rehearsal]) -> None:
    """Print a table for people."""
    head = f"{'agents':>7} {'time':>12} {'speed-up':>9} {'utilisation':>12} {'trials':>7} {'calls':>6}  limited by"
    display.say(head)
    for row in found:
        speedup = found[0].wall_time_s / row.wall_time_s if row.wall_time_s else 1.0
        display.say(
            f"{row.agents:>7} {duration(row.wall_time_s):>12} {speedup:>8.1f}x {row.utilisation:>11.1%} "
            f"{row.trials:>7} {row.calls:>6}  {row.limit}"
        )
    for row in found:
        if row.state != "SUCCEEDED":
            display.say(f"{row.agents} agents: the search ends {row.state}: {row.reason}")
    took, generator = sum(row.took_s for row in found), sum(row.generator_took_s for row in found)
    display.say(f"rehearsed in {took:.1f} s, of which the real generator took {generator:.1f} s")


def duration(seconds: float) -> str:
    """Return a duration for people."""
    if seconds < 600:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 36_000 else f"{seconds / 3600:.1f} h"


def main(argv: Sequence[str] | None = None) -> int:
    """Rehearse; returns 0, 1 unexpected, 2 wrong specification or flag, 3 no generator, 4 no such search."""

    def work() -> int:
        settings = read_settings()
        flags = parse_flags(argv, settings)
        configure("rehearsal", settings=settings, stream=io.StringIO())  # what it has to say is the table
        return run(flags)

    return guarded_command(work, as_json="--json" in (sys.argv if argv is None else argv))


if __name__ == "__main__":
    sys.exit(main())
