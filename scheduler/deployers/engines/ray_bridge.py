"""`python -m scheduler.deployers.engines.ray_bridge ADDRESS NAMESPACE`: talks to a Ray cluster for the deployer.

A process of its own, as Ray's client library ends the process that loses its cluster. Requests and answers are lines of
JSON on standard input and output: {"do": "start" | "stop" | "kill" | "list", …} → {"ok": …} or {"down": sentence}.
"""

import json
import logging
import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any, TextIO

import ray
from ray import exceptions
from ray.util import list_named_actors

from scheduler.deployers.engines.ray_server import ENDED, RUNNING, ServerActor

PENDING = "pending"
_ANSWER_S = 2.0
_SOON_S = 0.3
_SHOWN = 300


class Bridge:
    """One connection to one cluster."""

    def __init__(self, address: str, namespace: str) -> None:
        """Connect; raises what Ray raises."""
        self._namespace = namespace
        self._handles: dict[str, Any] = {}
        self._asked: dict[str, Any] = {}
        self._ran: set[str] = set()
        ray.init(
            address=address or "auto",
            namespace=namespace,
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=False,
        )

    def answer(self, request: Mapping[str, Any]) -> object:
        """Do what is asked and return what there is to say."""
        match request["do"]:
            case "start":
                self._start(request)
            case "stop":
                self._stop(request["name"], request["grace_s"])
            case "kill":
                self._kill(request["name"])
            case _:
                return self._list(request["prefix"], request["wanted"])
        return None

    def _start(self, request: Mapping[str, Any]) -> None:
        wanted = dict(request["wanted"])
        options = {
            "name": request["name"],
            "namespace": self._namespace,
            "lifetime": "detached",
            "get_if_exists": True,
            "max_restarts": 0,
            "max_concurrency": 4,
            "num_cpus": wanted.pop("CPU", 0),
            "num_gpus": wanted.pop("GPU", 0),
            "memory": wanted.pop("memory", None),
            "resources": wanted,
        }
        actor = ray.remote(ServerActor).options(**options)
        self._handles[request["name"]] = actor.remote(request["command"], request["environment"])

    def _stop(self, name: str, grace_s: float) -> None:
        if (handle := self._handle(name)) is None:
            return
        if name not in self._ran:
            self._ask([name], _SOON_S)
        if name in self._ran:
            ray.wait([handle.stop.remote(grace_s)], timeout=_SOON_S)
        else:
            ray.kill(handle, no_restart=True)

    def _kill(self, name: str) -> None:
        if (handle := self._handle(name)) is not None:
            ray.kill(handle, no_restart=True)

    def _list(self, prefix: str, wanted: Mapping[str, float]) -> dict[str, tuple[str, str]]:
        known = {entry["name"] for entry in list_named_actors(all_namespaces=True) if self._is_ours(entry, prefix)}
        names = sorted(known | {name for name in self._handles if name.startswith(prefix)})
        found = self._ask([name for name in names if name in self._ran], _ANSWER_S)
        found |= self._ask([name for name in names if name not in self._ran], _SOON_S)
        why = _why_waits(wanted) if any(state == PENDING for state, _ in found.values()) else ""
        for name, (state, _) in list(found.items()):
            if state == PENDING:
                found[name] = (PENDING, why)
            elif state == ENDED:
                self._kill(name)
                self._forget(name)
        return found

    def _is_ours(self, entry: Mapping[str, str], prefix: str) -> bool:
        return entry["namespace"] == self._namespace and entry["name"].startswith(prefix)

    def _ask(self, names: Iterable[str], timeout_s: float) -> dict[str, tuple[str, str]]:
        """Ask actors how their servers stand; those that never answered are not there yet."""
        found = {}
        for name in names:
            if (handle := self._handle(name)) is None:
                found[name] = (ENDED, "Ray knows it no more")
            elif name not in self._asked:
                self._asked[name] = handle.standing.remote()
        asked = [self._asked[name] for name in names if name in self._asked]
        ready = set(ray.wait(asked, num_returns=len(asked), timeout=timeout_s)[0]) if asked else set()
        for name in names:
            if name in found:
                continue
            if self._asked[name] in ready:
                found[name] = self._result(name, self._asked.pop(name))
            else:
                found[name] = (RUNNING, "its actor does not answer") if name in self._ran else (PENDING, "")
        return found

    def _result(self, name: str, answer: Any) -> tuple[str, str]:
        try:
            state, reason = ray.get(answer)
        except exceptions.ActorUnavailableError as error:
            return RUNNING, _sentence(error)
        except exceptions.RayActorError as error:
            return ENDED, _sentence(error)
        self._ran.add(name)
        return state, reason

    def _handle(self, name: str) -> Any:
        """Return an actor by its name; None: there is none."""
        if name not in self._handles:
            try:
                self._handles[name] = ray.get_actor(name, self._namespace)
            except ValueError:
                return None
        return self._handles[name]

    def _forget(self, name: str) -> None:
        self._handles.pop(name, None)
        self._asked.pop(name, None)
        self._ran.discard(name)


def _why_waits(wanted: Mapping[str, float]) -> str:
    """Return why a server waits: for room, or for a node that does not exist."""
    said = ", ".join(f"{name} {amount:g}" for name, amount in sorted(wanted.items()))
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if any(all(node.get(name, 0) >= amount for name, amount in wanted.items()) for node in nodes):
        return f"no node has room for {said} now"
    return f"none of {len(nodes)} nodes has {said}: it waits until one comes"


def _sentence(error: Exception) -> str:
    """Return the line of one of Ray's long errors that says why."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    why = [line for line in lines if "because" in line] or lines or [type(error).__name__]
    return why[-1][:_SHOWN]


def main() -> None:
    """Answer requests until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever Ray prints is no answer
    try:
        bridge = Bridge(sys.argv[1], sys.argv[2])
    except Exception as error:  # noqa: BLE001  Ray raises whatever it likes
        _send(answers, {"down": _sentence(error)})
        return
    for line in sys.stdin:
        try:
            _send(answers, {"ok": bridge.answer(json.loads(line))})
        except Exception as error:  # noqa: BLE001
            _send(answers, {"down": _sentence(error)})


def _send(answers: TextIO, answer: Mapping[str, object]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
