"""The command line against the real scheduler program with no server connected: what it answers and refuses."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from clients.cli.processes import LocalMesh, Program
from nasmesh.client import Client, parse_spec
from nasmesh.errors import Invalid
from tests.builders.cli_runs import Run, runner
from tests.builders.data_files import write_csv, write_folder
from tests.builders.fake_scheduler import EXAMPLES


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home = tmp_path_factory.mktemp("home")
    with LocalMesh(home, [Program("scheduler", "scheduler", 0)], True, print) as mesh:
        yield mesh.addresses["scheduler"]


@pytest.fixture
def run(scheduler: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    monkeypatch.setenv("NASMESH_HOME", str(tmp_path))
    monkeypatch.setenv("NASMESH_SCHEDULER", scheduler)
    return runner(monkeypatch, capsys)


def test_an_empty_mesh_answers_every_list(run: Run) -> None:
    assert json.loads(run("version", "--json")[1])["scheduler"]["journal"] == "sqlite"
    for arguments in (("search", "list"), ("network", "list"), ("generator", "list"), ("agents",)):
        code, out, _ = run(*arguments, "--json")
        assert (code, json.loads(out)) == (0, [])


def test_a_search_without_its_generator_says_what_to_start(run: Run) -> None:
    code, _, err = run("search", "create", "-f", str(EXAMPLES / "digits.yaml"))
    assert code == 3
    assert "no connected server offers generators/nac. Offered now: none." in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("data.dataset=datasets/digit", "data.dataset"),
        ("budget.maxIterations=-1", "budget"),
        ("objectives.0.metric=acuracy", "accuracy"),
        ("train.epochs=-3", "train"),
        ("space.envelope.stages=[]", "stage"),
    ],
)
def test_what_the_scheduler_refuses_is_told_with_its_field(run: Run, override: str, words: str) -> None:
    code, out, err = run("search", "create", "-f", str(EXAMPLES / "digits.yaml"), "--set", override)
    assert code in (2, 4)
    assert words in err
    assert "Traceback" not in out + err


def test_a_data_set_of_ones_own_is_added_shown_and_deleted(run: Run, tmp_path: Path) -> None:
    write_folder(tmp_path / "birds", ("owl", "wren"), each=15)
    code, out, _ = run("dataset", "add", "birds", str(tmp_path / "birds"), "--check", "--json")
    assert (code, json.loads(out)["stored"], json.loads(out)["classNames"]) == (0, False, ["owl", "wren"])
    assert run("dataset", "show", "birds")[0] == 4
    code, out, _ = run("dataset", "add", "birds", str(tmp_path / "birds"))
    assert code == 0
    assert "2: owl, wren" in out
    assert run("dataset", "add", "birds", str(tmp_path / "birds"))[0] == 0  # the same again is there already
    (tmp_path / "birds" / "owl" / "000.png").unlink()
    code, _, err = run("dataset", "add", "birds", str(tmp_path / "birds"))
    assert code == 5
    assert "has changed since it was added" in err
    (tmp_path / "birds" / "owl" / "001.png").write_bytes(b"rubbish")
    code, _, err = run("dataset", "add", "other", str(tmp_path / "birds"))
    assert code == 2
    assert "owl/001.png" in err
    code, out, _ = run("dataset", "add", "other", str(tmp_path / "birds"), "--skip-bad", "--json")
    assert (code, json.loads(out)["skipped"]) == (0, 1)
    names = {item["name"] for item in json.loads(run("dataset", "list", "--json")[1])}
    assert {"datasets/birds", "datasets/other", "datasets/digits"} <= names
    assert json.loads(run("dataset", "show", "birds", "--json")[1])["available"]
    assert run("dataset", "delete", "birds")[0] == 0
    assert run("dataset", "delete", "birds")[0] == 4
    assert run("dataset", "delete", "digits")[0] == 1


def test_the_same_data_from_another_place_is_there_already_and_other_names_for_it_are_told(
    run: Run, tmp_path: Path
) -> None:
    rows = [(index / 7, -index / 3, "ab"[index % 2]) for index in range(60)]
    write_csv(tmp_path / "rows.csv", ("warm", "cold", "label"), rows)
    write_csv(tmp_path / "copy.csv", ("warm", "cold", "label"), rows)
    code, out, _ = run("dataset", "add", "rows", tmp_path / "rows.csv")
    assert code == 0
    assert "columns      2: warm, cold" in out
    assert run("dataset", "add", "rows", tmp_path / "copy.csv")[0] == 0
    write_csv(tmp_path / "rows.csv", ("warm", "wet", "label"), rows)
    code, _, err = run("dataset", "add", "rows", tmp_path / "rows.csv")
    assert code == 5
    assert "its samples are the same, but classes, columns" in err
    code, _, err = run("dataset", "add", "digits", tmp_path / "rows.csv")
    assert code == 5
    assert "is built in; choose another name" in err


def test_names_in_data_are_shown_and_not_obeyed_by_terminals(run: Run, tmp_path: Path) -> None:
    write_folder(tmp_path / "odd", ("a\x1b]0;title\x07", "b\x9b31m"), each=15)
    code, out, _ = run("dataset", "add", "odd", tmp_path / "odd")
    assert (code, "2: a?]0;title?, b?31m" in out) == (0, True)
    (tmp_path / "odd" / "b\x9b31m" / "x\x1b[2J.png").write_bytes(b"rubbish")
    code, _, err = run("dataset", "add", "odd", tmp_path / "odd")
    assert (code, "b?31m/x?[2J.png" in err) == (2, True)
    assert json.loads(run("dataset", "show", "odd", "--json")[1])["classNames"] == ["a\x1b]0;title\x07", "b\x9b31m"]


def test_unknown_names_are_exit_code_4(run: Run) -> None:
    assert run("search", "show", "none")[0] == 4
    assert run("network", "show", "0" * 64)[0] == 4


def test_an_imported_object_is_stored_and_junk_is_not_sent(scheduler: str) -> None:
    with Client(scheduler) as client:
        ref = client.import_(b"some bytes that a search may name")
        assert client.import_(b"some bytes that a search may name") == ref
        with pytest.raises(Invalid):
            client.create_search(parse_spec("seed: 1"))
