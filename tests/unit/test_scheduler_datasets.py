"""Facts about added data sets in the scheduler's pure machine, and as bytes."""

import pytest

from nasmesh.v1 import dataset_pb2, object_pb2
from scheduler.effects import IllegalTransitionError
from scheduler.facts import Event
from scheduler.journal import codec
from scheduler.wishes import DatasetAdded, DatasetDeleted
from tests.builders.scheduler_play import Play, spec


def dataset(name: str) -> dataset_pb2.Dataset:
    manifest = object_pb2.ObjectRef(key=f"datasets/sha256/aa/{'a' * 64}.bin", sha256="a" * 64, size_bytes=5)
    return dataset_pb2.Dataset(name=f"datasets/{name}", classes=3, owner="clients/ann", manifest=manifest)


def test_data_sets_survive_snapshots_with_their_time_and_leave_no_row_when_deleted() -> None:
    play = Play(spec())
    for name in ("one", "two"):
        play.tell(DatasetAdded(dataset(name)))
    assert play.state.datasets["datasets/one"].create_time.ToMicroseconds() == play.time_us - 1
    rows = {key: codec.encode_row(play.state, key) for key in (*play.state.dirty, "state")}
    assert codec.decode_rows([row for row in rows.items() if row[1]]) == play.state
    play.tell(DatasetDeleted("datasets/one"))
    assert codec.encode_row(play.state, "dataset/one") == b""
    rows = {key: codec.encode_row(play.state, key) for key in (*play.state.dirty, "state")}
    found = codec.decode_rows([row for row in rows.items() if row[1]])
    assert found == play.state
    assert list(found.datasets) == ["datasets/two"]
    play.tell(DatasetAdded(dataset("one")))  # a name may be used again


@pytest.mark.parametrize("change", [DatasetAdded(dataset("one")), DatasetDeleted("datasets/one")])
def test_facts_when_written_and_read_then_are_the_same(change: DatasetAdded | DatasetDeleted) -> None:
    event = Event(5, 1.5, change)
    assert codec.decode_event(1, codec.encode_event(event)) == event


def test_facts_that_contradict_the_state_are_refused() -> None:
    play = Play(spec())
    with pytest.raises(IllegalTransitionError):
        play.tell(DatasetDeleted("datasets/one"))
    play.tell(DatasetAdded(dataset("one")))
    with pytest.raises(IllegalTransitionError):
        play.tell(DatasetAdded(dataset("one")))
