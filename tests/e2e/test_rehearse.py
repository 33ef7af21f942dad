"""`nasmesh rehearse` against the real thing: the same specification, the same networks, one after the other."""

import json
from pathlib import Path

from nasmesh.client import parse_spec
from nasmesh.v1 import search_pb2
from tests.e2e.toys import Toys

SPEC = """
data: { dataset: datasets/digits }
generator: { generator: generators/random }
space: { chain: { minLayers: 1, maxLayers: 3, kernels: [1, 3], channels: [4, 8], pooling: true } }
objectives: [{ metric: accuracy, goal: GOAL_MAXIMIZE }]
budget: { maxTrials: 12 }
parallelism: 1
train: { epochs: 1 }
seed: 9
"""


def test_rehearsal_when_trials_come_one_by_one_then_it_proposes_what_a_real_search_does(tmp_path: Path) -> None:
    """With one trial in flight every order of results is the same, so the generator must be asked the same."""
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC)
    with Toys(tmp_path / "mesh") as mesh:
        with mesh.client() as client:
            client.create_search(parse_spec(SPEC), search_id="real")
            for _ in client.watch("real"):
                pass
            assert client.get_search("real").state == search_pb2.SEARCH_STATE_SUCCEEDED
            real = [trial.network.name for trial in client.list_trials("real")]
        flags = ("-f", str(path), "--target", mesh.addresses["generate"], "--networks", "--json")
        done = mesh.nasmesh("rehearse", *flags, "--agents", "1,3")
        assert done.code == 0, done.stderr
        found = json.loads(done.stdout)["rehearsals"]
        assert [row["networks"] for row in found] == [real, real]
        assert [row["agents"] for row in found] == [1, 3]
        table = mesh.nasmesh("rehearse", *flags[:4], "--agents", "1,3").stdout.splitlines()
        assert table[0].split()[:3] == ["agents", "time", "speed-up"]
        assert [line.split()[0] for line in table[1:3]] == ["1", "3"]
