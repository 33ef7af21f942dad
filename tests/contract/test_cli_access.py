"""`nasmesh certs` and `nasmesh token` on real files: one way to name the authority, and errors that say what to do."""

import json
from pathlib import Path

import pytest

from tests.builders.cli_runs import Run, runner


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Run the command as a person does, with a home of its own."""
    monkeypatch.setenv("NASMESH_HOME", str(tmp_path / "home"))
    return runner(monkeypatch, capsys)


def test_certs_when_the_directory_is_named_then_alike_for_all_and_home_without(run: Run, tmp_path: Path) -> None:
    for named, directory in (
        (("--dir", tmp_path / "a"), tmp_path / "a"),
        ((tmp_path / "b",), tmp_path / "b"),
        ((), tmp_path / "home" / "certs"),
    ):
        code, out, err = run("certs", "init", *named, "--json")
        assert (code, json.loads(out)["ca"]) == (0, str(directory / "ca.crt")), err
    for flags in (("--dir", tmp_path / "a"), ()):
        code, out, err = run("certs", "issue", *flags, "--role", "client", "--name", "alice", "--json")
        assert code == 0, err
    assert len(json.loads(run("certs", "show", "--json")[1])) == 3
    code, _, err = run("certs", "init", tmp_path / "c", "--dir", tmp_path / "d")
    assert (code, (tmp_path / "c").exists(), (tmp_path / "d").exists()) == (2, False, False), err


def test_files_when_they_are_missing_then_the_flag_the_setting_and_the_command_are_named(
    run: Run, tmp_path: Path
) -> None:
    assert run("certs", "init", "--dir", tmp_path / "certs")[0] == 0
    none, ca = tmp_path / "none", tmp_path / "certs" / "ca.crt"
    for arguments, setting, command in (
        (("search", "list", "--ca-file", none), "--ca-file or NASMESH_CA_FILE", "nasmesh certs init"),
        (
            ("search", "list", "--ca-file", ca, "--token-file", none),
            "--token-file or NASMESH_TOKEN_FILE",
            "nasmesh token create",
        ),
        (
            ("search", "list", "--ca-file", ca, "--cert-file", none, "--key-file", none),
            "--cert-file or NASMESH_CERT_FILE",
            "nasmesh certs issue",
        ),
        (("certs", "issue", "--dir", none, "--role", "client", "--name", "a"), "--dir,", "nasmesh certs init"),
    ):
        code, _, err = run(*arguments)
        assert (code, str(none) in err, setting in err, command in err) == (2, True, True, True), err
        assert err.count("\n") == 1


def test_tokens_when_there_are_none_then_says_where_it_looked(run: Run, tmp_path: Path) -> None:
    assert run("token", "list", "--tokens", tmp_path / "none.json")[1] == f"no tokens in {tmp_path / 'none.json'}\n"
    made = run("token", "create", "--name", "alice", "--scope", "client:read", "--json")
    assert json.loads(made[1])["token"]
    assert [row["name"] for row in json.loads(run("token", "list", "--json")[1])] == ["alice"]


def test_certs_init_when_done_again_then_nothing_changes_and_it_says_how_to_renew(run: Run, tmp_path: Path) -> None:
    where = tmp_path / "certs"
    assert run("certs", "init", where)[0] == 0
    before = {path.name: path.read_bytes() for path in where.iterdir()}
    code, _, err = run("certs", "init", where)
    assert (code, "nasmesh certs issue --role server" in err) == (2, True), err
    assert {path.name: path.read_bytes() for path in where.iterdir()} == before


def test_certs_init_when_it_was_killed_in_the_middle_then_goes_on_with_its_key(run: Run, tmp_path: Path) -> None:
    where = tmp_path / "certs"
    assert run("certs", "init", where)[0] == 0
    key = (where / "ca.key").read_bytes()
    for rest in where.iterdir():
        if rest.name != "ca.key":
            rest.unlink()
    code, _, err = run("certs", "init", where)
    assert (code, (where / "ca.key").read_bytes() == key) == (0, True), err
    assert run("certs", "issue", "--dir", where, "--role", "client", "--name", "alice")[0] == 0
    (where / "ca.crt").unlink()
    (where / "ca.key").write_bytes(b"rubbish")
    code, _, err = run("certs", "init", where)
    assert (code, str(where / "ca.key") in err, (where / "ca.crt").exists()) == (2, True, False), err


def test_token_when_its_file_cannot_be_written_then_is_good_for_nothing(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "none" / "alice.token"
    code, _, err = run("token", "create", "--name", "alice", "--scope", "admin", "--out", out)
    assert (code, str(out) in err) == (2, True), err
    assert [row["state"] for row in json.loads(run("token", "list", "--json")[1])] in ([], ["revoked"])
