"""What the running programs are: light ones stay light, and two schedulers never share a journal."""

import re
import signal
from pathlib import Path

import psutil
import pytest

from tests.e2e.mesh import Mesh, clean_environment, nasmesh
from tests.e2e.specs import TINY

HEAVY = ("torch", "onnx", "onnxruntime", "numpy", "sklearn", "scipy", "matplotlib")


def mapped(pid: int) -> set[str]:
    """Return which heavy packages have native code mapped into a process."""
    maps = Path(f"/proc/{pid}/maps").read_text()
    return set(re.findall(rf"/site-packages/({'|'.join(HEAVY)})/", maps))


@pytest.fixture(scope="module")
def used(mesh: Mesh) -> Mesh:
    """A mesh through which a whole search has gone, so that everything is loaded that ever will be."""
    spec = mesh.home / "spec.yaml"
    spec.write_text(TINY)
    done = mesh.nasmesh("search", "create", "-f", str(spec), "--wait")
    assert done.code == 0, done
    return mesh


def test_the_scheduler_has_no_torch_onnx_or_numpy(used: Mesh) -> None:
    assert mapped(used.pid("scheduler")) == set()
    assert used.children("scheduler") == []


@pytest.mark.parametrize("program", ["generate", "train", "evaluate"])
def test_no_server_has_torch_itself(used: Mesh, program: str) -> None:
    assert "torch" not in mapped(used.pid(program))


def test_torch_is_in_the_children_of_train_and_nowhere_else(used: Mesh) -> None:
    assert any("torch" in mapped(child.pid) for child in used.children("train"))
    for program in ("generate", "evaluate"):
        assert all("torch" not in mapped(child.pid) for child in used.children(program))


def test_a_child_is_used_again_by_the_next_search(used: Mesh) -> None:
    def worker() -> psutil.Process:
        return min(used.children("train"), key=lambda child: child.create_time())

    before = worker()
    time_before = before.cpu_times().user
    again = ("--set", "cache=CACHE_MODE_REPEAT")  # else nothing is trained: the first search measured the same
    done = used.nasmesh("search", "create", "-f", str(used.home / "spec.yaml"), *again, "--wait")
    assert done.code == 0, done
    assert worker() == before
    assert before.cpu_times().user > time_before


def test_a_second_scheduler_on_the_same_journal_is_refused(used: Mesh) -> None:
    done = used.nasmesh("serve", "scheduler", "--listen", "127.0.0.1:0")
    assert done.code == 3
    assert "another scheduler uses it" in done.stderr
    assert "--journal" in done.stderr
    assert "Traceback" not in done.stderr
    with used.client() as client:
        assert client.server_info().epoch == 1


def test_a_second_server_in_the_same_work_directory_is_refused(used: Mesh) -> None:
    for program in ("generate", "train", "evaluate"):
        done = used.nasmesh("serve", program, "--listen", "127.0.0.1:0")
        assert (done.code, "--work-dir" in done.stderr, "Traceback" in done.stderr) == (3, True, False), program


def test_a_misspelt_variable_is_refused_by_every_program(tmp_path: Path) -> None:
    environment = clean_environment(tmp_path) | {"NASMESH_SCHEDULR": "127.0.0.1:7400"}
    for program in ("scheduler", "generate", "train", "evaluate"):
        done = nasmesh(environment, "serve", program, "--listen", "127.0.0.1:0")
        assert (done.code, "NASMESH_SCHEDULER" in done.stderr) == (2, True), program


def test_sigterm_ends_every_program_with_0(tmp_path: Path) -> None:
    with Mesh(tmp_path) as mesh:
        children = mesh.children("train")
        assert {name: mesh.stop(name, signal.SIGTERM) for name in ("evaluate", "train", "generate", "scheduler")} == {
            "evaluate": 0,
            "train": 0,
            "generate": 0,
            "scheduler": 0,
        }
        assert psutil.wait_procs(children, timeout=5)[1] == []
