"""The client against a served scheduler that is away, breaks its streams, or sends wrong bytes."""

import subprocess
import sys
from collections.abc import Iterator

import pytest

from nasmesh.client import Client
from nasmesh.errors import Conflict, Invalid, NotFound, Stale, Unavailable
from nasmesh.limits import NETWORK_BYTES
from nasmesh.v1 import scheduler_service_pb2 as pb
from nasmesh.v1 import search_pb2
from tests.builders.fake_scheduler import FakeScheduler, running_fake


@pytest.fixture
def served() -> Iterator[tuple[FakeScheduler, Client]]:
    with running_fake() as (fake, address), Client(address, patience_s=5.0) as client:
        yield fake, client


def spec() -> search_pb2.SearchSpec:
    return search_pb2.SearchSpec(seed=3)


def test_create_repeats_with_the_same_request_id_while_the_scheduler_is_away(
    served: tuple[FakeScheduler, Client],
) -> None:
    fake, client = served
    fake.away = 2
    found = client.create_search(spec(), search_id="one")
    assert found.name == "searches/one"
    assert fake.calls == ["CreateSearch"] * 3
    assert len(fake.requests) == 1
    assert len(next(iter(fake.requests))) == 32


def test_two_creations_have_two_request_ids(served: tuple[FakeScheduler, Client]) -> None:
    fake, client = served
    client.create_search(spec(), search_id="one")
    client.create_search(spec(), search_id="two")
    assert len(fake.requests) == 2


def test_a_reused_request_id_with_another_body_is_a_conflict(served: tuple[FakeScheduler, Client]) -> None:
    _, client = served
    client.create_search(spec(), search_id="one", request_id="r")
    with pytest.raises(Conflict) as caught:
        client.create_search(spec(), search_id="two", request_id="r")
    assert caught.value.reason == "REQUEST_ID_REUSED"


def test_nobody_there_is_unavailable_after_the_patience() -> None:
    with Client("127.0.0.1:9", patience_s=0.2) as client, pytest.raises(Unavailable) as caught:
        client.server_info()
    assert "127.0.0.1:9" in caught.value.message


def test_a_wrong_address_or_plain_text_to_another_host_is_refused() -> None:
    with pytest.raises(Invalid):
        Client("nonsense")
    with pytest.raises(Invalid):
        Client("192.0.2.1:7400")


def test_lists_go_through_all_pages(served: tuple[FakeScheduler, Client]) -> None:
    fake, client = served
    for name in ("one", "two", "three"):
        client.create_search(spec(), search_id=name)
    assert [item.name for item in client.list_searches()] == ["searches/three", "searches/two", "searches/one"]
    fake.play("searches/one")
    assert [trial.number for trial in client.list_trials("one")] == [1, 2, 3, 4, 5, 6, 7]


def recorded(changes: list[pb.WatchSearchResponse]) -> list[tuple[int, str, bytes]]:
    return [
        (change.sequence, str(change.WhichOneof("change")), change.SerializeToString(deterministic=True))
        for change in changes
        if change.WhichOneof("change") != "progress"
    ]


@pytest.mark.parametrize("break_after", [3, 5, 8])  # one number may carry two changes, and one is asked for again
def test_watch_misses_and_doubles_nothing_when_streams_break(break_after: int) -> None:
    with running_fake() as (fake, address), Client(address, patience_s=5.0) as client:
        client.create_search(spec(), search_id="one")
        fake.play("searches/one", iterations=2)
        # Progress marks are not recorded, so a fake that breaks within a run of them would never get past it.
        fake.history["searches/one"] = [c for c in fake.history["searches/one"] if c.WhichOneof("change") != "progress"]
        whole = recorded(fake.history["searches/one"])
        fake.break_after = break_after
        assert recorded(list(client.watch("one"))) == whole
        assert fake.calls.count("WatchSearch") >= 2


def test_watch_starts_after_a_sequence_number(served: tuple[FakeScheduler, Client]) -> None:
    fake, client = served
    client.create_search(spec(), search_id="one")
    fake.play("searches/one", iterations=1)
    later = recorded(list(client.watch("one", after_sequence=3)))
    assert later == [entry for entry in recorded(fake.history["searches/one"]) if entry[0] > 3]


def test_watch_lists_again_as_often_as_its_reader_falls_behind_what_is_kept(
    served: tuple[FakeScheduler, Client],
) -> None:
    fake, client = served
    client.create_search(spec(), search_id="one")
    fake.play("searches/one", iterations=2)
    fake.compactions = 2
    changes = [change for change in client.watch("one") if change.WhichOneof("change") != "progress"]
    assert {change.trial.number for change in changes} >= {1, 2, 3}
    assert changes[-1].search.state == search_pb2.SEARCH_STATE_SUCCEEDED
    assert fake.calls.count("ListTrials") == 2 * 2  # two pages each time


def test_watch_gives_up_when_the_scheduler_stays_away() -> None:
    with running_fake() as (fake, address), Client(address, patience_s=0.5) as client:
        client.create_search(spec(), search_id="one")
        fake.away = 1000
        with pytest.raises(Unavailable):
            list(client.watch("one"))


def test_watch_of_an_unknown_search_is_not_found(served: tuple[FakeScheduler, Client]) -> None:
    with pytest.raises(NotFound) as caught:
        list(served[1].watch("none"))
    assert caught.value.reason == "SEARCH_UNKNOWN"


def test_best_is_the_final_trial_and_before_it_the_best_of_the_search(served: tuple[FakeScheduler, Client]) -> None:
    fake, client = served
    client.create_search(spec(), search_id="one")
    with pytest.raises(Stale) as caught:
        client.best("one")
    assert caught.value.reason == "NOT_TRAINED"
    fake.play("searches/one")
    assert client.best("one").final
    del fake.searches["searches/one"].final_trials[:]
    assert client.best("one").number == 5


def test_export_checks_the_digest(served: tuple[FakeScheduler, Client]) -> None:
    fake, client = served
    client.create_search(spec(), search_id="one")
    with pytest.raises(Stale):
        client.export("searches/one/trials/1")
    fake.play("searches/one", iterations=1)
    exported = client.export("searches/one/trials/1", pb.EXPORT_FORM_MODEL)
    assert exported.content == fake.model
    assert exported.object.size_bytes == len(fake.model)
    fake.corrupt = True
    with pytest.raises(Invalid) as caught:
        client.export("searches/one/trials/1")
    assert caught.value.reason == "OBJECT_CORRUPT"


def test_import_sends_all_bytes_and_refuses_junk_sizes_unsent(served: tuple[FakeScheduler, Client]) -> None:
    fake, client = served
    content = bytes(range(256)) * 10_000  # several chunks
    assert fake.imported[client.import_(content).key] == content
    for junk, reason in ((b"", "OBJECT_EMPTY"), (bytes(NETWORK_BYTES + 1), "OBJECT_TOO_LARGE")):
        with pytest.raises(Invalid) as caught:
            client.import_(junk)
        assert caught.value.reason == reason
    assert fake.calls == ["ImportNetwork"]


@pytest.mark.parametrize("name", ["UPPER", "a b", "trials/1", "searches/", "searches/x/trials/1", ""])
def test_a_wrong_search_name_is_refused_unsent(served: tuple[FakeScheduler, Client], name: str) -> None:
    with pytest.raises(Invalid):
        served[1].get_search(name)
    assert served[0].calls == []


def test_the_client_imports_nothing_heavy() -> None:
    code = (
        "import sys, nasmesh.client; print([m for m in ('torch', 'onnx', 'numpy', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
