"""`nasmesh generator`, `agents` and `version`: what is there."""

import platform
from typing import Annotated

import typer

import nasmesh
from clients.cli.options import SCHEDULER, AsJson, Insecure, Scheduler, connect
from clients.cli.output import message_dict, print_json, print_line, print_messages, print_table
from nasmesh.errors import NasmeshError, NotFound

generators = typer.Typer(no_args_is_help=True, help="Search algorithms that connected servers offer.")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(generators, name="generator")
    app.command("agents")(agents)
    app.command("version")(version)


@generators.command("list")
def list_generators(scheduler: Scheduler = SCHEDULER, as_json: AsJson = False, insecure: Insecure = False) -> None:
    """List generators."""
    with connect(scheduler, insecure=insecure) as client:
        found = list(client.generators())
    if as_json:
        print_messages(found)
        return
    rows = [(item.name, item.version, ", ".join(item.spaces) or "any", item.description) for item in found]
    print_table(("name", "version", "spaces", "description"), rows, empty="no generate server is connected")


@generators.command("show")
def show_generator(
    name: Annotated[str, typer.Argument(metavar="GENERATOR", help='Id, or "generators/{id}".')],
    scheduler: Scheduler = SCHEDULER,
    as_json: AsJson = False,
    insecure: Insecure = False,
) -> None:
    """Show a generator with the settings it takes."""
    from google.protobuf.json_format import MessageToDict

    wanted = name if "/" in name else f"generators/{name}"
    with connect(scheduler, insecure=insecure) as client:
        found = {item.name: item for item in client.generators()}
    if wanted not in found:
        known = ", ".join(sorted(found)) or "none is connected"
        raise NotFound("GENERATOR_UNKNOWN", f"generator: there is no {wanted}; known: {known}", field="generator")
    item = found[wanted]
    if as_json:
        print_json(message_dict(item))
        return
    print_line(f"{item.name} {item.version}: {item.description}\nspaces: {', '.join(item.spaces) or 'any'}\n")
    schema = MessageToDict(item.settings_schema)
    properties = schema.get("properties", {})
    rows = [
        (key, _domain(value), _default(value), str(value.get("description", ""))) for key, value in properties.items()
    ]
    print_table(("setting", "value", "default", "meaning"), rows, empty="it takes no settings")


def _domain(schema: dict[str, object]) -> str:
    choices = schema.get("enum")
    if isinstance(choices, list):
        return " | ".join(str(choice) for choice in choices)
    low, high = schema.get("minimum", schema.get("exclusiveMinimum")), schema.get("maximum")
    kind = str(schema.get("type", ""))
    if low is None and high is None:
        return kind
    return f"{kind} {'' if low is None else f'{low:g}'}..{'' if high is None else f'{high:g}'}"


def _default(schema: dict[str, object]) -> str:
    value = schema.get("default", "")
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def agents(scheduler: Scheduler = SCHEDULER, as_json: AsJson = False, insecure: Insecure = False) -> None:
    """List the agents that the scheduler knows."""
    from nasmesh.v1 import search_pb2

    with connect(scheduler, insecure=insecure) as client:
        found = list(client.agents())
    if as_json:
        print_messages(found)
        return
    rows = []
    for agent in found:
        slots = [
            f"{search_pb2.TaskKind.Name(slot.kind).removeprefix('TASK_KIND_').lower()} {slot.slots}"
            for slot in agent.slots
        ]
        state = "draining" if agent.draining else "connected" if agent.connected else "away"
        devices = ", ".join(device.id for device in agent.server.devices)
        rows.append((agent.name, state, ", ".join(slots), str(len(agent.attempts)), agent.server.engine, devices))
    print_table(
        ("name", "state", "slots", ">at work", "engine", "devices"),
        rows,
        empty="no agent has connected yet; start `nasmesh up`",
    )


def version(scheduler: Scheduler = SCHEDULER, as_json: AsJson = False, insecure: Insecure = False) -> None:
    """Print the versions of this program and, where one answers, of the scheduler."""
    server: dict[str, object] | None = None
    why = ""
    try:
        with connect(scheduler, insecure=insecure) as client:
            info = client.server_info()
            server = message_dict(info) | {"address": scheduler, "compiled": info.compiled}
    except NasmeshError as error:  # a version is wanted with or without a mesh
        why = f"none answers at {scheduler}" if error.reason == "UNREACHABLE" else error.message
    if as_json:
        print_json({"version": nasmesh.__version__, "python": platform.python_version(), "scheduler": server})
        return
    print_line(f"nasmesh {nasmesh.__version__} (Python {platform.python_version()})")
    if server is None:
        print_line(f"scheduler: {why}")
    else:
        kinds = f"journal {server.get('journal')}, store {server.get('store')}"
        form = "inner loop compiled" if server.get("compiled") else "inner loop not compiled"
        print_line(f"scheduler: {server.get('version')} at {scheduler}, {kinds}, {form}")
