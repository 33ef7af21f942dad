"""What every object store promises about listing and deleting: old objects go, young and freshly put ones stay."""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nasmesh.clock import ManualClock
from nasmesh.errors import Invalid, NotFound, Unavailable
from nasmesh.store.base import ObjectStore
from nasmesh.store.directory import DirectoryStore
from nasmesh.store.keys import ObjectKind, bare, keys_within
from nasmesh.store.memory import MemoryStore
from nasmesh.store.s3 import SWEEPING
from tests.builders.s3_proxy import Asked
from tests.builders.s3_servers import KINDS
from tests.builders.s3_stores import Servers, new_bucket, servers_below

HOUR = 3600.0


class Aged:
    """A store whose objects can be made old."""

    def __init__(self, store: ObjectStore, age: Callable[[str, float], None], *, races: int = 200) -> None:
        self.store = store
        self.age = age
        self.races = races


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    yield from servers_below(tmp_path_factory.mktemp("s3"))


@pytest.fixture(params=["directory", "memory", *KINDS])
def aged(request: pytest.FixtureRequest, tmp_path: Path, servers: Servers) -> Aged:
    if request.param in KINDS:
        bucket, proxy = new_bucket(servers.server(request.param)), servers.proxy(request.param)

        def look_older(key: str, seconds: float) -> None:
            proxy.age(f"/{bucket.name}/{key}", seconds)

        races = 200 if request.config.getoption("--long") else 30
        return Aged(bucket.store(endpoint=proxy.endpoint), look_older, races=races)
    if request.param == "memory":
        clock = ManualClock()
        memory = MemoryStore(clock=clock)

        def grow(key: str, seconds: float) -> None:
            memory._put_at[key] -= seconds

        return Aged(memory, grow)

    def backdate(key: str, seconds: float) -> None:
        found = os.stat(tmp_path / key)
        os.utime(tmp_path / key, (found.st_atime, found.st_mtime - seconds))

    return Aged(DirectoryStore(tmp_path), backdate)


def test_objects_when_listed_then_each_once_with_size_and_age(aged: Aged) -> None:
    refs = [aged.store.put(kind, f"{kind} {n}".encode()) for kind in ObjectKind for n in range(3)]
    aged.age(refs[0].key, 100 * HOUR)
    found = {item.key: item for item in aged.store.objects()}
    assert {key: item.size_bytes for key, item in found.items()} == {ref.key: ref.size_bytes for ref in refs}
    assert 100 * HOUR <= found[refs[0].key].age_s < 100 * HOUR + 60
    assert 0 <= found[refs[1].key].age_s < 60


def test_delete_when_old_then_gone_and_only_once(aged: Aged) -> None:
    ref = aged.store.put(ObjectKind.CHECKPOINT, b"old")
    aged.age(ref.key, 49 * HOUR)
    assert aged.store.delete(ref.key, min_age_s=48 * HOUR)
    assert not aged.store.exists(ref)
    with pytest.raises(NotFound):
        aged.store.get(ref)
    assert not aged.store.delete(ref.key, min_age_s=48 * HOUR)
    assert aged.store.put(ObjectKind.CHECKPOINT, b"old") == ref
    assert aged.store.get(ref) == b"old"


def test_delete_when_young_then_it_stays(aged: Aged) -> None:
    ref = aged.store.put(ObjectKind.NETWORK, b"young")
    aged.age(ref.key, 47 * HOUR)
    assert not aged.store.delete(ref.key, min_age_s=48 * HOUR)
    assert aged.store.get(ref) == b"young"


def test_put_when_the_object_is_old_already_then_it_is_young_again(aged: Aged) -> None:
    ref = aged.store.put(ObjectKind.NETWORK, b"again")
    aged.age(ref.key, 100 * HOUR)
    aged.store.put(ObjectKind.NETWORK, b"again")
    assert not aged.store.delete(ref.key, min_age_s=HOUR)
    assert [item.age_s < 60 for item in aged.store.objects()] == [True]


@pytest.mark.parametrize("key", ["", "../x", "networks/sha256/00/zz", "networks/sha256/ab/" + "cd" * 32, "/etc/passwd"])
def test_delete_when_the_key_is_none_then_refused(aged: Aged, key: str) -> None:
    with pytest.raises(Invalid, match="not an object key"):
        aged.store.delete(key, min_age_s=HOUR)


def test_put_and_delete_when_racing_then_what_was_put_last_is_never_lost(aged: Aged) -> None:
    rounds, lost = aged.races, 0
    with ThreadPoolExecutor(2) as pool:
        for number in range(rounds):
            content = b"%d" % number
            ref = aged.store.put(ObjectKind.NETWORK, content)
            aged.age(ref.key, 100 * HOUR)
            gate = threading.Barrier(2)

            def sweep(key: str = ref.key, gate: threading.Barrier = gate) -> bool:
                gate.wait()
                return aged.store.delete(key, min_age_s=HOUR)

            sweeping = pool.submit(sweep)
            gate.wait()
            aged.store.put(ObjectKind.NETWORK, content)
            sweeping.result()
            lost += not aged.store.exists(ref)
    assert lost == 0, f"{lost} of {rounds}"


def test_directory_when_it_holds_other_files_then_they_are_no_objects(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    ref = store.put(ObjectKind.NETWORK, b"x")
    folder = (tmp_path / ref.key).parent
    (folder / "notes.txt").write_text("mine")
    (folder / ("0" * 64)).symlink_to("/etc/hostname")
    (tmp_path / "checkpoints").symlink_to("/etc")
    assert [item.key for item in store.objects()] == [ref.key]
    assert list((tmp_path / ".incoming").iterdir()) == []


def test_keys_within_when_messages_hold_references_then_all_are_found() -> None:
    store = MemoryStore()
    ref = store.put(ObjectKind.CHECKPOINT, b"a")
    state = store.put(ObjectKind.STATE, b"b", extension="")
    found = keys_within(ref.SerializeToString() + b'\x00{"object": "' + state.key.encode() + b'"}tail')
    assert found == {bare(ref.key), bare(state.key)}


@pytest.mark.parametrize("kind", KINDS)
def test_put_when_a_sweep_has_looked_and_not_yet_deleted_then_it_is_written_again(servers: Servers, kind: str) -> None:
    bucket, proxy = new_bucket(servers.server(kind)), servers.proxy(kind)
    store = bucket.store(endpoint=proxy.endpoint)
    ref = store.put(ObjectKind.NETWORK, b"wanted again")
    proxy.age(f"/{bucket.name}/{ref.key}", 100 * HOUR)
    deleting, renewed = threading.Event(), threading.Event()

    def decide(asked: Asked) -> str:
        if asked.method == "DELETE" and asked.path == f"/{bucket.name}/{ref.key}":
            deleting.set()
            renewed.wait(4)  # below the store's own patience
        elif asked.method == "HEAD" and SWEEPING in asked.path and deleting.is_set():
            renewed.set()
        return ""

    proxy.decide = decide
    try:
        with ThreadPoolExecutor(1) as pool:
            sweeping = pool.submit(store.delete, ref.key, min_age_s=HOUR)
            assert deleting.wait(10)
            store.put(ObjectKind.NETWORK, b"wanted again")
            assert sweeping.result()
    finally:
        proxy.decide = lambda _asked: ""
    assert renewed.is_set()
    assert store.get(ref) == b"wanted again"


@pytest.mark.parametrize("kind", KINDS)
def test_delete_when_its_answer_is_lost_then_not_sent_again_as_the_object_may_be_a_new_one(
    servers: Servers, kind: str
) -> None:
    bucket, proxy = new_bucket(servers.server(kind)), servers.proxy(kind)
    store = bucket.store(endpoint=proxy.endpoint)
    ref = store.put(ObjectKind.NETWORK, b"swept, then wanted")
    path = f"/{bucket.name}/{ref.key}"
    proxy.age(path, 100 * HOUR)
    deletions: list[str] = []

    def decide(asked: Asked) -> str:
        if asked.method != "DELETE" or asked.path != path:
            return ""
        deletions.append(asked.path)
        return "done_hung_up"

    proxy.decide = decide
    try:
        with pytest.raises(Unavailable):
            store.delete(ref.key, min_age_s=HOUR)
    finally:
        proxy.decide = lambda _asked: ""
    assert len(deletions) == 1
    assert not store.exists(ref)
    assert store.get(store.put(ObjectKind.NETWORK, b"swept, then wanted")) == b"swept, then wanted"
