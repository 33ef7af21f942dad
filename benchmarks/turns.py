"""Contenders that take turns, each in a process of its own, with the environment that it would run in."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

import psutil

from benchmarks.report import Timing


class Contender:
    """A process that makes steps when told, and waits meanwhile. Its module's `main` calls `take_turns` in it."""

    def __init__(self, module: str, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start `python -m module arguments`, which becomes ready while others are started."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._about: dict[str, Any] | None = None

    def __enter__(self) -> "Contender":
        """Return this contender."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def about(self) -> dict[str, Any]:
        """What the process said of itself when it was ready; waits for that."""
        if self._about is None:
            self._about = json.loads(self._read())
        return self._about

    def steps(self, count: int) -> Timing:
        """Have so many steps made and return the time of one, its workers' processor time included."""
        assert self.about is not None
        assert self._process.stdin is not None
        self._process.stdin.write(f"{count}\n")
        self._process.stdin.flush()
        return Timing(*json.loads(self._read()))

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a contender ended with code {self._process.wait()}")
        return line


def take_turns(step: Callable[[], object], about: Mapping[str, Any]) -> None:
    """Make steps whenever the parent asks, until it closes the pipe."""
    print(json.dumps(dict(about)), flush=True)
    for line in sys.stdin:
        count = int(line)
        begin, spent = time.perf_counter(), _processor_s()
        for _ in range(count):
            step()
        passed = (time.perf_counter() - begin) / count, (_processor_s() - spent) / count
        print(json.dumps(passed), flush=True)


def _processor_s() -> float:
    """Return the processor time of this process and its workers, in seconds."""
    workers = [child.cpu_times() for child in psutil.Process().children(recursive=True)]
    return time.process_time() + sum(spent.user + spent.system for spent in workers)
