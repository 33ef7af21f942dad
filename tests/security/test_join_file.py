"""A token's file that holds the servers' authority too: the one file that a new host needs."""

import json
from pathlib import Path

import pytest

from nasmesh.client import Client
from nasmesh.errors import Invalid, Unavailable
from nasmesh.rpc.access import ClientAccess
from nasmesh.rpc.channel import open_channel
from nasmesh.rpc.secret_files import write_secret
from nasmesh.rpc.tokens import split_file
from tests.builders.access import Authority, make_mesh
from tests.builders.cli_runs import Run, runner
from tests.security.test_tokens import scheduling


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    monkeypatch.setenv("NASMESH_HOME", str(tmp_path / "home"))
    return runner(monkeypatch, capsys)


def test_token_with_the_authority_then_nothing_else_is_needed(run: Run, tmp_path: Path) -> None:
    mesh = make_mesh(tmp_path)
    joint = tmp_path / "alice.token"
    made = ("--tokens", mesh.tokens, "--name", "alice", "--scope", "client:write", "--ca", mesh.authority.ca)
    code, _, err = run("token", "create", *made, "--out", joint)
    assert (code, joint.stat().st_mode & 0o777) == (0, 0o600), err
    assert split_file(joint.read_bytes()).authority == mesh.authority.ca.read_bytes()
    with scheduling(mesh) as scheduler:
        with Client(scheduler.address, access=ClientAccess(token=joint)) as client:
            assert list(client.list_searches()) == []
        code, out, err = run("search", "list", "--scheduler", scheduler.address, "--token-file", joint, "--json")
        assert (code, json.loads(out)) == (0, []), err
        # An authority that is named goes before the one in the file.
        other = Authority(tmp_path / "other").ca
        with (
            Client(scheduler.address, access=ClientAccess(ca=other, token=joint), patience_s=0) as client,
            pytest.raises(Unavailable) as caught,
        ):
            list(client.list_searches())
        assert caught.value.reason == "SERVER_UNTRUSTED"


def test_token_without_an_authority_is_sent_nowhere(run: Run, tmp_path: Path) -> None:
    mesh = make_mesh(tmp_path)
    bare = mesh.token("alice", "client:read")
    with pytest.raises(Invalid) as caught:
        open_channel("127.0.0.1:7400", access=ClientAccess(token=bare))
    assert (caught.value.reason, caught.value.field) == ("TOKEN_PLAINTEXT", "token-file")
    assert "--ca" in caught.value.message
    code, _, err = run("search", "list", "--token-file", bare)
    assert (code, "TLS only" in err, err.count("\n")) == (2, True, 1), err


@pytest.mark.parametrize("authority", [b"-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n", None])
def test_token_with_what_is_no_authority_is_refused(tmp_path: Path, authority: bytes | None) -> None:
    mesh = make_mesh(tmp_path)
    bare = mesh.token("alice", "client:read")
    wrong = tmp_path / "wrong.token"
    content = mesh.server.cert.read_bytes() if authority is None else authority
    write_secret(wrong, bare.read_bytes() + b"\n" + content, field="test", replace=True)
    with pytest.raises(Invalid) as caught:
        open_channel("127.0.0.1:7400", access=ClientAccess(token=wrong))
    assert caught.value.field == "token-file"
    assert bare.read_text().strip() not in caught.value.message


def test_create_with_what_is_no_authority_then_no_token_is_made(run: Run, tmp_path: Path) -> None:
    mesh = make_mesh(tmp_path)
    made = ("--tokens", mesh.tokens, "--name", "alice", "--scope", "client:write")
    for more, said in (
        (("--ca", mesh.authority.ca), "add --out"),
        (("--ca", mesh.server.cert, "--out", tmp_path / "a"), "is no authority's"),
        (("--ca", tmp_path / "none", "--out", tmp_path / "a"), str(tmp_path / "none")),
    ):
        code, _, err = run("token", "create", *made, *more)
        assert (code, said in err, err.count("\n")) == (2, True, 1), err
    assert json.loads(mesh.tokens.read_text())["tokens"] == []
    assert not (tmp_path / "a").exists()
