"""What jobs need that run in the process of a test: a home of their own, one thread, and nothing left behind."""

from collections.abc import Iterator

import pytest

from nasmesh.store.memory import MemoryStore


@pytest.fixture
def job_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give jobs an empty home, and one thread, with which the same training has the same bits."""
    from train_svc import compute

    monkeypatch.setenv("NASMESH_HOME", str(tmp_path_factory.mktemp("home")))
    monkeypatch.setattr(compute, "_DEFAULT_THREADS", 1)


@pytest.fixture
def forgotten_data(job_home: None) -> Iterator[None]:  # noqa: ARG001 - it is set up first
    """As `job_home`, and data that was loaded is forgotten afterwards."""
    from nasmesh.data import load

    yield
    load.forget()


@pytest.fixture
def store() -> MemoryStore:
    """Return an empty store."""
    return MemoryStore()
