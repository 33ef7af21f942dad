"""Settings of every test run."""

import os

import pytest

# Tests open sessions of their own; see nasmesh/model/runtime.py.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the switch between the version of a tier that runs for every change and its long one."""
    parser.addoption("--long", action="store_true", help="run the long version of the tiers that have one")
