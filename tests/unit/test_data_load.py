import gzip
import struct
import subprocess
import sys

import numpy as np
import pytest

from nasmesh.data import catalog, fashion_mnist
from nasmesh.data import load as loading
from nasmesh.data.load import dataset_resources, load
from nasmesh.data.splits import Shares, divide
from nasmesh.errors import Invalid, NotFound
from nasmesh.v1 import dataset_pb2 as pb

DIGITS = pb.DatasetSpec(dataset="datasets/digits")


@pytest.fixture(autouse=True)
def _forget_loaded():
    yield
    loading.forget()


def test_digits_when_loaded_then_are_whole_and_agree_with_the_catalog():
    splits = load(DIGITS)
    assert splits.samples.array.shape == (1797, 1, 8, 8)
    assert splits.samples.array.dtype == np.uint8
    assert (splits.samples.array.min(), splits.samples.array.max()) == (0, 255)
    assert splits.labels.dtype == np.int64
    assert splits.digest == catalog.DATASETS["digits"].digest
    assert (len(splits.train), len(splits.validation), len(splits.test)) == catalog.DATASETS["digits"].split_sizes
    scale = splits.samples.array / 255
    assert scale.mean() == pytest.approx(catalog.DATASETS["digits"].mean[0], abs=1e-5)
    assert scale.std() == pytest.approx(catalog.DATASETS["digits"].std[0], abs=1e-5)


def test_digits_when_loaded_then_equal_scikit_learns_without_importing_it():
    code = "import sys; from nasmesh.data import digits; digits.read(); print('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
    csv = (
        gzip.decompress(__import__("nasmesh.data.digits", fromlist=["find"]).find().read_bytes()).decode().splitlines()
    )
    first = [int(value) for value in csv[0].split(",")]
    splits = load(DIGITS)
    assert splits.labels[0] == first[-1]
    assert splits.samples.array[0].reshape(-1).tolist() == [(value * 255 + 8) // 16 for value in first[:-1]]


def test_splits_when_divided_then_are_disjoint_whole_and_stratified():
    splits = load(DIGITS)
    parts = [splits.train, splits.validation, splits.test]
    assert sorted(np.concatenate(parts).tolist()) == list(range(1797))
    for part, share in zip(parts, (0.72, 0.08, 0.2), strict=True):
        counts = np.bincount(splits.labels[part], minlength=10) / np.bincount(splits.labels)
        assert np.abs(counts - share).max() < 0.01


def test_splits_when_the_seed_differs_then_differ_and_repeat():
    other = pb.DatasetSpec(dataset="datasets/digits", split_seed=7)
    assert not np.array_equal(load(DIGITS).test, load(other).test)
    loading.forget()
    again = load(other)
    assert np.array_equal(again.test, load(other).test)


def test_splits_when_the_data_set_has_its_own_test_split_then_no_seed_changes_it():
    labels = np.arange(200, dtype=np.int64) % 10
    shares = Shares(validation=0.1, test=0.5, own_test=50)
    first, second = divide(labels, shares, seed=0), divide(labels, shares, seed=1)
    assert first.test.tolist() == list(range(150, 200)) == second.test.tolist()
    assert first.validation.tolist() != second.validation.tolist()
    assert len(first.train) + len(first.validation) == 150


def test_load_when_called_twice_then_reads_once():
    assert load(DIGITS) is load(pb.DatasetSpec(dataset="datasets/digits", validation_fraction=0.1, test_fraction=0.2))


def test_fashion_when_absent_then_says_which_command_gets_it(tmp_path, monkeypatch):
    monkeypatch.setenv("NASMESH_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fashion_mnist, "_SYSTEM", tmp_path / "none")
    with pytest.raises(NotFound, match="make data DATASET=fashion-mnist") as caught:
        load(pb.DatasetSpec(dataset="datasets/fashion-mnist"))
    assert caught.value.reason == "DATASET_ABSENT"
    listed = {resource.name: resource for resource in dataset_resources()}
    assert listed["datasets/digits"].available
    assert not listed["datasets/fashion-mnist"].available
    assert "make data" in listed["datasets/fashion-mnist"].description
    assert listed["datasets/fashion-mnist"].content_digest == ""


def test_fashion_when_other_images_lie_there_then_refuses_them(tmp_path, monkeypatch):
    _write_idx(tmp_path / "fashion-mnist")
    monkeypatch.setenv("NASMESH_DATA", str(tmp_path))
    read = fashion_mnist.read()
    assert read.images.shape == (30, 1, 4, 4)
    assert read.test_samples == 10
    assert read.labels.tolist()[:3] == [0, 1, 2]
    with pytest.raises(Invalid) as caught:
        load(pb.DatasetSpec(dataset="datasets/fashion-mnist"))
    assert caught.value.reason == "DATASET_CORRUPT"


@pytest.mark.parametrize(
    "content",
    [
        b"no gzip",
        gzip.compress(b""),
        gzip.compress(struct.pack(">HBBI", 0, 9, 1, 3) + b"abc"),
        gzip.compress(struct.pack(">HBBI", 0, 8, 1, 9) + b"abc"),
        gzip.compress(struct.pack(">HBBIII", 0, 8, 3, 2**31, 2**31, 2**31)),
        gzip.compress(struct.pack(">HBBI", 0, 8, 1, 30) + bytes(30))[:-9],
    ],
    ids=["no gzip", "empty", "another type", "too short", "too large", "cut off"],  # the bytes hold the time
)
def test_fashion_when_a_file_is_damaged_then_refuses_it(tmp_path, monkeypatch, content):
    _write_idx(tmp_path / "fashion-mnist")
    (tmp_path / "fashion-mnist" / fashion_mnist.FILES[1]).write_bytes(content)
    monkeypatch.setenv("NASMESH_DATA", str(tmp_path))
    with pytest.raises(Invalid) as caught:
        fashion_mnist.read()
    assert caught.value.reason == "DATASET_CORRUPT"


def test_fashion_when_present_then_is_whole():
    try:
        splits = load(pb.DatasetSpec(dataset="datasets/fashion-mnist"))
    except NotFound as error:
        pytest.skip(error.message)
    info = catalog.DATASETS["fashion-mnist"]
    assert splits.samples.array.shape == (70000, 1, 28, 28)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == info.split_sizes
    assert splits.test[0] == 60000
    assert (splits.samples.array[:60000] / 255).mean() == pytest.approx(info.mean[0], abs=1e-5)


def _write_idx(folder):
    folder.mkdir()
    draw = np.random.default_rng(0)
    for name in fashion_mnist.FILES:
        count = 20 if name.startswith("train") else 10
        if "images" in name:
            header = struct.pack(">HBBIII", 0, 8, 3, count, 4, 4)
            content = draw.integers(0, 256, (count, 4, 4), dtype=np.uint8).tobytes()
        else:
            header = struct.pack(">HBBI", 0, 8, 1, count)
            content = (np.arange(count) % 10).astype(np.uint8).tobytes()
        (folder / name).write_bytes(gzip.compress(header + content))
