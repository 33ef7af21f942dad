"""`nasmesh admin` run in this process: exit code, standard output, standard error."""

from collections.abc import Callable

import pytest

from scheduler.admin.__main__ import main

Run = Callable[..., tuple[int, str, str]]


def runner(capsys: pytest.CaptureFixture[str]) -> Run:
    """Return what runs the program with arguments as `nasmesh admin` does."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()  # what was logged before is not the program's
        code = main([str(argument) for argument in arguments])
        told = capsys.readouterr()
        return code, told.out, told.err

    return call
