"""What a program's own parser makes of a command line, without running it."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import typer

import evaluate_svc.__main__
import generate_svc.__main__
import train_svc.__main__
from clients.cli.main import command as command_line
from nasmesh.agent.flags import parse_server_flags
from nasmesh.agent.program import Program
from nasmesh.settings import read_settings
from scheduler.__main__ import parse_flags
from scheduler.deployers.__main__ import parse_flags as parse_deployer_flags
from scheduler.journal.postgres_url import parse as parse_postgres
from tests.builders.deployments import Command

# Typer carries click within it; this is the root of its usage errors.
ClickError = typer.BadParameter.__mro__[2]
SERVERS: dict[str, Program] = {
    "generate": generate_svc.__main__.PROGRAM,
    "train": train_svc.__main__.PROGRAM,
    "evaluate": evaluate_svc.__main__.PROGRAM,
}


@functools.cache
def _command() -> Any:
    return command_line()


def understood(found: Command, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return what a command's own parser makes of it, in its environment; raises what that raises."""
    with monkeypatch.context() as patch:
        for name, value in found.environment.items():
            patch.setenv(name, value)
        settings = read_settings()  # refuses a NASMESH_… variable that nothing reads
        if found.program == "scheduler":
            options = parse_flags(found.words[2:], settings)
            if options.journal.startswith("postgresql"):
                parse_postgres(options.journal)
            return options
        if found.program == "deployer":
            return parse_deployer_flags(found.words[2:], settings)
        if found.program:
            program = SERVERS[found.program]
            return parse_server_flags(
                program.name,
                listen=program.listen,
                slots=program.slots,
                argv=list(found.words[2:]),
                add_own=program.add_flags,
            )
        words, here = list(found.words), _command()
        while words and words[0] in getattr(here, "commands", {}):
            here = here.commands[words.pop(0)]
        if here.context_settings.get("ignore_unknown_options"):
            return None  # a program with flags of its own
        return here.make_context("nasmesh", words)
