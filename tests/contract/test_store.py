"""What every object store promises, and what the one on disk promises besides."""

import hashlib
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nasmesh import limits
from nasmesh.clock import ManualClock
from nasmesh.errors import Invalid, NotFound, Unavailable
from nasmesh.store import base
from nasmesh.store.base import ObjectStore
from nasmesh.store.directory import DirectoryStore
from nasmesh.store.keys import ObjectKind, object_ref
from nasmesh.store.memory import MemoryStore
from nasmesh.store.open import open_store
from nasmesh.v1 import object_pb2 as pb
from tests.builders.s3_servers import KINDS
from tests.builders.s3_stores import Servers, new_bucket, servers_below

CONTENT = b"some network"
# Puts objects without end (or as many as asked) and names each once it is put.
WRITER = """
import itertools, sys
from pathlib import Path
from nasmesh.store.directory import DirectoryStore
from nasmesh.store.keys import ObjectKind
store = DirectoryStore(Path(sys.argv[1]))
for i in itertools.count() if len(sys.argv) == 2 else range(int(sys.argv[2])):
    ref = store.put(ObjectKind.CHECKPOINT, b"%d" % i * 20_000)
    print(ref.key, ref.size_bytes, flush=True)
"""


class Backend:
    """A store together with a way to damage what it keeps."""

    def __init__(self, store: ObjectStore, overwrite: Callable[[pb.ObjectRef, bytes], object]) -> None:
        self.store = store
        self.overwrite = overwrite


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    yield from servers_below(tmp_path_factory.mktemp("s3"))


@pytest.fixture(params=["directory", "memory", *KINDS])
def backend(request: pytest.FixtureRequest, tmp_path: Path, servers: Servers) -> Backend:
    if request.param == "memory":
        memory = MemoryStore()
        return Backend(memory, lambda ref, content: memory._objects.__setitem__(ref.key, content))
    if request.param == "directory":
        root = tmp_path / "objects"
        return Backend(DirectoryStore(root), lambda ref, content: (root / ref.key).write_bytes(content))
    bucket = new_bucket(servers.server(request.param))
    return Backend(bucket.store(), bucket.overwrite)


class TestEveryStore:
    @pytest.mark.parametrize("kind", list(ObjectKind))
    def test_get_after_put_returns_the_bytes(self, backend: Backend, kind: ObjectKind) -> None:
        ref = backend.store.put(kind, CONTENT)
        digest = hashlib.sha256(CONTENT).hexdigest()
        assert ref.key == f"{kind.value}/sha256/{digest[:2]}/{digest}.onnx"
        assert (ref.sha256, ref.size_bytes) == (digest, len(CONTENT))
        assert backend.store.get(ref) == CONTENT
        assert backend.store.exists(ref)

    def test_put_of_empty_content_works(self, backend: Backend) -> None:
        ref = backend.store.put(ObjectKind.STATE, b"", extension="")
        assert not ref.key.endswith(".")
        assert backend.store.get(ref) == b""

    def test_put_twice_is_one_object(self, backend: Backend) -> None:
        assert backend.store.put(ObjectKind.NETWORK, CONTENT) == backend.store.put(ObjectKind.NETWORK, CONTENT)

    def test_kinds_do_not_share_objects(self, backend: Backend) -> None:
        backend.store.put(ObjectKind.NETWORK, CONTENT)
        assert not backend.store.exists(object_ref(ObjectKind.CHECKPOINT, CONTENT))

    def test_get_of_missing_says_so(self, backend: Backend) -> None:
        ref = object_ref(ObjectKind.NETWORK, b"never put")
        assert not backend.store.exists(ref)
        with pytest.raises(NotFound, match="not in the store") as caught:
            backend.store.get(ref)
        assert caught.value.reason == "OBJECT_MISSING"

    @pytest.mark.parametrize("damage", [b"some netwerk", b"", CONTENT + b"!"])
    def test_get_of_damaged_bytes_is_refused_every_time(self, backend: Backend, damage: bytes) -> None:
        ref = backend.store.put(ObjectKind.NETWORK, CONTENT)
        assert backend.store.get(ref) == CONTENT
        backend.overwrite(ref, damage)
        for _ in range(2):
            with pytest.raises(Invalid) as caught:
                backend.store.get(ref)
            assert caught.value.reason == "OBJECT_CORRUPT"

    def test_put_again_mends_a_damaged_object(self, backend: Backend) -> None:
        ref = backend.store.put(ObjectKind.NETWORK, CONTENT)
        backend.overwrite(ref, b"some netwerk")
        backend.store.put(ObjectKind.NETWORK, CONTENT)
        assert backend.store.get(ref) == CONTENT

    def test_exists_when_the_size_differs_is_false(self, backend: Backend) -> None:
        ref = backend.store.put(ObjectKind.NETWORK, CONTENT)
        backend.overwrite(ref, b"short")
        assert not backend.store.exists(ref)

    @pytest.mark.parametrize(
        "key",
        [
            "",
            "networks/../../etc/passwd",
            "/etc/passwd",
            "networks/sha256/{h}/{d}/../x",
            "networks//sha256/{h}/{d}",
            "networks/sha256/{h}/{d}\n",
            "networks/sha256/{h}/{d}\0",
            "secrets/sha256/{h}/{d}",
            "networks/sha256/{h}/{d}.onnx/..",
            "networks/sha256/{h}/{D}",
            "networks/sha256/%2e%2e/{d}",
        ],
    )
    def test_foreign_key_is_refused(self, backend: Backend, key: str) -> None:
        digest = hashlib.sha256(CONTENT).hexdigest()
        key = key.format(h=digest[:2], d=digest, D=digest.upper())
        ref = pb.ObjectRef(key=key, sha256=digest, size_bytes=len(CONTENT))
        for call in (backend.store.get, backend.store.exists, backend.store.location):
            with pytest.raises(Invalid) as caught:
                call(ref)
            assert caught.value.reason == "OBJECT_REF_INVALID"

    @pytest.mark.parametrize("field", ["head", "digest", "sha256"])
    def test_key_of_another_digest_is_refused(self, backend: Backend, field: str) -> None:
        ref = backend.store.put(ObjectKind.NETWORK, CONTENT)
        other = hashlib.sha256(b"other").hexdigest()
        if field == "sha256":
            ref.sha256 = other
        elif field == "digest":
            ref.key = ref.key.replace(ref.sha256, other)
        else:
            ref.key = ref.key.replace(f"/{ref.sha256[:2]}/", "/00/")
        with pytest.raises(Invalid) as caught:
            backend.store.get(ref)
        assert caught.value.reason == "OBJECT_KEY_MISMATCH"

    def test_extension_from_a_caller_cannot_leave_the_key(self, backend: Backend) -> None:
        with pytest.raises(Invalid):
            backend.store.put(ObjectKind.NETWORK, CONTENT, extension="x/../../y")

    def test_put_of_too_much_is_refused_before_writing(self, backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(base._MOST_BYTES, ObjectKind.NETWORK, 8)
        with pytest.raises(Invalid) as caught:
            backend.store.put(ObjectKind.NETWORK, b"123456789")
        assert caught.value.reason == "OBJECT_TOO_LARGE"
        backend.store.put(ObjectKind.NETWORK, b"12345678")

    def test_many_writers_of_the_same_and_other_bytes_all_succeed(self, backend: Backend) -> None:
        contents = [CONTENT, b"a" * 70_000, b"b" * 70_000]
        start = threading.Barrier(12)

        def write(index: int) -> pb.ObjectRef:
            start.wait(timeout=30)
            ref = backend.store.put(ObjectKind.CHECKPOINT, contents[index % 3])
            assert backend.store.get(ref) == contents[index % 3]
            return ref

        with ThreadPoolExecutor(12) as pool:
            refs = list(pool.map(write, range(12)))
        assert len({ref.key for ref in refs}) == 3

    def test_location_is_a_sentence_for_people(self, backend: Backend) -> None:
        ref = backend.store.put(ObjectKind.NETWORK, CONTENT)
        assert ref.sha256 in backend.store.location(ref)


class TestDirectory:
    def test_objects_survive_reopening(self, tmp_path: Path) -> None:
        ref = DirectoryStore(tmp_path).put(ObjectKind.NETWORK, CONTENT)
        assert DirectoryStore(tmp_path).get(ref) == CONTENT

    def test_nothing_but_the_object_is_left_behind(self, tmp_path: Path) -> None:
        ref = DirectoryStore(tmp_path).put(ObjectKind.NETWORK, CONTENT)
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert files == [tmp_path / ref.key]

    def test_root_may_be_a_link(self, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir()
        (tmp_path / "link").symlink_to(tmp_path / "real")
        ref = DirectoryStore(tmp_path / "link").put(ObjectKind.NETWORK, CONTENT)
        assert (tmp_path / "real" / ref.key).read_bytes() == CONTENT

    def test_link_in_place_of_an_object_is_not_followed(self, tmp_path: Path) -> None:
        store = DirectoryStore(tmp_path / "objects")
        ref = store.put(ObjectKind.NETWORK, CONTENT)
        outside = tmp_path / "outside"
        outside.write_bytes(CONTENT)
        path = tmp_path / "objects" / ref.key
        path.unlink()
        path.symlink_to(outside)
        assert not store.exists(ref)
        with pytest.raises(Invalid) as caught:
            store.get(ref)
        assert caught.value.reason == "OBJECT_CORRUPT"
        store.put(ObjectKind.NETWORK, CONTENT)
        assert not path.is_symlink()
        assert store.get(ref) == CONTENT
        assert outside.read_bytes() == CONTENT

    @pytest.mark.parametrize("depth", [1, 2, 3])
    def test_link_in_place_of_a_folder_is_not_followed(self, tmp_path: Path, depth: int) -> None:
        root = tmp_path / "objects"
        store = DirectoryStore(root)
        ref = store.put(ObjectKind.NETWORK, CONTENT)
        folder = root.joinpath(*ref.key.split("/")[:depth])
        folder.rename(tmp_path / "moved")
        folder.symlink_to(tmp_path / "moved")
        assert not store.exists(ref)
        with pytest.raises(Invalid) as caught:
            store.get(ref)
        assert caught.value.reason == "OBJECT_CORRUPT"
        with pytest.raises(Unavailable) as refused:
            store.put(ObjectKind.NETWORK, CONTENT)
        assert refused.value.reason == "STORE_DOWN"

    @pytest.mark.parametrize("kind", ["fifo", "directory"])
    def test_something_else_in_place_of_an_object_is_refused_at_once(self, tmp_path: Path, kind: str) -> None:
        store = DirectoryStore(tmp_path)
        ref = store.put(ObjectKind.NETWORK, CONTENT)
        path = tmp_path / ref.key
        path.unlink()
        os.mkfifo(path) if kind == "fifo" else path.mkdir()
        assert not store.exists(ref)
        with pytest.raises(Invalid) as caught:
            store.get(ref)
        assert caught.value.reason == "OBJECT_CORRUPT"

    def test_opening_clears_only_old_leftovers_of_crashed_writers(self, tmp_path: Path) -> None:
        DirectoryStore(tmp_path)
        clock = ManualClock()
        for name, age_s in (("old", limits.LEFTOVER_S + 1), ("young", limits.LEFTOVER_S - 1)):
            path = tmp_path / ".incoming" / name
            path.write_bytes(b"half an obj")
            os.utime(path, (clock.wall() - age_s,) * 2)
        DirectoryStore(tmp_path, clock=clock)
        assert [path.name for path in (tmp_path / ".incoming").iterdir()] == ["young"]

    @pytest.mark.parametrize("step", ["write", "fsync", "rename"])
    def test_a_crash_before_the_rename_leaves_no_object(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
    ) -> None:
        store = DirectoryStore(tmp_path)
        store.put(ObjectKind.NETWORK, b"makes the folders")

        def fail(*_args: object, **_kwargs: object) -> None:
            raise OSError(5, "Input/output error")

        with monkeypatch.context() as patch:
            if step == "write":
                patch.setattr(os, "fdopen", fail)
            else:
                patch.setattr(os, step, fail)
            with pytest.raises(Unavailable):
                store.put(ObjectKind.CHECKPOINT, CONTENT)
        assert not store.exists(object_ref(ObjectKind.CHECKPOINT, CONTENT))
        assert list((tmp_path / ".incoming").iterdir()) == []
        assert store.get(store.put(ObjectKind.CHECKPOINT, CONTENT)) == CONTENT

    def test_the_file_is_synced_before_it_is_renamed_and_the_folder_after(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = DirectoryStore(tmp_path)
        ref = store.put(ObjectKind.NETWORK, CONTENT)
        (tmp_path / ref.key).unlink()
        steps: list[str] = []
        real_fsync, real_rename = os.fsync, os.rename

        def fsync(descriptor: int) -> None:
            steps.append("sync folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "sync file")
            real_fsync(descriptor)

        def rename(source: str, target: str, **folders: int) -> None:
            steps.append("rename")
            real_rename(source, target, **folders)

        monkeypatch.setattr(os, "fsync", fsync)
        monkeypatch.setattr(os, "rename", rename)
        store.put(ObjectKind.NETWORK, CONTENT)
        assert steps == ["sync file", "rename", "sync folder"]

    def test_full_disk_is_reported_and_loses_nothing(self, tmp_path: Path) -> None:
        mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(tmp_path)]
        if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
            pytest.skip("needs root and the right to mount a tmpfs")
        try:
            store = DirectoryStore(tmp_path / "objects")
            kept = store.put(ObjectKind.NETWORK, CONTENT)
            with pytest.raises(Unavailable, match="disk is full") as caught:
                store.put(ObjectKind.CHECKPOINT, b"x" * 300_000)
            assert (caught.value.reason, caught.value.metadata["errno"]) == ("STORE_DOWN", "ENOSPC")
            assert list((tmp_path / "objects" / ".incoming").iterdir()) == []
            assert store.get(kept) == CONTENT
            assert store.get(store.put(ObjectKind.NETWORK, b"small still fits")) == b"small still fits"
        finally:
            del store
            subprocess.run(["umount", "-l", str(tmp_path)], check=True)

    def test_writers_killed_at_any_moment_leave_only_whole_objects(self, tmp_path: Path) -> None:
        delays = random.Random(7)
        for _ in range(4):
            writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
            assert writer.stdout is not None
            acknowledged = [writer.stdout.readline().strip() for _ in range(delays.randrange(1, 40))]
            writer.kill()
            acknowledged += [line.strip() for line in writer.stdout if line.endswith("\n")]
            writer.stdout.close()
            writer.wait(timeout=30)
            store = DirectoryStore(tmp_path)
            for line in acknowledged:
                key, size = line.split()
                ref = pb.ObjectRef(key=key, sha256=key.split("/")[-1].removesuffix(".onnx"), size_bytes=int(size))
                assert len(store.get(ref)) == int(size)
        visible = [path for path in (tmp_path / "checkpoints").rglob("*") if path.is_file()]
        assert len(visible) >= 4
        for path in visible:
            assert hashlib.sha256(path.read_bytes()).hexdigest() == path.stem

    def test_two_processes_may_write_the_same_objects(self, tmp_path: Path) -> None:
        command = [sys.executable, "-c", WRITER, str(tmp_path), "30"]
        writers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        outputs = [writer.communicate(timeout=60)[0] for writer in writers]
        assert [writer.returncode for writer in writers] == [0, 0]
        assert outputs[0] == outputs[1]
        assert list((tmp_path / ".incoming").iterdir()) == []

    def test_store_that_cannot_be_made_is_unavailable(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(Unavailable) as caught:
            DirectoryStore(tmp_path / "file" / "objects")
        assert caught.value.reason == "STORE_DOWN"

    def test_descriptors_are_not_leaked(self, tmp_path: Path) -> None:
        store = DirectoryStore(tmp_path)
        ref = store.put(ObjectKind.NETWORK, CONTENT)
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(20):
            store.put(ObjectKind.NETWORK, CONTENT)
            store.get(ref)
            with pytest.raises(NotFound):
                store.get(object_ref(ObjectKind.STATE, b"absent"))
        assert len(os.listdir("/proc/self/fd")) == before


class TestOpenStore:
    def test_directory_urls(self, tmp_path: Path) -> None:
        for url in (f"dir:{tmp_path}/a", f"{tmp_path}/a"):
            assert open_store(url).kind_name == "directory"
        assert (tmp_path / "a").is_dir()

    def test_memory_url_is_a_new_store_each_time(self) -> None:
        ref = open_store("memory:").put(ObjectKind.NETWORK, CONTENT)
        assert open_store("memory:").kind_name == "memory"
        assert not open_store("memory:").exists(ref)

    @pytest.mark.parametrize(
        "url", ["", "dir:", "gs://bucket", "relative/path", "//host/share", "memory:x", "dir:/a\0b"]
    )
    def test_other_urls_are_refused_with_the_fix(self, url: str) -> None:
        with pytest.raises(Invalid, match="use dir:/PATH") as caught:
            open_store(url)
        assert (caught.value.reason, caught.value.field) == ("STORE_URL_INVALID", "store")
