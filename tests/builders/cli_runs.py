"""The `nasmesh` command run in this process, as a person at a shell would: exit code, standard output, errors."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from clients.cli import main
from tests.builders.fake_scheduler import FakeScheduler, running_fake

Run = Callable[..., tuple[int, str, str]]


@contextmanager
def fake_of_the_shell(monkeypatch: pytest.MonkeyPatch, home: Path) -> Iterator[FakeScheduler]:
    """Yield a fake scheduler that the environment names, as it names a home."""
    with running_fake() as (fake, address):
        monkeypatch.setenv("NASMESH_SCHEDULER", address)
        monkeypatch.setenv("NASMESH_HOME", str(home))
        yield fake


def runner(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return what runs the command with arguments."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["nasmesh", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main.main()
        told = capsys.readouterr()
        return int(ended.value.code or 0), told.out, told.err

    return call
