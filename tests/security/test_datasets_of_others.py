"""Data sets that somebody else added: not seen, not used, not deleted, and their names are told to be taken."""

from pathlib import Path

import pytest

from tests.builders.access import make_mesh
from tests.builders.cli_runs import Run, runner
from tests.builders.data_files import write_csv
from tests.security.test_tokens import scheduling


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    monkeypatch.setenv("NASMESH_HOME", str(tmp_path / "home"))
    return runner(monkeypatch, capsys)


def test_each_owner_has_data_sets_of_their_own(run: Run, tmp_path: Path) -> None:
    mesh = make_mesh(tmp_path)
    scopes = {"alice": "client:write", "bob": "client:write", "rita": "client:read", "root": "admin"}
    tokens = {name: mesh.token(name, scope) for name, scope in scopes.items()}
    rows = [(index / 7, -index / 3, "ab"[index % 2]) for index in range(60)]
    path = write_csv(tmp_path / "rows.csv", ("u", "v", "label"), rows)
    with scheduling(mesh) as scheduler:

        def as_(who: str, *arguments: object) -> tuple[int, str, str]:
            place = ("--scheduler", scheduler.address, "--ca-file", mesh.authority.ca, "--token-file", tokens[who])
            return run(*arguments, *place)

        assert as_("alice", "dataset", "add", "rows", path)[0] == 0
        assert "owner        clients/alice" in as_("alice", "dataset", "show", "rows")[1]
        for who, seen in (("alice", True), ("bob", False), ("rita", False), ("root", True)):
            assert ("datasets/rows" in as_(who, "dataset", "list")[1]) is seen
        assert as_("bob", "dataset", "show", "rows")[0] == 4
        assert as_("bob", "dataset", "delete", "rows")[0] == 4
        code, _, err = as_("bob", "dataset", "add", "rows", path)
        assert (code, "taken by somebody else's data set; choose another name" in err) == (5, True), err
        code, _, err = as_("bob", "search", "--data", path)
        assert (code, "nasmesh dataset add NAME" in err) == (5, True), err
        assert as_("bob", "dataset", "add", "mine", path)[0] == 0
        code, _, err = as_("rita", "dataset", "add", "read", path)
        assert (code, "client:write" in err) == (1, True), err
        assert as_("root", "dataset", "delete", "rows")[0] == 0
        assert as_("alice", "dataset", "show", "rows")[0] == 4
