"""A pytest plugin: runs a whole session with a seeded bug in the program. `-p tests.sim.planting --plant 2`"""

import pytest

from tests.sim import bugs, seeded


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--plant", type=int, help="number of a seeded bug")


def pytest_configure(config: pytest.Config) -> None:
    patch = bugs.Patch()
    seeded.bug_of(config.getoption("--plant")).plant(patch)
    config.add_cleanup(patch.undo)
