"""`nasmesh up`, the command behind `make run`: one search from start to report, and what an interruption leaves."""

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnxruntime
import psutil
import pytest

from nasmesh.client import Client
from nasmesh.v1 import search_pb2
from tests.e2e.mesh import ROOT, Finished, Mesh, clean_environment, command, kill_all, nasmesh, survivors
from tests.e2e.specs import NAC, TINY


def up(home: Path, *arguments: str) -> Finished:
    return nasmesh(clean_environment(home), "up", "--any-port", *arguments, timeout_s=120)


@contextmanager
def searches_of(home: Path) -> Iterator[list[search_pb2.Search]]:
    """Read what a mesh that is gone has left in its journal, with a scheduler of our own."""
    mesh = Mesh(home)
    try:
        mesh.start("scheduler")
        with mesh.client() as client:
            yield list(client.list_searches())
    finally:
        mesh.close()


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Finished]:
    """Return the folder in which one `nasmesh up --search` has run, and what it said."""
    folder = tmp_path_factory.mktemp("up")
    (folder / "spec.yaml").write_text(NAC)
    done = up(folder / "home", "--search", str(folder / "spec.yaml"), "--out", str(folder / "out"))
    assert done.code == 0, done.stdout + done.stderr
    return folder, done


def test_up_with_a_search_says_where_everything_is(first: tuple[Path, Finished]) -> None:
    folder, done = first
    for name in ("best.onnx", "report.md", "growth.png"):
        assert str(folder / "out" / name) in done.stdout
    assert re.search(r"test accuracy +\d+\.\d+%, scored once", done.stdout)
    assert "Traceback" not in done.stdout + done.stderr


def test_best_onnx_classifies_and_the_snippet_of_the_card_runs(first: tuple[Path, Finished]) -> None:
    out = first[0] / "out"
    session = onnxruntime.InferenceSession(str(out / "best.onnx"), providers=["CPUExecutionProvider"])
    logits = session.run(["logits"], {"x": np.zeros((3, 1, 8, 8), "float32")})[0]
    assert logits.shape == (3, 10)
    assert np.isfinite(logits).all()
    snippet = re.search(r"```python\n(.*?)```", (out / "card.md").read_text(), re.DOTALL)
    assert snippet is not None
    assert len(snippet[1].strip().splitlines()) == 5
    ran = subprocess.run([sys.executable, "-c", snippet[1]], cwd=out, capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert re.fullmatch(r"\[\d\]\n", ran.stdout)


def test_the_report_has_one_test_score_and_the_plot_of_growth(first: tuple[Path, Finished]) -> None:
    out = first[0] / "out"
    report = json.loads((out / "report.json").read_text())
    assert report["test"]["scored"] == 1
    assert 0 <= report["test"]["accuracy"] <= 1
    scores = [network["testAccuracy"] for network in report["networks"] if network["testAccuracy"] is not None]
    assert scores == [report["test"]["accuracy"]]
    assert f"{100 * report['test']['accuracy']:.2f}%" in (out / "report.md").read_text()
    plot = (out / "growth.png").read_bytes()
    assert plot.startswith(b"\x89PNG\r\n\x1a\n")
    assert len(plot) > 5000


def test_up_again_is_a_new_search_that_replaces_the_report(first: tuple[Path, Finished]) -> None:
    folder, _ = first
    before = json.loads((folder / "out" / "report.json").read_text())["search"]
    (folder / "tiny.yaml").write_text(TINY)
    done = up(folder / "home", "--search", str(folder / "tiny.yaml"), "--out", str(folder / "out"), "--json")
    assert done.code == 0, done.stderr
    after = json.loads(done.stdout)["search"]
    assert after != before
    assert json.loads((folder / "out" / "report.json").read_text())["search"] == after
    with searches_of(folder / "home") as found:
        assert [search.name for search in found] == [after, before]
        assert {search.state for search in found} == {search_pb2.SEARCH_STATE_SUCCEEDED}


@contextmanager
def started(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Start `nasmesh up`; whatever is left of it afterwards is killed."""
    process = subprocess.Popen(
        command("up", "--any-port", *arguments),
        env=clean_environment(folder / "home"),
        stdout=subprocess.PIPE,
        stderr=(folder / "stderr").open("w"),
        text=True,
        cwd=ROOT,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        kill_all([*_family(process), psutil.Process(process.pid)] if process.poll() is None else [])
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def await_training(process: subprocess.Popen[str]) -> None:
    """Return once the first training of the only search has made a step."""
    address = read_until(process, "mesh up: scheduler ").split("scheduler ")[1].split(",")[0]
    search = re.search(r"searches/[a-z0-9-]+", read_until(process, "searches/"))
    assert search is not None
    with Client(address) as client:
        for change in client.watch(search[0]):
            if change.progress.train.step > 0:
                return
    raise AssertionError("it ended without a step of training")


def read_until(process: subprocess.Popen[str], text: str) -> str:
    """Return the first line on standard output that holds the text."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return line
    raise AssertionError(f"it ended without saying {text!r}: {''.join(lines)}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_interrupted_while_it_trains_then_nothing_runs_on_and_nothing_is_lost(
    tmp_path: Path, number: signal.Signals
) -> None:
    (tmp_path / "spec.yaml").write_text(TINY)
    more = ["--set", "budget.maxTrials=3", "--set", "train.epochs=2000"]
    with started(tmp_path, "--search", str(tmp_path / "spec.yaml"), "--out", str(tmp_path / "out"), *more) as process:
        await_training(process)
        family = _family(process)
        assert len(family) >= 4
        process.send_signal(number)
        assert process.wait(30) == 130
        assert survivors(family) == []
    said = (tmp_path / "stderr").read_text()
    assert "is cancelled; what was measured is kept" in said
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()
    with searches_of(tmp_path / "home") as found:
        assert [search.state for search in found] == [search_pb2.SEARCH_STATE_CANCELLED]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_stopped_without_a_search_then_it_ends_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    with started(tmp_path) as process:
        read_until(process, "Ctrl-C stops it")
        family = _family(process)
        process.send_signal(number)
        assert process.wait(30) == 0
        assert survivors(family) == []
    assert "Traceback" not in (tmp_path / "stderr").read_text()


def test_up_killed_then_its_programs_end_by_themselves(tmp_path: Path) -> None:
    with started(tmp_path) as process:
        read_until(process, "Ctrl-C stops it")
        family = _family(process)
        process.kill()
        process.wait()
        assert survivors(family) == []


@pytest.mark.skipif(shutil.which("make") is None, reason="no make on this machine")
@pytest.mark.parametrize("dataset", ["digits", "fashion-mnist"])
def test_make_run_is_this_command_with_the_example_of_the_data_set(dataset: str) -> None:
    told = subprocess.run(
        ["make", "-n", "run", f"DATASET={dataset}", "OUT=somewhere"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert told.returncode == 0, told.stderr
    assert f"nasmesh up --any-port --search examples/{dataset}.yaml --out somewhere" in told.stdout
    assert (ROOT / "examples" / f"{dataset}.yaml").is_file()
