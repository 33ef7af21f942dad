"""Settings of every test run."""

import os
import signal
from collections.abc import Iterator

import pytest

from tests.builders.own_logs import logs_as_before
from tests.builders.postgres_server import PostgresServer, server

# Tests open sessions of their own; see nasmesh/model/runtime.py.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
# A shell that runs the tests in its background hands down that interrupts are ignored; what is tested is interrupted.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the switch between the version of a tier that runs for every change and its long one."""
    parser.addoption("--long", action="store_true", help="run the long version of the tiers that have one")
    parser.addoption("--first", type=int, default=0, help="number of the first mutant, to make a failing one again")
    parser.addoption("--count", type=int, default=0, help="how many mutants, instead of the tier's own number")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what the tiers counted: tests give it as `record_property("counts", line)`."""
    reports = [r for found in terminalreporter.stats.values() for r in found if getattr(r, "when", "") == "call"]
    for line in (
        value for report in reports for name, value in getattr(report, "user_properties", ()) if name == "counts"
    ):
        terminalreporter.write_line(str(line))


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """A PostgreSQL for the tests of one worker, each of which makes databases of its own."""
    with server(tmp_path_factory.mktemp("postgres")) as found:
        yield found


@pytest.fixture
def database(postgres_server: PostgresServer) -> str:
    """The URL of an empty database."""
    return postgres_server.create_next()


@pytest.fixture(autouse=True)
def own_logs() -> Iterator[None]:
    """Put the process's logging back after each test: a program that a test runs in this process configures it."""
    with logs_as_before():
        yield
