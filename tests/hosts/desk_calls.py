"""Speaks with tests.hosts.desk, which runs on a host that this machine's own network does not reach."""

import json
import queue
import sys
import threading
from collections.abc import Iterator
from typing import Any

from tests.builders.netns import Host

_ANSWER_S = 240.0


class RefusedError(AssertionError):
    """The scheduler said no; `reason` is its own."""

    def __init__(self, reason: str, text: str) -> None:
        """Hold the reason."""
        super().__init__(f"{reason}: {text}")
        self.reason = reason


class Desk:
    """Somebody's laptop. One thing is done at a time."""

    def __init__(self, host: Host, scheduler: str) -> None:
        """Start the program there; it ends with its host."""
        self.host = host
        command = [sys.executable, "-m", "tests.hosts.desk", scheduler, str(host.home)]
        self._program = host.popen(command)
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def create(self, search_id: str, spec: str, *changes: str) -> None:
        """Create a search from YAML text and changes of it, PATH=VALUE."""
        path = self.host.files / f"{search_id}.yaml"
        path.write_text(spec)
        self._call(do="create", id=search_id, spec=str(self.host.home / path.name), set=list(changes))

    def watch(self, search_id: str) -> Iterator[dict[str, Any]]:
        """Yield a search's changes until it has ended; it must have succeeded."""
        self._say(do="watch", id=search_id)
        while "change" in (line := self._hear()):
            yield line["change"]
        state, reason = self._done(line)
        assert state == "SEARCH_STATE_SUCCEEDED", reason

    def trials(self, search_id: str) -> list[dict[str, Any]]:
        """Return a search's trials: what of them is the same whoever did the work."""
        found = self._call(do="trials", id=search_id)
        assert isinstance(found, list)
        return found

    def agents(self) -> dict[str, dict[str, Any]]:
        """Return the agents by name."""
        found = self._call(do="agents")
        assert isinstance(found, list)
        return {agent["name"]: agent for agent in found}

    def _call(self, **request: object) -> object:
        self._say(**request)
        return self._done(self._hear())

    def _say(self, **request: object) -> None:
        stdin = self._program.process.stdin
        assert stdin is not None
        stdin.write(json.dumps(request) + "\n")
        stdin.flush()

    def _hear(self) -> dict[str, Any]:
        line = self._lines.get(timeout=_ANSWER_S)
        assert line, f"the desk has ended: {self._program.process.poll()}"
        found = json.loads(line)
        assert isinstance(found, dict)
        return found

    def _done(self, line: dict[str, Any]) -> Any:
        if "error" in line:
            raise RefusedError(line["error"], line["text"])
        return line["done"]

    def _read(self) -> None:
        stdout = self._program.process.stdout
        assert stdout is not None
        for line in stdout:
            self._lines.put(line)
        self._lines.put("")
