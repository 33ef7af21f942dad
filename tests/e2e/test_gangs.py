"""A search whose networks are trained over several train servers each: a model, whoever is killed or told to wait."""

from collections.abc import Iterator

import pytest

from nasmesh.client import Client, read_spec
from nasmesh.rpc.channel import open_channel
from nasmesh.v1 import dispatch_service_pb2 as dispatch_pb
from nasmesh.v1 import dispatch_service_pb2_grpc as rpc
from nasmesh.v1 import scheduler_service_pb2 as pb
from nasmesh.v1 import search_pb2
from tests.e2e.mesh import Mesh
from tests.e2e.specs import TINY
from tests.e2e.test_kill import Results, results

TRAINERS = ("train", "train-2", "train-3")
OPTIONS = (
    "train.epochs=24",
    "train.checkpointIntervalS=0.1",
    "train.distribution.acrossHosts=true",
    "budget.maxTrials=1",
    "cache=CACHE_MODE_REPEAT",
)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    home = tmp_path_factory.mktemp("gangs")
    flags: dict[str, tuple[str, ...]] = {
        name: ("--gang-listen", "127.0.0.1:0", "--work-dir", str(home / name), "--name", name) for name in TRAINERS
    }
    with Mesh(home, arguments=flags) as running:
        for name in TRAINERS[1:]:
            running.spawn(name)
        for name in TRAINERS[1:]:
            running.await_serving(name)
        yield running


def create(client: Client, mesh: Mesh, search: str, *, servers: int, **more: int) -> None:
    path = mesh.home / f"{search}.yaml"
    path.write_text(TINY)
    extra = [f"train.distribution.processes={servers}", *(f"train.{name}={value}" for name, value in more.items())]
    client.create_search(read_spec(path, [*OPTIONS, *extra]), search_id=search)


def attempt(mesh: Mesh, task: str, number: int = 0) -> dispatch_pb.Attempt:
    with open_channel(mesh.addresses["scheduler"]) as channel:
        request = dispatch_pb.GetAttemptRequest(task=task, attempt=number)
        return rpc.DispatchServiceStub(channel).GetAttempt(request).attempt


def until_trained(client: Client, search: str, epoch: float) -> None:
    for change in client.watch(search):
        if change.progress.trial.endswith("/1") and change.progress.train.epoch > epoch:
            return
    raise AssertionError("the search ended before")


def ended(client: Client, search: str) -> Results:
    for _ in client.watch(search):
        pass
    found = client.get_search(search)
    assert found.state == search_pb2.SEARCH_STATE_SUCCEEDED, found.reason
    return results(client, search)


def test_search_when_its_trainings_take_two_servers_each_then_killed_or_paused_it_ends_with_the_same_model(
    mesh: Mesh,
) -> None:
    with mesh.client() as client:
        create(client, mesh, "whole", servers=2)
        expected = ended(client, "whole")
        assert [result.final for result in expected.values()] == [False, True]
        assert client.export(client.best("whole").name, pb.EXPORT_FORM_UNSPECIFIED).content

        create(client, mesh, "struck", servers=2)
        until_trained(client, "struck", 2)
        assert client.pause_search("struck").state == search_pb2.SEARCH_STATE_PAUSED
        assert client.resume_search("struck").state == search_pb2.SEARCH_STATE_RUNNING
        until_trained(client, "struck", 5)
        before = attempt(mesh, "struck-t1-train")
        assert before.HasField("checkpoint"), "the pause came with one"
        (member,) = before.members
        assert member != before.agent
        victim = member.removeprefix("agents/")
        mesh.kill9(victim)
        assert ended(client, "struck") == expected
        lost, after = (attempt(mesh, "struck-t1-train", number) for number in (before.number, 0))
        assert after.number == before.number + 1
        assert lost.failure.reason in ("RANK_LOST", "LEASE_EXPIRED"), lost
        assert not lost.failure.counted
        assert member not in (after.agent, *after.members)
        mesh.restart(victim)


def test_search_when_a_training_takes_more_servers_than_there_are_then_waits_and_says_for_what(mesh: Mesh) -> None:
    with mesh.client() as client:
        create(client, mesh, "wide", servers=4)
        for _ in client.watch("wide"):
            if "4 servers" in client.get_search("wide").reason:
                break
        shown = mesh.nasmesh("search", "show", "wide").stdout
        assert "start more with --gang-listen" in shown
        create(client, mesh, "beside", servers=2, epochs=1)
        ended(client, "beside")
        assert "4 servers" in client.get_search("wide").reason
        client.cancel_search("wide")
