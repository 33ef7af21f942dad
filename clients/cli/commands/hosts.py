"""`nasmesh hosts`: the machines of a mesh, with their servers, devices, slots, versions, labels, last sign of life."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import typer

from clients.cli.options import SCHEDULER, AsJson, Insecure, Scheduler, connect
from clients.cli.output import message_dict, print_json, print_table
from nasmesh.clock import SystemClock

if TYPE_CHECKING:
    from nasmesh.v1 import job_pb2
    from nasmesh.v1.scheduler_service_pb2 import Agent

_GIB = 1 << 30
# Agents speak at least every ten seconds.
_RECENT_S = 15.0


class Host(NamedTuple):
    """One machine: agents that say the same name and dial in from the same address."""

    name: str
    address: str
    agents: "Sequence[Agent]"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("hosts")(hosts)


def hosts(scheduler: Scheduler = SCHEDULER, as_json: AsJson = False, insecure: Insecure = False) -> None:
    """List the machines whose servers work for the scheduler, or have since it started."""
    with connect(scheduler, insecure=insecure) as client:
        found = grouped(client.agents())
        version = client.server_info().version
    if as_json:
        print_json([_record(host, version) for host in found])
        return
    now = SystemClock().wall()
    print_table(
        ("host", "address", "servers", ">at work", "devices", "version", "last seen", "labels"),
        [_row(host, version, now) for host in found],
        empty="no host has connected yet; on one: nasmesh serve train --scheduler HOST:PORT --token-file FILE",
    )


def grouped(agents: "Iterable[Agent]") -> list[Host]:
    """Return agents by machine, in the order of names."""
    found: dict[tuple[str, str], list[Agent]] = {}
    for agent in agents:
        # An agent of somebody else's need not say where it runs; by its name it is still told apart.
        found.setdefault((agent.host or agent.name.rpartition("/")[2], agent.address), []).append(agent)
    return [Host(*place, found[place]) for place in sorted(found)]


def _row(host: Host, version: str, now: float) -> tuple[str, ...]:
    seen = now - max(agent.last_seen_time.ToMicroseconds() for agent in host.agents) / 1e6
    if any(agent.connected for agent in host.agents) and seen < _RECENT_S:
        when = "now"
    else:
        # Here, not above: messages are imported with a client.
        from clients.cli.display.view import format_duration

        when = f"{format_duration(max(0.0, seen))} ago"
    versions = sorted({agent.version for agent in host.agents if agent.version})
    labels = sorted({f"{key}={value}" for agent in host.agents for key, value in agent.labels.items()})
    return (
        host.name,
        host.address or "?",
        "; ".join(_server(agent) for agent in host.agents),
        str(sum(len(agent.attempts) for agent in host.agents)),
        _devices(host),
        ", ".join(one if one == version else f"{one} (scheduler: {version})" for one in versions) or "?",
        when,
        " ".join(labels),
    )


def _server(agent: "Agent") -> str:
    """Return what an agent's server does: "train 2", or "train 2 (draining)"."""
    slots = ", ".join(f"{kind} {count}" for kind, count in _slots(agent).items())
    state = _state(agent)
    return slots if state == "connected" else f"{slots} ({state})"


def _slots(agent: "Agent") -> dict[str, int]:
    from nasmesh.v1 import search_pb2

    prefix = "TASK_KIND_"
    return {search_pb2.TaskKind.Name(one.kind).removeprefix(prefix).lower(): one.slots for one in agent.slots}


def _state(agent: "Agent") -> str:
    return "away" if not agent.connected else "draining" if agent.draining else "connected"


def _devices(host: Host) -> str:
    """Return the GPUs of a machine, alike ones counted; its processor where there is none."""
    known = _devices_of(host)
    gpus: dict[str, int] = {}
    for device in known:
        if device.id != "cpu":
            text = f"{device.model} {device.memory_bytes / _GIB:.0f} GiB"
            gpus[text] = gpus.get(text, 0) + 1
    if gpus:
        return ", ".join(f"{count} x {text}" for text, count in gpus.items())
    return ", ".join(f"{device.model or device.id} {device.memory_bytes / _GIB:.0f} GiB" for device in known)


def _devices_of(host: Host) -> "list[job_pb2.Device]":
    """Return a machine's devices, each once: all of its servers name them."""
    return list({device.id: device for agent in host.agents for device in agent.server.devices}.values())


def _record(host: Host, version: str) -> dict[str, object]:
    return {
        "host": host.name,
        "address": host.address,
        "connected": any(agent.connected for agent in host.agents),
        "lastSeenTime": max(host.agents, key=_last_seen).last_seen_time.ToJsonString(),
        "devices": [message_dict(device) for device in _devices_of(host)],
        "servers": [
            {
                "agent": agent.name,
                "state": _state(agent),
                "slots": _slots(agent),
                "atWork": len(agent.attempts),
                "engine": agent.server.engine,
                "version": agent.version,
                "isSchedulersVersion": agent.version == version,
                "labels": dict(agent.labels),
                "lastSeenTime": agent.last_seen_time.ToJsonString(),
            }
            for agent in host.agents
        ],
    }


def _last_seen(agent: "Agent") -> int:
    return agent.last_seen_time.ToMicroseconds()
