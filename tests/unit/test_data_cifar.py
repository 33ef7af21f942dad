"""CIFAR archives: both forms, both sets; and pickles that want to do more than say numbers."""

import collections
import hashlib
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nasmesh.data import cifar
from nasmesh.data import load as loading
from nasmesh.data.load import load
from nasmesh.errors import Invalid, NotFound
from nasmesh.v1 import dataset_pb2
from tests.builders import data_files as make

RNG = np.random.default_rng(11)
PIXELS = RNG.integers(0, 256, (60, 3072), dtype=np.uint8)
LABELS = (np.arange(60) % 10).tolist()


@pytest.fixture(autouse=True)
def _home(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("NASMESH_HOME", str(tmp_path_factory.mktemp("home")))
    yield
    loading.forget()


def as_python2(value) -> bytes:
    """Return a pickle as the archives' own: protocol 2, texts as bytes."""
    return pickle.dumps(value, protocol=2)


def cifar10_python() -> dict[str, bytes]:
    files = {"batches.meta": as_python2({b"label_names": [f"c{i}".encode() for i in range(10)]})}
    for number in range(5):
        rows = slice(number * 10, number * 10 + 10)
        files[f"data_batch_{number + 1}"] = as_python2({b"data": PIXELS[rows], b"labels": LABELS[rows]})
    files["test_batch"] = as_python2({b"data": PIXELS[50:], b"labels": LABELS[50:]})
    return files


def cifar10_binary() -> dict[str, bytes]:
    rows = np.concatenate([np.asarray(LABELS, dtype=np.uint8)[:, None], PIXELS], axis=1)
    files = {f"data_batch_{n + 1}.bin": rows[n * 10 : n * 10 + 10].tobytes() for n in range(5)}
    return {
        **files,
        "test_batch.bin": rows[50:].tobytes(),
        "batches.meta.txt": b"c0\nc1\nc2\nc3\nc4\nc5\nc6\nc7\nc8\nc9\n",
    }


@pytest.mark.parametrize("form", ["python", "binary", "folder", "folder above"])
def test_cifar10_in_every_form_gives_the_same_set(tmp_path: Path, form: str) -> None:
    if form in ("python", "binary"):
        folder = {"python": "cifar-10-batches-py", "binary": "cifar-10-batches-bin"}[form]
        files = cifar10_python() if form == "python" else cifar10_binary()
        path = make.write_tar(tmp_path / f"cifar-10-{form}.tar.gz", folder, files)
    else:
        inner = tmp_path / "cifar-10-batches-py"
        inner.mkdir()
        for name, content in cifar10_python().items():
            (inner / name).write_bytes(content)
        path = tmp_path if form == "folder above" else inner
    manifest, splits = make.added(path)
    assert (splits.samples.array.reshape(60, -1) == PIXELS).all()
    assert splits.labels.tolist() == LABELS
    assert list(manifest.class_names) == [f"c{i}" for i in range(10)]
    assert (manifest.test_samples, splits.test.tolist()) == (10, list(range(50, 60)))


def test_cifar100_has_fine_and_coarse_labels(tmp_path: Path) -> None:
    pixels = RNG.integers(0, 256, (240, 3072), dtype=np.uint8)
    fine, coarse = (np.arange(240) % 100).tolist(), (np.arange(240) % 20).tolist()
    files = {"meta": as_python2({b"fine_label_names": [b"f"] * 100, b"coarse_label_names": [b"g"] * 20})}
    for name, rows in (("train", slice(0, 220)), ("test", slice(220, 240))):
        part = {b"data": pixels[rows], b"fine_labels": fine[rows], b"coarse_labels": coarse[rows]}
        files[name] = as_python2(part)
    path = make.write_tar(tmp_path / "cifar-100-python.tar.gz", "cifar-100-python", files)
    read = cifar.read(path)
    assert (read.labels.tolist(), read.coarse.tolist(), len(read.class_names)) == (fine, coarse, 100)
    manifest, _ = make.added(path, label="coarse")
    assert manifest.classes == 20
    rows = np.concatenate([np.stack([coarse, fine], axis=1).astype(np.uint8), pixels], axis=1)
    binary = {"train.bin": rows[:220].tobytes(), "test.bin": rows[220:].tobytes()}
    again = cifar.read(make.write_tar(tmp_path / "cifar-100-binary.tar.gz", "cifar-100-binary", binary))
    assert (again.images == read.images).all()
    assert (again.labels.tolist(), again.coarse.tolist()) == (fine, coarse)


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("what", ["reduce", "class", "objects", "nested", "deep"])
def test_a_pickle_that_names_anything_but_numbers_is_refused_and_nothing_runs(tmp_path: Path, what: str) -> None:
    files = cifar10_python()
    objects = np.empty(10, dtype=object)
    objects[:] = [Bomb(tmp_path / "ran")] * 10
    evil = {
        "reduce": Bomb(tmp_path / "ran"),
        "class": {b"data": collections.OrderedDict(), b"labels": LABELS[:10]},
        "objects": {b"data": objects, b"labels": LABELS[:10]},
        "nested": {b"data": PIXELS[:10], b"labels": LABELS[:10], b"more": [[[Bomb(tmp_path / "ran")]]]},
    }
    if what == "deep":  # by the opcodes themselves: cos\nsystem
        files["data_batch_3"] = b"cos\nsystem\n(S'touch " + str(tmp_path / "ran").encode() + b"'\ntR."
    else:
        files["data_batch_3"] = as_python2(evil[what])
    path = make.write_tar(tmp_path / "cifar-10-python.tar.gz", "cifar-10-batches-py", files)
    with pytest.raises(Invalid) as caught:
        cifar.read(path)
    assert caught.value.reason == "DATASET_PICKLED"
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "DATASET_FILES_CORRUPT"),
        (b"\x80\x02}q\x00.", "DATASET_FILES_CORRUPT"),
        (as_python2({b"data": PIXELS[:10, :9], b"labels": LABELS[:10]}), "DATASET_FILES_CORRUPT"),
        (as_python2({b"data": PIXELS[:10], b"labels": LABELS[:9]}), "DATASET_FILES_CORRUPT"),
        (as_python2({b"data": PIXELS[:10], b"labels": [*LABELS[:9], 10]}), "DATASET_LABELS_INVALID"),
        (as_python2({b"data": PIXELS[:10], b"labels": LABELS[:10]})[:-900], "DATASET_FILES_CORRUPT"),
    ],
)
def test_damaged_archives_are_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    files = {**cifar10_python(), "data_batch_2": content}
    path = make.write_tar(tmp_path / "cifar-10-python.tar.gz", "cifar-10-batches-py", files)
    with pytest.raises(Invalid) as caught:
        cifar.read(path)
    assert caught.value.reason == reason
    assert "data_batch_2" in caught.value.message
    (tmp_path / "cut").mkdir()
    cut = tmp_path / "cut" / path.name
    cut.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(Invalid):
        cifar.read(cut)


def test_a_server_that_forbids_unpickling_reads_them_too(tmp_path: Path) -> None:
    path = make.write_tar(tmp_path / "cifar-10-python.tar.gz", "cifar-10-batches-py", cifar10_python())
    code = (
        "import sys, pathlib; from nasmesh.unpickling import forbid_unpickling; forbid_unpickling();"
        "from nasmesh.data import cifar; print(len(cifar.read(pathlib.Path(sys.argv[1])).labels))"
    )
    run = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    assert run.stdout.strip() == "60", run.stderr


def test_built_in_cifar_is_found_in_the_data_folder_and_must_be_whole(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("NASMESH_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    spec = dataset_pb2.DatasetSpec(dataset="datasets/cifar10")
    with pytest.raises(NotFound) as absent:
        load(spec)
    assert absent.value.reason == "DATASET_ABSENT"
    (tmp_path / "data" / "cifar10").mkdir(parents=True)
    make.write_tar(tmp_path / "data" / "cifar10" / "cifar-10-python.tar.gz", "cifar-10-batches-py", cifar10_python())
    with pytest.raises(Invalid, match="data_batch_1 is not the published file") as other:
        load(spec)
    assert other.value.reason == "DATASET_CORRUPT"
    for name, content in cifar10_python().items():
        known = hashlib.md5(content, usedforsecurity=False).hexdigest()
        monkeypatch.setitem(cifar._KNOWN, ("cifar-10-batches-py", name), known)
    with pytest.raises(Invalid) as short:  # 60 images are not CIFAR-10
        load(spec)
    assert short.value.reason == "DATASET_CORRUPT"
