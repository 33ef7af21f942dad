"""A search whose generator is a user's program, shut in: `nasmesh serve generate --program`."""

from pathlib import Path

import pytest

from nasmesh.client import read_spec
from nasmesh.v1 import search_pb2
from tests.builders.privileges import needs_root
from tests.e2e.mesh import ROOT, Mesh
from tests.e2e.specs import TINY

PROGRAM = ROOT / "examples" / "generators" / "climb.py"


@pytest.mark.e2e
@needs_root
def test_a_users_program_leads_a_search_to_its_end(tmp_path: Path) -> None:
    arguments = {"generate": ("--program", str(PROGRAM), "--program-format", "json")}
    with Mesh(tmp_path / "mesh", arguments=arguments) as mesh, mesh.client() as client:
        path = tmp_path / "spec.yaml"
        path.write_text(TINY)
        changes = ["generator.generator=generators/climb", "generator.settings.changes=2", "budget.maxTrials=4"]
        client.create_search(read_spec(path, changes), search_id="own")
        for _ in client.watch("own"):
            pass
        search = client.get_search("own")
        assert search.state == search_pb2.SEARCH_STATE_SUCCEEDED, search.reason
        trials = [trial for trial in client.list_trials("own") if not trial.final]
        assert len(trials) == 4
        assert all(trial.outcome == search_pb2.TRIAL_OUTCOME_SUCCEEDED for trial in trials)
        assert trials[0].note == "a random start"
        assert any("from a network that reached" in trial.note for trial in trials)
