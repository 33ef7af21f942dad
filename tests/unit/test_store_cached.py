"""Copies of objects on a host's disk: within their bound, whichever are read most stay, shared between processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nasmesh.clock import seeded_random
from nasmesh.errors import NotFound
from nasmesh.store.cached import CachedStore
from nasmesh.store.keys import ObjectKind, object_ref
from nasmesh.store.memory import MemoryStore

BOUND = 10_000
READER = """
import sys
from pathlib import Path
from nasmesh.store.cached import CachedStore
from nasmesh.store.keys import ObjectKind
from nasmesh.store.memory import MemoryStore
below = MemoryStore()
cached = CachedStore(below, Path(sys.argv[1]), int(sys.argv[2]))
for turn in range(3):
    for number in range(40):
        content = b"%d" % number * 500
        assert cached.get(below.put(ObjectKind.NETWORK, content)) == content
"""


class Counting(MemoryStore):
    """Counts what is read of it."""

    reads = 0

    def get(self, ref: object) -> bytes:
        self.reads += 1
        return super().get(ref)  # type: ignore[arg-type]


def kept(folder: Path) -> list[int]:
    return [path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]


def test_get_when_more_is_read_than_fits_then_the_bound_holds_at_every_step(tmp_path: Path) -> None:
    below = Counting()
    cached = CachedStore(below, tmp_path, BOUND)
    random = seeded_random(5)
    refs = [below.put(ObjectKind.CHECKPOINT, bytes([n]) * random.randrange(1, 4000)) for n in range(60)]
    for _ in range(400):
        ref = random.choice(refs)
        assert cached.get(ref) == below._objects[ref.key]
        assert sum(kept(tmp_path)) <= BOUND
        assert int((tmp_path / ".bytes").read_text()) == sum(kept(tmp_path))
    assert 60 < below.reads < 400


def test_get_when_room_is_made_then_what_was_read_last_stays(tmp_path: Path) -> None:
    below = Counting()
    cached = CachedStore(below, tmp_path, BOUND)
    refs = [below.put(ObjectKind.NETWORK, bytes([n]) * 3000) for n in range(4)]
    for at, ref in enumerate(refs[:3]):
        cached.get(ref)
        os.utime(tmp_path / ref.key, (at, at))
    cached.get(refs[0])
    cached.get(refs[3])
    before = below.reads
    cached.get(refs[0])
    cached.get(refs[3])
    assert below.reads == before
    cached.get(refs[1])
    assert below.reads == before + 1


def test_get_when_it_can_never_fit_then_it_is_not_kept(tmp_path: Path) -> None:
    below = MemoryStore()
    cached = CachedStore(below, tmp_path, BOUND)
    assert len(cached.get(below.put(ObjectKind.NETWORK, b"x" * (BOUND + 1)))) == BOUND + 1
    assert not kept(tmp_path)


def test_get_when_there_is_none_then_said_and_nothing_kept(tmp_path: Path) -> None:
    cached = CachedStore(MemoryStore(), tmp_path, BOUND)
    with pytest.raises(NotFound):
        cached.get(object_ref(ObjectKind.NETWORK, b"absent"))
    assert not kept(tmp_path)


def test_delete_then_the_copy_goes_too(tmp_path: Path) -> None:
    below = MemoryStore()
    cached = CachedStore(below, tmp_path, BOUND)
    ref = below.put(ObjectKind.NETWORK, b"x" * 100)
    cached.get(ref)
    other = below.put(ObjectKind.NETWORK, b"y" * 250)
    cached.get(other)
    (tmp_path / ".bytes").unlink()
    assert cached.delete(ref.key, min_age_s=0.0)
    assert kept(tmp_path) == [250]
    assert (tmp_path / ".bytes").read_text() == "250"


@pytest.mark.parametrize("note", ["", "many", None])
def test_get_when_the_note_of_bytes_is_lost_then_they_are_counted(tmp_path: Path, note: str | None) -> None:
    below = MemoryStore()
    cached = CachedStore(below, tmp_path, BOUND)
    for number in range(3):
        cached.get(below.put(ObjectKind.NETWORK, bytes([number]) * 3000))
    (tmp_path / ".bytes").unlink()
    if note is not None:
        (tmp_path / ".bytes").write_text(note)
    (tmp_path / ".left-by-a-crash").write_bytes(b"y" * 5000)
    cached.get(below.put(ObjectKind.NETWORK, b"z" * 3000))
    assert sum(kept(tmp_path)) <= BOUND
    assert not (tmp_path / ".left-by-a-crash").exists()


def test_get_when_a_link_stands_for_a_copy_then_it_is_not_followed(tmp_path: Path) -> None:
    below = MemoryStore()
    cached = CachedStore(below, tmp_path / "copies", BOUND)
    ref = below.put(ObjectKind.NETWORK, b"x" * 100)
    cached.get(ref)
    path, outside = tmp_path / "copies" / ref.key, tmp_path / "outside"
    outside.write_bytes(b"x" * 100)
    path.unlink()
    path.symlink_to(outside)
    assert cached.get(ref) == b"x" * 100
    assert not path.is_symlink()
    assert outside.read_bytes() == b"x" * 100


def test_processes_share_the_bound(tmp_path: Path) -> None:
    command = [sys.executable, "-c", READER, str(tmp_path), str(BOUND)]
    readers = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [reader.wait(timeout=60) for reader in readers] == [0, 0]
    assert 0 < sum(kept(tmp_path)) <= BOUND
    assert int((tmp_path / ".bytes").read_text()) == sum(kept(tmp_path))
