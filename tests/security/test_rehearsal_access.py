"""`rehearse` and `replay` before a generate server that asks who calls: known by the files that all commands take."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from generate_svc.service import GenerateServicer
from nasmesh.agent.targets import GENERATE
from nasmesh.rpc.server import Door, Service
from nasmesh.v1.generate_service_pb2_grpc import add_GenerateServiceServicer_to_server
from scheduler.admin import __main__ as admin
from scheduler.rehearsal import __main__ as rehearsal
from tests.builders import journals
from tests.builders.access import Mesh, make_mesh, serving
from tests.builders.specs import chains

SPEC = chains(trials=2, layers=2, channels=(2, 4))


@dataclass(frozen=True)
class Guarded:
    """A generate server with TLS and tokens, and who may call it."""

    address: str
    mesh: Mesh
    token: Path

    def flags(self) -> list[str]:
        return ["--ca-file", str(self.mesh.authority.ca), "--token-file", str(self.token)]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Guarded]:
    monkeypatch.setenv("NASMESH_HOME", str(tmp_path / "home"))
    mesh = make_mesh(tmp_path / "mesh")
    token = mesh.token("gpu", "agent")
    service = Service(GENERATE, add_GenerateServiceServicer_to_server, GenerateServicer())
    with serving("threads", [service], Door(mesh.access(tokens=True))) as running:
        yield Guarded(running.address, mesh, token)


def told(capsys: pytest.CaptureFixture[str], code: int) -> tuple[int, dict[str, object], str]:
    captured = capsys.readouterr()
    return code, json.loads(captured.out), captured.err


def test_rehearse_when_the_server_asks_for_a_token_then_flags_or_environment_show_it(
    server: Guarded, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(SPEC)
    arguments = ["-f", str(spec), "--target", server.address, "--json"]
    code, found, err = told(capsys, rehearsal.main([*arguments, *server.flags()]))
    assert (code, found["rehearsals"][0]["trials"]) == (0, 2), err  # type: ignore[index]
    code, _, err = told(capsys, rehearsal.main([*arguments, *server.flags()[:2]]))
    assert (code, "token" in err) == (3, True), err
    assert told(capsys, rehearsal.main(arguments))[0] == 3, "not in plain text"
    monkeypatch.setenv("NASMESH_CA_FILE", str(server.mesh.authority.ca))
    monkeypatch.setenv("NASMESH_TOKEN_FILE", str(server.token))
    assert told(capsys, rehearsal.main(arguments))[0] == 0
    monkeypatch.setenv("NASMESH_TLS_CERT", str(server.mesh.server.cert))
    monkeypatch.setenv("NASMESH_TLS_KEY", str(server.mesh.server.key))
    without_target = [*arguments[:2], "--json"]
    assert told(capsys, rehearsal.main(without_target))[0] == 0, "the server that is started here speaks plain text"


def test_replay_when_a_credential_is_wrong_then_named(
    server: Guarded, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = tmp_path / "journal.db"
    journals.ended(journal)
    arguments = ["replay", "s", "--journal", str(journal), "--target", server.address, "--json"]
    code, found, _ = told(capsys, admin.main([*arguments, *server.flags()]))
    assert (code, found["error"]["reason"]) == (3, "GENERATOR_ABSENT"), "asked, and it has no such generator"  # type: ignore[index]
    code, _, err = told(capsys, admin.main([*arguments, "--ca-file", str(tmp_path / "none.crt")]))
    assert (code, err.startswith("error: ca-file: ")) == (2, True), err
    code, _, err = told(capsys, admin.main([*arguments, "--token-file", str(server.token)]))
    assert (code, "add --ca-file" in err) == (2, True), err
