"""Train servers with little memory: what fits none is infeasible with numbers, what fits another is trained there."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc

from nasmesh.client import read_spec
from nasmesh.rpc.channel import open_channel
from nasmesh.v1 import search_pb2
from nasmesh.v1.dispatch_service_pb2 import GetAttemptRequest
from nasmesh.v1.dispatch_service_pb2_grpc import DispatchServiceStub
from nasmesh.v1.scheduler_service_pb2 import GetDemandRequest
from nasmesh.v1.scheduler_service_pb2_grpc import SchedulerServiceStub
from nasmesh.v1.train_service_pb2 import TrainServiceGetServerRequest
from nasmesh.v1.train_service_pb2_grpc import TrainServiceStub
from tests.e2e.mesh import Mesh
from tests.e2e.specs import TINY

MIB = 2**20
SMALL, LARGE = "channels: [4, 8]", "channels: [4, 512]"
BOUND, LARGER, MUCH = 300 * MIB, 320 * MIB, 4096 * MIB
SEEN_S = 180.0


@contextmanager
def two_trainers(home: Path, *, second: int) -> Iterator[Mesh]:
    """Run a mesh with a train server of little memory, and one of this much."""
    flags: dict[str, tuple[str, ...]] = {
        name: ("--memory", str(memory), "--slots", "2", "--work-dir", str(home / name), "--name", name)
        for name, memory in (("train", BOUND), ("train-2", second))
    }
    with Mesh(home, arguments=flags) as mesh:
        mesh.start("train-2")
        with mesh.client() as client:
            trainers = {"agents/train", "agents/train-2"}
            wait_until(lambda: trainers <= {agent.name for agent in client.agents()}, "both are connected")
        yield mesh


def wait_until(condition: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + SEEN_S
    while not condition():
        assert time.monotonic() < until, f"not within {SEEN_S:g} s: {what}"
        threading.Event().wait(0.1)


def spec(mesh: Mesh, *options: str) -> search_pb2.SearchSpec:
    path = mesh.home / "tiny.yaml"
    path.write_text(TINY.replace(SMALL, LARGE))
    return read_spec(path, ["train.batchSize=1024", "parallelism=3", "seed=2", *options])


def test_search_when_some_networks_fit_no_server_then_they_are_infeasible_and_the_others_are_trained(
    tmp_path: Path,
) -> None:
    with two_trainers(tmp_path / "mesh", second=LARGER) as mesh, mesh.client() as client:
        client.create_search(spec(mesh, "budget.maxTrials=6"), search_id="short")
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
            assert (bound.metric, bound.max) == ("train_memory_bytes", LARGER), "the largest is named"
            assert trial.violation.value > bound.max
            assert trial.violation.needed_memory_bytes == trial.violation.value
            assert not trial.HasField("failure")
            assert trial.network.activations > max(other.network.activations for other in trained)
        for trial in trained:
            assert 0 < trial.predicted_memory_bytes <= LARGER
            assert 0 < trial.peak_memory_bytes < LARGER
        shown = mesh.nasmesh("search", "show", "short").stdout
        assert "train_memory_bytes is" in shown
        with grpc.insecure_channel(mesh.addresses["train"]) as channel:
            server = TrainServiceStub(channel).GetServer(TrainServiceGetServerRequest(), timeout=10).server
        assert [device.job_memory_bytes for device in server.devices if device.job_memory_bytes] == [BOUND]


def test_network_when_one_server_refuses_it_then_a_larger_one_trains_it_and_no_decision_differs_at_a_replay(
    tmp_path: Path,
) -> None:
    with two_trainers(tmp_path / "mesh", second=MUCH) as mesh, mesh.client() as client:
        # The larger one is known and takes no work, so that the small one is asked first, whatever starts first.
        client.drain_agent("agents/train-2")
        wanted = spec(mesh, "space.chain.maxLayers=1", "space.chain.channels=[512]", "budget.maxTrials=2")
        client.create_search(wanted, search_id="moved")
        with open_channel(mesh.addresses["scheduler"]) as channel:
            calls, attempts = SchedulerServiceStub(channel), DispatchServiceStub(channel)

            def is_refused() -> bool:
                demands = calls.GetDemand(GetDemandRequest()).demands
                return any(row.needed_memory_bytes > BOUND and row.queued for row in demands)

            wait_until(is_refused, "the small server refuses a training")
            client.undrain_agent("agents/train-2")
            for _ in client.watch("moved"):
                pass
            assert client.get_search("moved").state == search_pb2.SEARCH_STATE_SUCCEEDED
            first, second = (
                attempts.GetAttempt(GetAttemptRequest(task="moved-t1-train", attempt=number)).attempt
                for number in (1, 2)
            )
        assert (first.agent, second.agent) == ("agents/train", "agents/train-2")
        assert not first.HasField("failure"), "nothing failed"
        trials = list(client.list_trials("moved"))
        assert [trial.outcome for trial in trials] == [search_pb2.TRIAL_OUTCOME_SUCCEEDED] * 3
        assert all(BOUND < trial.predicted_memory_bytes < MUCH for trial in trials), trials
        mesh.stop("scheduler")
        done = mesh.nasmesh("replay", "moved", "--journal", str(mesh.home / "journal.db"), "--json")
        assert (done.code, json.loads(done.stdout)["differences"]) == (0, []), done.stdout + done.stderr
