"""What people have, read, stored and loaded again: the same samples, labels and splits."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from nasmesh.data import load as loading
from nasmesh.data.info import IMAGE, REGRESSION, SERIES, TABLE
from tests.builders import data_files as make


@pytest.fixture(autouse=True)
def _home(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("NASMESH_HOME", str(tmp_path_factory.mktemp("home")))
    yield
    loading.forget()


def test_folder_of_images_when_added_then_every_pixel_and_class_is_there(tmp_path: Path) -> None:
    pixels = make.write_folder(tmp_path / "images", ("b", "10", "9"), each=12)
    manifest, splits = make.added(tmp_path / "images")
    assert list(splits.info.class_names) == ["9", "10", "b"]  # numbers in their order
    assert (manifest.kind, splits.info.sample_dims, splits.info.classes) == (IMAGE, (1, 6, 6), 3)
    names = sorted(pixels, key=lambda name: (["9", "10", "b"].index(name.split("/")[0]), name))
    assert (splits.samples.array[:, 0] == np.stack([pixels[name] for name in names])).all()
    assert splits.labels.tolist() == [0] * 12 + [1] * 12 + [2] * 12
    assert len(splits.train) + len(splits.validation) + len(splits.test) == 36
    everything = splits.samples.array / 255
    assert manifest.mean == pytest.approx([everything.mean()])
    assert manifest.std == pytest.approx([everything.std()])
    again, _ = make.added(tmp_path / "images")
    assert again == manifest


def test_folder_with_train_and_test_when_added_then_the_test_split_is_the_folders(tmp_path: Path) -> None:
    make.write_folder(tmp_path / "train", ("a", "b"), each=10)
    make.write_folder(tmp_path / "val", ("a", "b"), each=3, seed=1)
    make.write_folder(tmp_path / "test", ("a", "b"), each=4, seed=2)
    (tmp_path / "Thumbs.db").write_bytes(b"litter")
    manifest, splits = make.added(tmp_path)
    assert (manifest.samples, manifest.test_samples) == (34, 8)
    assert splits.test.tolist() == list(range(26, 34))
    assert np.bincount(splits.labels[splits.test]).tolist() == [4, 4]


def test_images_of_a_csv_when_added_then_have_their_labels_or_targets(tmp_path: Path) -> None:
    make.write_folder(tmp_path, ("pictures",), each=20)
    rows = [(f"pictures/{i:03}.png", "ab"[i % 2], i / 4, "test" if i >= 15 else "train") for i in range(20)]
    table = make.write_csv(tmp_path / "list.csv", ("file", "label", "age", "part"), rows)
    _, splits = make.added(table, split="part")
    assert splits.labels.tolist() == [i % 2 for i in range(20)]
    assert splits.test.tolist() == [15, 16, 17, 18, 19]
    manifest, splits = make.added(table, target=("age",))
    assert (manifest.task, manifest.targets, len(splits.labels)) == (REGRESSION, 1, 0)
    ages = splits.targets[:, 0] * manifest.target_std[0] + manifest.target_mean[0]
    assert ages == pytest.approx([i / 4 for i in range(20)], abs=1e-5)


@pytest.mark.parametrize("form", ["csv", "parquet", "folder"])
def test_tables_when_added_then_columns_are_samples(tmp_path: Path, form: str) -> None:
    rng = np.random.default_rng(3)
    rows = [(*(round(float(v), 4) for v in rng.normal(size=3)), int(i % 3)) for i in range(90)]
    header = ("a", "b", "c", "label")
    if form == "parquet":
        columns = dict(zip(header, zip(*rows, strict=True), strict=True))
        path = tmp_path / "t.parquet"
        parquet.write_table(pa.table({name: list(values) for name, values in columns.items()}), path)
    elif form == "folder":
        path = tmp_path / "parts"
        path.mkdir()
        make.write_csv(path / "1.csv", header, rows[:40])
        make.write_csv(path / "2.csv", header, rows[40:])
    else:
        path = make.write_csv(tmp_path / "t.csv", header, rows)
    manifest, splits = make.added(path)
    assert (manifest.kind, splits.info.sample_dims, splits.info.classes) == (TABLE, (3,), 3)
    assert splits.samples.array == pytest.approx(np.asarray([row[:3] for row in rows]), abs=1e-5)
    assert splits.labels.tolist() == [i % 3 for i in range(90)]


def test_series_of_a_table_when_windows_are_cut_then_none_crosses_a_subject(tmp_path: Path) -> None:
    rows = []
    for subject in range(8):
        for step in range(23):
            rows.append((subject * 100 + step, -step, f"s{subject}", "walk" if step < 12 else "sit"))
    path = make.write_csv(tmp_path / "t.csv", ("x", "y", "who", "label"), rows)
    manifest, splits = make.added(path, window=5, stride=2, group="who")
    assert (manifest.kind, tuple(manifest.sample_dims), manifest.grouped) == (SERIES, (2, 5), True)
    assert manifest.samples == 8 * 10
    first = splits.samples.array[0]
    assert first.tolist() == [[0, 1, 2, 3, 4], [0, -1, -2, -3, -4]]
    starts = splits.samples.array[:, 0, 0]
    assert [int(s) % 100 for s in starts[:10]] == [0, 2, 4, 6, 8, 10, 12, 14, 16, 18]
    walking = [int(s) % 100 + 2 < 12 for s in starts]  # the middle of five steps says which label is commonest
    assert [splits.info.class_names[label] == "walk" for label in splits.labels] == walking
    parts = [{int(s) // 100 for s in starts[part]} for part in (splits.train, splits.validation, splits.test)]
    assert not parts[0] & parts[1]
    assert not parts[0] & parts[2]
    assert not parts[1] & parts[2]
    assert sum(map(len, parts)) == 8


def test_recordings_in_a_folder_when_windows_are_cut_then_each_file_is_a_group(tmp_path: Path) -> None:
    for number in range(6):
        rows = [(number * 10 + step / 10, "on" if step % 20 < 10 else "off") for step in range(40)]
        make.write_csv(tmp_path / f"{number}.csv", ("v", "label"), rows)
    manifest, splits = make.added(tmp_path, window=10)
    assert (manifest.grouped, manifest.samples) == (True, 24)
    first = splits.samples.array[:, 0, 0]
    parts = [set((first[part] // 10).tolist()) for part in (splits.train, splits.validation, splits.test)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 6


@pytest.mark.parametrize("layout", ["nchw", "nhwc", "unit"])
def test_arrays_of_images_when_added_then_channels_come_first(tmp_path: Path, layout: str) -> None:
    rng = np.random.default_rng(5)
    images = rng.integers(0, 256, (30, 3, 7, 7), dtype=np.uint8)
    labels = np.arange(30) % 3 + 1
    given = {"nchw": images, "nhwc": images.transpose(0, 2, 3, 1), "unit": (images / 255).astype(np.float32)}[layout]
    np.savez(tmp_path / "d.npz", x=np.ascontiguousarray(given), y=labels)
    manifest, splits = make.added(tmp_path / "d.npz")
    assert (splits.samples.array == images).all()
    assert list(manifest.class_names) == ["1", "2", "3"]
    assert splits.labels.tolist() == (labels - 1).tolist()


def test_arrays_with_groups_and_series_when_added_then_divided_by_subject(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    folder = tmp_path / "arrays"
    folder.mkdir()
    np.save(folder / "x.npy", rng.normal(size=(60, 2, 16)))
    np.save(folder / "y.npy", np.arange(60) % 2)
    np.save(folder / "groups.npy", np.repeat([f"p{i}" for i in range(6)], 10))
    manifest, splits = make.added(folder)
    assert (manifest.kind, manifest.grouped, tuple(manifest.sample_dims)) == (SERIES, True, (2, 16))
    people = [set((part // 10).tolist()) for part in (splits.train, splits.validation, splits.test)]
    assert sum(map(len, people)) == 6
    assert len(set.union(*people)) == 6


def test_idx_files_when_added_then_are_those_images(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    images = rng.integers(0, 256, (50, 5, 5), dtype=np.uint8)
    labels = (np.arange(50) % 5).astype(np.uint8)

    def write(name: str, array: np.ndarray) -> None:
        head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
        with gzip.open(tmp_path / f"{name}.gz", "wb") as file:
            file.write(head + array.tobytes())

    write("train-images-idx3-ubyte", images[:40])
    write("train-labels-idx1-ubyte", labels[:40])
    write("t10k-images-idx3-ubyte", images[40:])
    write("t10k-labels-idx1-ubyte", labels[40:])
    manifest, splits = make.added(tmp_path)
    assert (manifest.samples, manifest.test_samples, manifest.source) == (50, 10, "idx")
    assert (splits.samples.array[:, 0] == images).all()
    assert splits.labels.tolist() == labels.tolist()


def test_regression_when_loaded_then_targets_are_standardised_and_splits_stratified(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    x = rng.normal(size=(500, 4))
    np.savez(tmp_path / "d.npz", x=x, y=np.stack([x[:, 0] * 3 + 7, x[:, 1] ** 2], axis=1))
    manifest, splits = make.added(tmp_path / "d.npz")
    assert (manifest.task, manifest.targets, splits.info.outputs) == (REGRESSION, 2, 2)
    assert splits.targets.mean(axis=0) == pytest.approx([0, 0], abs=1e-5)
    assert splits.targets.std(axis=0) == pytest.approx([1, 1], abs=1e-5)
    tenths = np.digitize(splits.targets[:, 0], np.quantile(splits.targets[:, 0], np.linspace(0, 1, 11)[1:-1]))
    assert np.bincount(tenths[splits.test]).tolist() == [10] * 10


@pytest.mark.parametrize(("mark", "name"), [(",", "t.csv"), (";", "t.csv"), ("\t", "t.tsv")])
def test_truth_values_and_every_mark_between_columns_are_read(tmp_path: Path, mark: str, name: str) -> None:
    rows = [("a", "old", "label"), *((index / 4, index % 3 == 0, index % 2 == 0) for index in range(60))]
    path = tmp_path / name
    path.write_text("\r\n".join(mark.join(map(str, row)) for row in rows), encoding="utf-8-sig")
    manifest, splits = make.added(path)
    assert (list(manifest.sample_dims), manifest.classes) == ([2], 2)
    assert splits.samples.array[:4].tolist() == [[0, 1], [0.25, 0], [0.5, 0], [0.75, 1]]
    assert splits.labels[:4].tolist() == [1, 0, 1, 0]


def test_names_of_columns_and_targets_are_kept_in_order(tmp_path: Path) -> None:
    rows = [(index / 7, f"s{index // 10}", -index / 3, index // 5 % 2, index / 9) for index in range(60)]
    path = make.write_csv(tmp_path / "t.csv", ("warm", "who", "cold", "u", "v"), rows)
    manifest, _ = make.added(path, target=("v", "u"), group="who")
    assert (list(manifest.channel_names), list(manifest.target_names)) == (["warm", "cold"], ["v", "u"])
    manifest, _ = make.added(path, label="u", group="who", window=5)
    assert (list(manifest.channel_names), list(manifest.target_names)) == (["warm", "cold", "v"], [])


@pytest.mark.parametrize("named", [{}, {"split": "Split"}])
def test_a_column_that_says_which_rows_test_is_found_and_theirs_are_the_test_split(tmp_path: Path, named) -> None:
    rows = [(index / 7, "ab"[index % 2], "test" if index % 5 == 0 else "train") for index in range(100)]
    path = make.write_csv(tmp_path / "t.csv", ("v", "label", "Split"), rows)
    manifest, splits = make.added(path, **named)
    assert (manifest.test_samples, list(manifest.channel_names)) == (20, ["v"])
    assert splits.samples.array[splits.test, 0].tolist() == pytest.approx([index / 7 for index in range(0, 100, 5)])
    assert make.added(path, drop=("Split",))[0].test_samples == 0
