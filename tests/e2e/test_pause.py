"""Holding a real training and letting it go on: the same weights, to the last bit, as if nothing had happened."""

import math
from collections.abc import Callable

import pytest

from nasmesh.client import Client
from nasmesh.v1 import scheduler_service_pb2 as pb
from nasmesh.v1 import search_pb2
from tests.e2e.mesh import Mesh
from tests.e2e.test_kill import EPOCHS, Results, create, results, run

TRAINING = search_pb2.TRIAL_PHASE_TRAINING
QUEUED = search_pb2.TRIAL_PHASE_TRAIN_QUEUED


# A training tells where it is twice a second: this long, it is seen in its middle and held there on any machine.
TRAINING_S = 4.0


@pytest.fixture(scope="module")
def epochs(mesh: Mesh) -> int:
    """Return how many epochs take about TRAINING_S here."""
    run(mesh, "pilot", lambda _: True, lambda: None)
    with mesh.client() as client:
        took_s = client.get_trial("searches/pilot/trials/1").device_time_s
    return math.ceil(EPOCHS * max(1.0, TRAINING_S / took_s))


@pytest.fixture(scope="module")
def reference(mesh: Mesh, epochs: int) -> Results:
    """Return what the search gives when nobody holds it."""
    return run(mesh, "undisturbed", lambda _: True, lambda: None, epochs)


def trained_a_while(number: int) -> Callable[[pb.WatchSearchResponse], bool]:
    """Say yes to a progress mark of a training that is past its first epoch."""
    return lambda change: change.progress.trial.endswith(f"/{number}") and change.progress.train.epoch > 1.5


def wait_for(client: Client, search: str, seen: Callable[[pb.WatchSearchResponse], bool]) -> None:
    for change in client.watch(search):
        if seen(change):
            return
    raise AssertionError("the search ended before")


def hold(
    mesh: Mesh, search: str, epochs: int, let_go: Callable[[Client], None], taken: Callable[[Client], None]
) -> Results:
    """Take the first training away in its middle, check that its checkpoint is kept, let it go on to the end."""
    create(mesh, search, epochs)
    with mesh.client() as client:
        wait_for(client, search, trained_a_while(1))
        taken(client)
        trial = f"searches/{search}/trials/1"
        while client.get_trial(trial).phase != QUEUED:
            wait_for(client, search, lambda change: change.trial.phase == QUEUED)
        assert client.get_trial(trial).outcome == search_pb2.TRIAL_OUTCOME_UNSPECIFIED
        let_go(client)
        for _ in client.watch(search):
            pass
        assert client.get_search(search).state == search_pb2.SEARCH_STATE_SUCCEEDED
        return results(client, search)


def test_paused_in_the_middle_of_a_training_gives_the_same_weights(mesh: Mesh, epochs: int, reference: Results) -> None:
    def taken(client: Client) -> None:
        assert client.pause_search("held").state == search_pb2.SEARCH_STATE_PAUSED

    def let_go(client: Client) -> None:
        assert client.get_search("held").state == search_pb2.SEARCH_STATE_PAUSED
        assert client.resume_search("held").state == search_pb2.SEARCH_STATE_RUNNING

    assert hold(mesh, "held", epochs, let_go, taken) == reference
    assert attempts_resumed(mesh, "held-t1-train")


def test_drained_in_the_middle_of_a_training_gives_the_same_weights(
    mesh: Mesh, epochs: int, reference: Results
) -> None:
    def trainer(client: Client) -> str:
        kinds = {agent.name: {slots.kind for slots in agent.slots} for agent in client.agents() if agent.connected}
        return next(name for name, has in kinds.items() if search_pb2.TASK_KIND_TRAIN in has)

    def taken(client: Client) -> None:
        assert client.drain_agent(trainer(client), release=True).draining

    def let_go(client: Client) -> None:
        assert not client.undrain_agent(trainer(client)).draining

    assert hold(mesh, "drained", epochs, let_go, taken) == reference
    assert attempts_resumed(mesh, "drained-t1-train")


def attempts_resumed(mesh: Mesh, task: str) -> bool:
    """Say whether a task had two attempts, the first given back unharmed with a checkpoint."""
    from nasmesh.rpc.channel import open_channel
    from nasmesh.v1 import dispatch_service_pb2 as dispatch_pb
    from nasmesh.v1 import dispatch_service_pb2_grpc as rpc

    with open_channel(mesh.addresses["scheduler"]) as channel:
        stub = rpc.DispatchServiceStub(channel)
        first, last = (stub.GetAttempt(dispatch_pb.GetAttemptRequest(task=task, attempt=n)).attempt for n in (1, 0))
    return last.number == 2 and not first.HasField("failure") and last.HasField("checkpoint")
