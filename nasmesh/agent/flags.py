"""The flags that all server programs and the stand-alone agent share, and what they become."""

import argparse
import platform
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nasmesh import ids
from nasmesh.errors import Invalid
from nasmesh.flags import FlagParser
from nasmesh.rpc.access import (
    NO_CLIENT_ACCESS,
    ClientAccess,
    ServerAccess,
    add_client_flags,
    add_server_flags,
    client_access,
    server_access,
)
from nasmesh.rpc.observing import add_metrics_flag, metrics_address
from nasmesh.settings import Settings, is_loopback, parse_address, parse_addresses, read_settings

_LABELS = 32
_LABEL = re.compile(r"([a-z0-9][a-z0-9._-]{0,62})=(.{0,128})")


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """One server program's settings: flags over environment over defaults."""

    program: str
    listen: str
    port_file: Path | None
    scheduler: str
    """HOST:PORT, or several with commas; empty: no agent is started."""
    store: str
    """URL of the object store."""
    work_dir: Path
    has_usual_place: bool
    """Whether nothing was said of who it is, where it serves and where it keeps its state."""
    slots: int
    name: str
    """Agent id; empty: made of host, program and port."""
    labels: dict[str, str]
    insecure: bool
    access: ServerAccess
    """What the server shows and asks for."""
    own_access: ClientAccess
    """What its agent shows the scheduler."""
    metrics: str
    """HOST:PORT where metrics are served; empty: nowhere."""
    environment: Settings
    own: argparse.Namespace
    """What the program's own flags say."""


AddFlags = Callable[[argparse.ArgumentParser], None]


def parse_server_flags(
    program: str, *, listen: str, slots: int, argv: Sequence[str] | None, add_own: AddFlags | None = None
) -> ServerSettings:
    """Return the settings of a server program; `add_own` adds the flags that only it has.

    Raises Invalid: USAGE for flags that are wrong, and others for their values.
    """
    parser = FlagParser(f"nasmesh serve {program.removesuffix('_svc')}")
    parser.add_argument("--listen", metavar="HOST:PORT", help=f"serve here; port 0: any [{listen}]")
    parser.add_argument("--port-file", type=Path, metavar="PATH", help="write the address here once serving")
    parser.add_argument(
        "--scheduler", default="", metavar="HOST:PORT", help="work for this scheduler; more with commas [none]"
    )
    _add_agent_flags(parser, slots=slots)
    settings = read_settings()
    add_metrics_flag(parser, settings)
    add_server_flags(parser, settings)
    add_client_flags(parser, settings)
    if add_own is not None:
        add_own(parser)
    flags = parser.parse_args(argv)
    has_usual_place = flags.listen is None and flags.work_dir is None and not flags.name
    listen = listen if flags.listen is None else flags.listen
    parse_address(listen, field="listen")
    if flags.scheduler:
        parse_addresses(flags.scheduler, field="scheduler")
    return ServerSettings(
        program=program,
        listen=listen,
        port_file=flags.port_file,
        scheduler=flags.scheduler,
        store=flags.store or settings.store,
        work_dir=(flags.work_dir or settings.home / program).expanduser().absolute(),
        has_usual_place=has_usual_place,
        slots=_checked_slots(flags.slots),
        name=_checked_name(flags.name),
        labels=_labels(flags.label),
        insecure=flags.insecure,
        access=server_access(flags),
        own_access=client_access(flags),
        metrics=metrics_address(flags.metrics, insecure=flags.insecure),
        environment=settings,
        own=flags,
    )


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """The stand-alone agent's settings."""

    scheduler: str
    target: str
    store: str
    work_dir: Path
    slots: int
    name: str
    labels: dict[str, str]
    insecure: bool
    access: ClientAccess
    target_access: ClientAccess
    metrics: str
    environment: Settings


def parse_agent_flags(argv: Sequence[str] | None) -> AgentSettings:
    """Return the settings of the stand-alone agent; raises as parse_server_flags does."""
    parser = FlagParser("nasmesh agent", description="Works for a scheduler before a server of somebody else.")
    parser.add_argument(
        "--scheduler", required=True, metavar="HOST:PORT", help="work for this scheduler; more with commas"
    )
    parser.add_argument("--target", required=True, metavar="HOST:PORT", help="drive the server at this address")
    parser.add_argument("--target-tls", action="store_true", help="speak TLS to the target too, even on this machine")
    _add_agent_flags(parser, slots=1)
    settings = read_settings()
    add_metrics_flag(parser, settings)
    add_client_flags(parser, settings)
    flags = parser.parse_args(argv)
    parse_addresses(flags.scheduler, field="scheduler")
    parse_address(flags.target, field="target")
    name = _checked_name(flags.name) or default_name("agent", flags.target)
    access = client_access(flags)
    # A server beside the agent is most often bare; one elsewhere never is, unless --insecure says so.
    target_bare = is_loopback(parse_address(flags.target)[0]) and not flags.target_tls
    return AgentSettings(
        scheduler=flags.scheduler,
        target=flags.target,
        store=flags.store or settings.store,
        work_dir=(flags.work_dir or settings.home / "agents" / name).expanduser().absolute(),
        slots=_checked_slots(flags.slots),
        name=name,
        labels=_labels(flags.label),
        insecure=flags.insecure,
        access=access,
        target_access=NO_CLIENT_ACCESS if target_bare else access,
        metrics=metrics_address(flags.metrics, insecure=flags.insecure),
        environment=settings,
    )


def default_name(program: str, address: str) -> str:
    """Return the agent id of a program at an address on this host, within the grammar of agent ids."""
    port = parse_address(address)[1]
    text = f"{platform.node()}-{program}-{port}".lower()
    return re.sub(r"[^a-z0-9.-]", "-", text).strip(".-")[-63:].lstrip(".-")


def _add_agent_flags(parser: argparse.ArgumentParser, *, slots: int) -> None:
    parser.add_argument("--store", default="", metavar="URL", help="object store [NASMESH_STORE or dir:{home}/objects]")
    parser.add_argument("--work-dir", type=Path, metavar="PATH", help="keep state here [below NASMESH_HOME]")
    parser.add_argument("--slots", type=int, default=slots, metavar="N", help=f"jobs at once [{slots}]")
    parser.add_argument("--name", default="", metavar="ID", help="agent id [host-program-port]")
    parser.add_argument("--label", action="append", default=[], metavar="K=V", help="label of the agent; may repeat")
    parser.add_argument("--insecure", action="store_true", help="serve and dial beyond this machine without TLS")


def _checked_slots(slots: int) -> int:
    if not 1 <= slots <= 1024:
        raise Invalid("SLOTS_INVALID", f"slots: {slots} is not between 1 and 1024", field="slots")
    return slots


def _checked_name(name: str) -> str:
    if name:
        ids.format_name("agents", name, field="name")
    return name


def _labels(given: Sequence[str]) -> dict[str, str]:
    labels: dict[str, str] = {}
    for text in given:
        match = _LABEL.fullmatch(text)
        if match is None:
            raise Invalid("LABEL_INVALID", f"label: {text[:80]!r} is not KEY=VALUE", field="label")
        labels[match[1]] = match[2]
    if len(labels) > _LABELS:
        raise Invalid("LABEL_INVALID", f"label: {len(labels)} labels are more than {_LABELS}", field="label")
    return labels
