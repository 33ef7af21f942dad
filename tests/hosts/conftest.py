"""Tests on hosts of their own: a failure shows the logs of all of them; where there can be none, the reason."""

import os
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.hosts import scenario
from tests.hosts.fleet import Fleet, missing
from tests.hosts.partitions import LEASE_S

_HERE = Path(__file__).parent
_OPEN: list[Fleet] = []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and item.path.is_relative_to(_HERE):
        report.sections.extend(("logs of the hosts", fleet.logs()) for fleet in _OPEN)
    return report


def _check() -> None:
    """Skip where there can be no hosts, which never happens where CI is true."""
    reason = missing()
    if reason:
        assert os.environ.get("CI") != "true", reason
        pytest.skip(reason)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Generator[Fleet, None, None]:
    """One mesh for the tests of a module, with a server of each kind at work and a second that trains."""
    _check()
    with Fleet(tmp_path_factory.mktemp("fleet"), lease_s=LEASE_S, database=True) as running:
        _OPEN.append(running)
        try:
            scenario.fill(running)
            yield running
        finally:
            _OPEN.remove(running)
