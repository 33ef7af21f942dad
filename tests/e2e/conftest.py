"""End-to-end tests run real processes: all carry the mark, and a failure shows the logs of the meshes that run."""

from collections.abc import Generator
from pathlib import Path

import pytest

from tests.e2e.mesh import OPEN, Mesh

_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(_HERE):
            item.add_marker(pytest.mark.e2e)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and item.path.is_relative_to(_HERE):
        for mesh in OPEN:
            report.sections.append((f"logs of {mesh.home}", mesh.logs()))
    return report


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Generator[Mesh, None, None]:
    """One mesh for the tests of a module."""
    with Mesh(tmp_path_factory.mktemp("mesh")) as running:
        yield running
