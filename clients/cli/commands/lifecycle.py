"""`nasmesh search pause|resume|update|delete`, `nasmesh agent drain|undrain` and `nasmesh admin sweep`."""

from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from clients.cli.commands import search as searches
from clients.cli.commands.serve import AGENT, become
from clients.cli.options import SCHEDULER, AsJson, Insecure, Overrides, Scheduler, SearchName, connect
from clients.cli.output import message_dict, print_json, print_line

if TYPE_CHECKING:
    from nasmesh.client import Client
    from nasmesh.v1 import scheduler_service_pb2 as pb
    from nasmesh.v1 import search_pb2

AgentName = Annotated[str, typer.Argument(metavar="AGENT", help='Id of the agent, or "agents/{id}".')]
Apply = Annotated[bool, typer.Option("--apply", help="Do it; otherwise only say what would be deleted.")]


class AgentGroup(TyperGroup):
    """`nasmesh agent drain AGENT` is a command; `nasmesh agent --target …` becomes the agent's program."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Leave everything to the program that does not begin with a command's name."""
        if args[:1] and args[0] in self.commands:
            return list(super().parse_args(ctx, args))
        ctx.meta["nasmesh.agent"] = list(args)
        return list(super().parse_args(ctx, []))


agents = typer.Typer(cls=AgentGroup, invoke_without_command=True)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    searches.app.command("pause")(pause)
    searches.app.command("resume")(resume)
    searches.app.command("update")(update)
    searches.app.command("delete")(delete)
    app.add_typer(agents, name="agent")


@agents.callback()
def agent(context: typer.Context) -> None:
    """Put an agent in front of a server that somebody else wrote; `nasmesh agent --help` lists its flags."""
    if context.invoked_subcommand is None:
        become(AGENT, context.meta["nasmesh.agent"])


def pause(
    search: SearchName, as_json: AsJson = False, scheduler: Scheduler = SCHEDULER, insecure: Insecure = False
) -> None:
    """Hold a search: running trainings store a checkpoint and are given back. Its wall time goes on."""
    with connect(scheduler, insecure=insecure) as client:
        _tell(client.pause_search(search), as_json=as_json, hint="go on with: nasmesh search resume")


def resume(
    search: SearchName, as_json: AsJson = False, scheduler: Scheduler = SCHEDULER, insecure: Insecure = False
) -> None:
    """Let a paused search go on; trainings continue from their checkpoints."""
    with connect(scheduler, insecure=insecure) as client:
        _tell(client.resume_search(search), as_json=as_json)


def update(  # noqa: PLR0913 - the flags of a command
    search: SearchName,
    changes: Overrides = None,
    removals: Annotated[
        list[str] | None, typer.Option("--unset", metavar="PATH", help="Leave a field unset. Repeatable.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Check the change only; change nothing.")] = False,
    as_json: AsJson = False,
    scheduler: Scheduler = SCHEDULER,
    insecure: Insecure = False,
) -> None:
    """Change a running search: budget and its fields, parallelism, priority, labels."""
    from nasmesh.client.update import read_update

    with connect(scheduler, insecure=insecure) as client:
        spec, paths = read_update(changes or (), removals or (), client.get_search(search).spec)
        found = client.update_search(search, spec, paths, validate_only=check)
    if check and not as_json:
        print_line("the change is right; nothing was changed")
    else:
        _tell(found, as_json=as_json)


def delete(
    search: SearchName,
    apply: Apply = False,
    as_json: AsJson = False,
    scheduler: Scheduler = SCHEDULER,
    insecure: Insecure = False,
) -> None:
    """Delete an ended search with its trials; its id is not used again. Objects go with `nasmesh admin sweep`."""
    with connect(scheduler, insecure=insecure) as client:
        told = client.delete_search(search, apply=apply)
    if as_json:
        print_json(message_dict(told) | {"applied": apply})
        return
    objects = _objects(told.unreferenced_objects, told.unreferenced_bytes)
    what = f"{told.trials} trials; nothing else names {objects}"
    print_line(f"deleted {search}: {what}" if apply else f"would delete {search}: {what}; --apply does it")


@agents.command("drain")
def drain(
    name: AgentName,
    release: Annotated[bool, typer.Option("--release", help="Have its trainings checkpointed and given back.")] = False,
    wait: Annotated[
        float,
        typer.Option("--wait", min=0.0, max=86400.0, metavar="S", help="Until it holds nothing, at most so long."),
    ] = 0.0,
    as_json: AsJson = False,
    scheduler: Scheduler = SCHEDULER,
    insecure: Insecure = False,
) -> None:
    """Give an agent no more work, until `nasmesh agent undrain`; restarts do not change that."""
    with connect(scheduler, insecure=insecure) as client:
        found = client.drain_agent(name, release=release)
        if wait and found.attempts:
            found = _idle(client, name, wait)
        _tell_agent(found, as_json=as_json)


def _idle(client: "Client", name: str, wait_s: float) -> "pb.Agent":
    """Return an agent once it holds nothing; raises Unavailable (AGENT_BUSY) where that takes longer than `wait_s`."""
    from nasmesh.client.patience import Patience, call_patiently
    from nasmesh.errors import Unavailable

    def look() -> "pb.Agent":
        found = client.get_agent(name)
        if found.attempts:
            raise Unavailable(
                "AGENT_BUSY",
                f"{found.name} is drained and still holds {len(found.attempts)} attempts after {wait_s:g} s; "
                "wait longer, or have them given back with --release",
            )
        return found

    return call_patiently(look, Patience(wait_s))


@agents.command("undrain")
def undrain(
    name: AgentName, as_json: AsJson = False, scheduler: Scheduler = SCHEDULER, insecure: Insecure = False
) -> None:
    """Give a drained agent work again."""
    with connect(scheduler, insecure=insecure) as client:
        _tell_agent(client.undrain_agent(name), as_json=as_json)


def sweep(
    apply: Apply = False,
    min_age_h: Annotated[float, typer.Option("--min-age-h", min=1.0, help="Least age of an object, in hours.")] = 48.0,
    as_json: AsJson = False,
    scheduler: Scheduler = SCHEDULER,
    insecure: Insecure = False,
) -> None:
    """Delete objects of the store that no search, trial or data set names and that are old enough."""
    with connect(scheduler, insecure=insecure) as client:
        done = client.delete_unreferenced_objects(apply=apply, min_age_s=min_age_h * 3600)
    if as_json:
        print_json(message_dict(done) | {"applied": apply})
        return
    what = f"{_objects(done.objects, done.bytes)} that nothing names; {done.referenced_objects} are named and stay"
    print_line(f"deleted {what}" if apply else f"would delete {what}; --apply does it")


def _objects(count: int, size_bytes: int) -> str:
    from clients.cli.display.view import format_count, plural

    return f"{plural(count, 'object')} ({format_count(size_bytes)}B)"


def _tell(found: "search_pb2.Search", *, as_json: bool, hint: str = "") -> None:
    from clients.cli.display.view import short, state_word

    if as_json:
        print_json(message_dict(found))
    else:
        print_line(f"{found.name} is {state_word(found)}" + (f"; {hint} {short(found.name)}" if hint else ""))


def _tell_agent(found: "pb.Agent", *, as_json: bool) -> None:
    if as_json:
        print_json(message_dict(found))
    else:
        from clients.cli.display.view import plural

        state = "drained" if found.draining else "given work again"
        held = f"; still at work: {plural(len(found.attempts), 'attempt')}" if found.draining and found.attempts else ""
        print_line(f"{found.name} is {state}{held}")
