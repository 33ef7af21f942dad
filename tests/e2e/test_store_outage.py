"""The object store of a real mesh goes away and comes back: progress stops, the mesh does not, and nothing is lost."""

import time
from collections.abc import Callable
from pathlib import Path

from nasmesh.client import Client, read_spec
from nasmesh.v1 import search_pb2
from tests.e2e.mesh import ROOT, Mesh

_POLL_S = 0.1
_MOST_S = 90.0


def until(client: Client, seen: Callable[[], object]) -> None:
    limit = time.monotonic() + _MOST_S
    while not seen():
        assert time.monotonic() < limit, client.server_info()
        time.sleep(_POLL_S)


def test_store_when_it_goes_away_then_dispatch_is_held_and_goes_on_by_itself(tmp_path: Path) -> None:
    with Mesh(tmp_path / "home") as mesh, mesh.client() as client:
        spec = read_spec(ROOT / "examples" / "fixed.yaml", ["train.steps=20"])
        incoming = mesh.home / "objects" / ".incoming"
        incoming.rmdir()
        incoming.write_text("where objects are written there is no directory any more")
        created = client.create_search(spec)
        until(client, lambda: client.server_info().activity.store_outage)
        shown = mesh.nasmesh("top", "--once")
        assert "the object store is down" in shown.stdout
        assert client.get_search(created.name).state == search_pb2.SEARCH_STATE_RUNNING
        incoming.unlink()
        until(client, lambda: client.get_search(created.name).end_time.seconds)
        found = client.get_search(created.name)
        assert found.state == search_pb2.SEARCH_STATE_SUCCEEDED, found.reason
        doing = client.server_info().activity
        assert not doing.store_outage
        assert doing.failures["STORE_DOWN"] >= 3
        assert set(doing.failures) <= {"STORE_DOWN", "STORE_OUTAGE"}
        assert all(trial.outcome == search_pb2.TRIAL_OUTCOME_SUCCEEDED for trial in client.list_trials(created.name))
        assert (found.trials.failed, found.trials.lost) == (0, 0)
