"""A train server with little memory: what does not fit is infeasible with numbers, the rest of the search goes on."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from nasmesh.client import read_spec
from nasmesh.v1 import search_pb2
from nasmesh.v1.train_service_pb2 import TrainServiceGetServerRequest
from nasmesh.v1.train_service_pb2_grpc import TrainServiceStub
from tests.e2e.mesh import Mesh
from tests.e2e.specs import TINY

MIB = 2**20
SMALL, LARGE = "channels: [4, 8]", "channels: [4, 512]"


@pytest.fixture
def short_of_memory(tmp_path: Path) -> Iterator[Mesh]:
    with Mesh(tmp_path / "mesh", arguments={"train": ("--memory", "300MiB", "--slots", "2")}) as mesh:
        yield mesh


def test_search_when_some_networks_do_not_fit_then_they_are_infeasible_and_the_others_are_trained(
    short_of_memory: Mesh,
) -> None:
    mesh = short_of_memory
    path = mesh.home / "tiny.yaml"
    path.write_text(TINY.replace(SMALL, LARGE))
    with mesh.client() as client:
        spec = read_spec(path, ["train.batchSize=1024", "budget.maxTrials=6", "parallelism=3", "seed=2"])
        client.create_search(spec, search_id="short")
        for _ in client.watch("short"):
            pass
        assert client.get_search("short").state == search_pb2.SEARCH_STATE_SUCCEEDED
        trials = list(client.list_trials("short"))
        infeasible = [trial for trial in trials if trial.outcome == search_pb2.TRIAL_OUTCOME_INFEASIBLE]
        trained = [trial for trial in trials if trial.outcome == search_pb2.TRIAL_OUTCOME_SUCCEEDED]
        assert len(infeasible) + len(trained) == len(trials)
        assert infeasible, "the bound is one"
        assert trained, "and not for all"
        for trial in infeasible:
            bound = trial.violation.constraint
            assert (bound.metric, bound.max) == ("train_memory_bytes", 300 * MIB)
            assert trial.violation.value > bound.max
            assert not trial.HasField("failure")
            assert trial.network.activations > max(other.network.activations for other in trained)
        for trial in trained:
            assert 0 < trial.predicted_memory_bytes <= 300 * MIB
            assert 0 < trial.peak_memory_bytes < 300 * MIB
    shown = mesh.nasmesh("search", "show", "short").stdout
    assert "train_memory_bytes is" in shown
    with grpc.insecure_channel(mesh.addresses["train"]) as channel:
        server = TrainServiceStub(channel).GetServer(TrainServiceGetServerRequest(), timeout=10).server
    assert [device.job_memory_bytes for device in server.devices if device.job_memory_bytes] == [300 * MIB]
