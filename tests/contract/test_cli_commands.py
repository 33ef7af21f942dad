"""Every command of `nasmesh` against a served scheduler: what it prints, its JSON, its exit code, its errors."""
# ruff: noqa: ARG001 - fixtures that serve

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from clients.cli import failures
from clients.cli.commands import serve
from clients.cli.output import laid_out, print_table
from tests.builders.cli_runs import Run, fake_of_the_shell, runner
from tests.builders.fake_scheduler import EXAMPLES, FakeScheduler
from tests.fuzz.hostile_bombs import bombs

DIGITS = str(EXAMPLES / "digits.yaml")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeScheduler]:
    with fake_of_the_shell(monkeypatch, tmp_path / "home") as served:
        yield served


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(monkeypatch, capsys)


@pytest.fixture
def ended(fake: FakeScheduler, run: Run) -> FakeScheduler:
    assert run("search", "create", "-f", DIGITS, "--id", "one")[0] == 0
    fake.play("searches/one")
    return fake


def test_create_says_how_to_watch_and_json_is_the_search(fake: FakeScheduler, run: Run) -> None:
    code, out, _ = run("search", "create", "-f", DIGITS, "--id", "one")
    assert (code, out) == (0, "searches/one is created; watch it with: nasmesh search watch one\n")
    code, out, _ = run("search", "create", "-f", DIGITS, "--id", "two", "--json", "--set", "seed=9")
    assert json.loads(out)["spec"]["seed"] == "9"


def test_create_check_creates_nothing(fake: FakeScheduler, run: Run) -> None:
    code, out, _ = run("search", "create", "-f", DIGITS, "--check")
    assert (code, out) == (0, "the specification is right; nothing was created\n")
    assert fake.searches == {}


def test_create_wait_json_prints_one_object_and_lines_on_stderr(fake: FakeScheduler, run: Run, tmp_path: Path) -> None:
    fake.autoplay = True
    code, out, err = run(
        "search", "create", "-f", DIGITS, "--id", "one", "--wait", "--json", "--out", str(tmp_path / "o")
    )
    assert code == 0
    result = json.loads(out)
    assert result["search"] == "searches/one"
    assert result["state"] == "SEARCH_STATE_SUCCEEDED"
    assert result["testAccuracy"] == 0.978
    assert len(result["bestNetwork"]) == len("networks/") + 64
    assert all(Path(path).is_file() for path in result["paths"].values())
    assert {"model", "report", "plot", "figures"} <= set(result["paths"])
    assert "final trial 7 succeeded: test accuracy 97.80%" in err


def test_watch_of_a_failed_or_cancelled_search_exits_with_1(fake: FakeScheduler, run: Run) -> None:
    run("search", "create", "-f", DIGITS, "--id", "one")
    code, out, _ = run("search", "cancel", "one")
    assert (code, out) == (0, "searches/one is cancelled; 0 trials were scored\n")
    code, out, _ = run("search", "watch", "one")
    assert code == 1
    assert "searches/one cancelled after" in out


def test_watch_json_is_one_object_a_line(ended: FakeScheduler, run: Run) -> None:
    code, out, _ = run("search", "watch", "one", "--json", "--after", "2")
    assert code == 0
    sequences = [int(json.loads(line)["sequence"]) for line in out.splitlines()]
    assert sequences == sorted(sequences)
    assert json.loads(out.splitlines()[-1])["search"]["state"] == "SEARCH_STATE_SUCCEEDED"


def test_list_and_show(ended: FakeScheduler, run: Run) -> None:
    code, out, _ = run("search", "list")
    assert code == 0
    assert "one" in out
    assert "succeeded" in out
    assert json.loads(run("search", "list", "--json")[1])[0]["name"] == "searches/one"
    code, out, _ = run("search", "show", "one")
    assert "97.80%" in out
    assert "96.70%" in out
    shown = json.loads(run("search", "show", "searches/one", "--json")[1])
    assert len(shown["trialList"]) == 7


def test_best_writes_the_report(ended: FakeScheduler, run: Run, tmp_path: Path) -> None:
    out_dir = tmp_path / "out"
    code, out, _ = run("search", "best", "one", "--out", str(out_dir))
    assert code == 0
    for name in ("best.onnx", "report.md", "growth.png"):
        assert str(out_dir / name) in out
    assert "97.80%" in out
    assert json.loads(run("search", "best", "one", "--out", str(out_dir), "--json")[1])["parameters"] == 130500


def test_best_without_a_folder_says_which_and_writes_nothing(
    ended: FakeScheduler, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = run("search", "best", "one")
    assert code == 0
    assert "97.80%, scored once, by the final network" in out
    assert "nasmesh search best one --out DIR" in out
    told = json.loads(run("search", "best", "one", "--json")[1])
    assert (told["bestTrial"], told["testAccuracy"], told["paths"]) == ("searches/one/trials/7", 0.978, {})
    ended.searches["searches/one"].spec.evaluate.table = "tables/t"
    assert "nothing was trained" in run("search", "best", "one")[1]
    assert not [path for path in tmp_path.iterdir() if path.is_dir() and path.name != "home"]


def test_networks_are_listed_shown_exported_and_imported(ended: FakeScheduler, run: Run, tmp_path: Path) -> None:
    assert "21.5K" in run("network", "list")[1]
    assert json.loads(run("network", "show", f"{1:064x}", "--json")[1])["parameters"] == "21500"
    assert "1 cells, 6 branches" in run("network", "show", "searches/one/trials/1")[1]
    target = tmp_path / "net.onnx"
    code, out, _ = run("network", "export", "searches/one/trials/1", "-o", str(target), "--form", "model")
    assert code == 0
    assert target.read_bytes() == ended.model
    assert run("network", "export", "searches/one/trials/1", "-o", str(target))[0] == 5
    assert run("network", "export", "searches/one/trials/1", "-o", str(target), "--force")[0] == 0
    assert run("network", "export", "searches/one/trials/1", "-o", str(tmp_path / "no" / "x"))[0] == 2
    code, out, _ = run("network", "import", str(target))
    assert code == 0
    assert "key: networks/sha256/" in out
    assert os.listdir(tmp_path) == ["net.onnx"]


@pytest.mark.parametrize(
    ("content", "reason", "words"),
    [
        (b"a photograph, perhaps", "NOT_ONNX", "not an ONNX model"),
        (next(bomb for name, bomb in bombs() if name == "1000000 empty nodes"), "TOO_MANY", "of one kind in one place"),
    ],
    ids=["no network", "a bomb"],
)
def test_a_network_that_no_search_would_take_is_not_stored(
    fake: FakeScheduler, run: Run, tmp_path: Path, content: bytes, reason: str, words: str
) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    code, out, err = run("network", "import", str(path), "--json")
    error = json.loads(out)["error"]
    assert (code, error["reason"], error["field"]) == (2, reason, "file")
    assert err.startswith(f"error: file: {path} is not stored: ")
    assert words in err
    assert err.count("\n") == 1
    assert not fake.imported


def test_datasets_generators_agents_version(fake: FakeScheduler, run: Run) -> None:
    assert "datasets/digits" in run("dataset", "list")[1]
    assert json.loads(run("dataset", "list", "--json")[1])[0]["classes"] == 10
    assert "generators/nac" in run("generator", "list")[1]
    assert "iterations" in run("generator", "show", "nac")[1]
    assert json.loads(run("generator", "show", "generators/nac", "--json")[1])["settingsSchema"]
    assert "train 1" in run("agents")[1]
    assert json.loads(run("agents", "--json")[1])[0]["connected"] is True
    assert "journal sqlite, store directory, inner loop compiled" in run("version")[1]
    assert json.loads(run("version", "--json")[1])["scheduler"]["epoch"] == "3"


def test_a_table_in_a_pipe_has_a_row_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_table((">n", "words"), [("1", "x " * 300 + "end"), ("22", "")], empty="none")
    assert capsys.readouterr().out == " n  words\n 1  " + "x " * 300 + "end\n22\n"


def test_a_table_on_a_terminal_breaks_sentences_and_never_names() -> None:
    rows = [("name", "note"), ("searches/one", "a sentence of many words that does not fit")]
    assert laid_out(rows, (False, False), 80) == ["name          note", "searches/one  " + rows[1][1]]
    narrow = laid_out(rows, (False, False), 40)
    assert narrow[1:] == ["searches/one  a sentence of many words", "              that does not fit"]
    below = laid_out(rows, (False, False), 30)
    assert below[2:] == ["searches/one", "    a sentence of many words", "    that does not fit"]
    assert laid_out([("a", "x" * 30)], (True, False), 27) == ["a  " + "x" * 24, "   " + "x" * 6]


def test_lists_say_what_to_do_when_they_are_empty(fake: FakeScheduler, run: Run) -> None:
    assert "nasmesh search create -f SPEC" in run("search", "list")[1]
    assert run("search", "list", "--json")[1] == "[]\n"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("search", "show", "none"), 4, "there is no searches/none"),
        (("search", "show", "NONE"), 2, "search: 'NONE' is no id"),
        (("search", "create", "-f", "none.yaml"), 2, "none.yaml: cannot be read"),
        (
            ("search", "create", "-f", DIGITS, "--set", "train.epoch=1"),
            2,
            "train.epoch: there is no such field; did you",
        ),
        (("search", "create", "-f", DIGITS, "--out", DIGITS), 2, "is a file; name a folder"),
        (("search", "best", "none"), 4, "there is no searches/none"),
        (("search", "best", "none", "--int8"), 2, "--out: say which folder"),
        (("generator", "show", "nas"), 4, "known: generators/nac"),
        (("network", "import", "none.onnx"), 2, "none.onnx: cannot be read"),
        (("network", "show", "xyz"), 2, "network: 'xyz' is no id of networks; use 64 hexadecimal"),
        (("up", "--set", "a=b"), 2, "--search: --out and --set need"),
        (("up", "--search", "none.yaml"), 2, "none.yaml: cannot be read"),
        (("search", "create"), 2, "missing option '--file'"),
        (("serch",), 2, "no such command"),
        (("serve", "trian"), 2, "scheduler, generate, train, evaluate"),
    ],
)
def test_wrong_input_is_one_sentence_and_an_exit_code(
    fake: FakeScheduler, run: Run, arguments: tuple[str, ...], code: int, words: str
) -> None:
    found, out, err = run(*arguments)
    assert found == code
    assert words in err.replace("\n", " ")
    assert "Traceback" not in out + err
    assert out == ""


def test_a_taken_id_is_exit_code_5(fake: FakeScheduler, run: Run) -> None:
    run("search", "create", "-f", DIGITS, "--id", "one")
    fake.calls.clear()
    code, _, err = run("search", "create", "-f", DIGITS, "--id", "one")
    assert code == 5
    assert err.startswith("error: search_id: searches/one exists")


def test_nobody_there_is_exit_code_3_and_json_says_so_too(run: Run) -> None:
    code, out, err = run("search", "list", "--scheduler", "127.0.0.1:9", "--json")
    assert code == 3
    assert "no server answers at 127.0.0.1:9" in err
    assert "nasmesh up" in err
    assert json.loads(out)["error"]["reason"] == "UNREACHABLE"
    assert run("version", "--scheduler", "127.0.0.1:9")[0] == 0


def test_a_hundred_megabytes_of_junk_are_refused_unread(fake: FakeScheduler, run: Run, tmp_path: Path) -> None:
    junk = tmp_path / "junk.onnx"
    with junk.open("wb") as file:
        file.truncate(100 << 20)
    code, _, err = run("network", "import", str(junk))
    assert code == 2
    assert "100 MiB are more than the 64 MiB" in err
    assert fake.calls == []


def test_a_misspelt_setting_is_refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NASMESH_SHEDULER", "x")
    code, _, err = run("version")
    assert code == 2
    assert "NASMESH_SHEDULER: no such setting; did you mean NASMESH_SCHEDULER?" in err


def test_something_unexpected_goes_to_a_file_not_to_the_screen(
    fake: FakeScheduler, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr("clients.cli.commands.things.connect", broken)
    code, out, err = run("agents")
    assert code == 1
    assert "something unexpected happened" in err
    assert "secret detail" not in out + err
    log = next((tmp_path / "home" / "logs").glob("cli-*.log"))
    assert str(log) in err
    assert "secret detail" in log.read_text()


def test_serve_and_agent_become_the_program_with_its_own_flags(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    became: list[list[str]] = []

    def execv(_path: str, arguments: list[str]) -> None:
        became.append(arguments)

    monkeypatch.setattr(serve.os, "execv", execv)
    run("serve", "train", "--listen", "127.0.0.1:0", "--slots", "2")
    run("serve", "scheduler", "--help")
    run("agent", "--target", "127.0.0.1:1")
    assert became == [
        [sys.executable, "-m", "train_svc", "--listen", "127.0.0.1:0", "--slots", "2"],
        [sys.executable, "-m", "scheduler", "--help"],
        [sys.executable, "-m", "nasmesh.agent", "--target", "127.0.0.1:1"],
    ]


@pytest.mark.parametrize("group", [(), ("admin",), ("search",), ("network",), ("certs",)])
def test_a_group_without_a_command_is_its_help_and_no_error(run: Run, group: tuple[str, ...]) -> None:
    code, out, err = run(*group)
    assert (code, "Usage: " in out, "error" in err) == (2, True, False), err


def test_exit_codes_are_in_the_help_and_in_the_document(run: Run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    text = " ".join(out.split())
    document = (EXAMPLES.parent / "docs" / "cli.md").read_text()
    for number, meaning in failures.EXIT_CODES.items():
        assert f"{number} {meaning}" in text
        assert f"| {number} | {meaning} |" in document


def test_every_command_is_in_the_document(run: Run) -> None:
    document = (EXAMPLES.parent / "docs" / "cli.md").read_text()
    for command in ("up", "serve", "agent", "agents", "version"):
        assert f"`nasmesh {command}" in document
    for noun, verbs in {
        "search": ("create", "list", "show", "watch", "cancel", "best", "export"),
        "network": ("list", "show", "export", "import", "transform"),
        "dataset": ("list",),
        "generator": ("list", "show"),
    }.items():
        for verb in verbs:
            assert f"`nasmesh {noun} {verb}" in document
            assert run(noun, verb, "--help")[0] == 0


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['nasmesh', '--help']\n"
        "from clients.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = ('grpc', 'google.protobuf', 'onnx', 'torch', 'numpy', 'matplotlib', 'onnxruntime', 'yaml')\n"
        "print('HEAVY', [name for name in heavy if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("HEAVY []")


def test_ctrl_c_while_waiting_is_130_and_leaves_the_search_running(fake: FakeScheduler) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "clients.cli.main", "search", "create", "-f", DIGITS, "--id", "one", "--wait"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert "Ctrl-C leaves it running" in process.stdout.readline()
    assert "searches/one" in process.stdout.readline()  # it watches
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "Traceback" not in out + err
    assert "CancelSearch" not in fake.calls
