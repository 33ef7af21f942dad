"""Data that cannot be used as it is: refused with what is wrong, where, and the way out; or left out by choice."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from nasmesh.data import load as loading
from nasmesh.errors import Invalid
from nasmesh.store.memory import MemoryStore
from tests.builders import data_files as make


@pytest.fixture(autouse=True)
def _home(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("NASMESH_HOME", str(tmp_path_factory.mktemp("home")))
    yield
    loading.forget()


def refused(path: Path, reason: str, *words: str, **options) -> Invalid:
    with pytest.raises(Invalid) as caught:
        make.stored(path, MemoryStore(), **options)
    assert caught.value.reason == reason, caught.value
    for word in words:
        assert word in caught.value.message
    assert caught.value.field
    return caught.value


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make.write_folder(tmp_path / "images", ("a", "b"), each=10)
    return tmp_path / "images"


def grey(height: int, width: int) -> np.ndarray:
    return np.arange(height * width, dtype=np.uint8).reshape(height, width)


def test_images_of_mixed_size_are_refused_with_the_commonest_and_scaled_by_choice(folder: Path) -> None:
    make.write_image(folder / "a" / "odd.png", grey(9, 4))
    refused(folder, "DATASET_SIZES_MIXED", "20 of 6x6", "1 of 9x4", "a/odd.png", "--size 6x6")
    manifest, splits = make.added(folder, size=(5, 5))
    assert (tuple(manifest.sample_dims), manifest.samples) == ((1, 5, 5), 21)
    assert splits.samples.dims == (1, 5, 5)


@pytest.mark.parametrize(("mode", "name"), [("RGB", "rgb"), ("RGBA", "transparent"), ("P", "rgb"), ("CMYK", "cmyk")])
def test_images_of_mixed_mode_are_refused_and_converted_by_choice(folder: Path, mode: str, name: str) -> None:
    colour = np.stack([grey(6, 6)] * 3, axis=2)
    odd = folder / "b" / ("odd.tif" if mode == "CMYK" else "odd.png")
    make.write_image(odd, colour, mode)
    refused(folder, "DATASET_MODES_MIXED", "20 grey", f"1 {name}", f"b/{odd.name}", "--mode")
    for wanted, channels in (("grey", 1), ("rgb", 3)):
        manifest, _ = make.added(folder, mode=wanted)
        assert (manifest.sample_dims[0], manifest.samples) == (channels, 21)


def test_corrupt_images_are_named_and_counted_or_skipped_by_choice(folder: Path) -> None:
    (folder / "a" / "broken.png").write_bytes((folder / "a" / "000.png").read_bytes()[:60])
    (folder / "a" / "empty.jpg").write_bytes(b"")
    (folder / "b" / "notes.txt").write_text("no image")
    (folder / "stray.png").write_bytes((folder / "a" / "000.png").read_bytes())
    error = refused(folder, "DATASET_FILES_CORRUPT", "4 files", "a/empty.jpg", "b/notes.txt", "stray.png", "--skip-bad")
    assert error.metadata["count"] == "4"
    assert "a/broken.png" in error.metadata["files"]
    manifest, _ = make.added(folder, skip_bad=True)
    assert (manifest.samples, manifest.skipped_count) == (20, 4)
    assert {file.path for file in manifest.skipped} == {"a/broken.png", "a/empty.jpg", "b/notes.txt", "stray.png"}
    assert all(file.reason for file in manifest.skipped)


def test_an_image_that_is_a_program_for_an_interpreter_is_no_image(folder: Path) -> None:
    (folder / "a" / "x.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 6\nshowpage\n")
    refused(folder, "DATASET_FILES_CORRUPT", "a/x.png")


def test_a_file_that_changes_while_it_is_read_is_noticed(folder: Path) -> None:
    from nasmesh.data.adding.add import open_reader
    from nasmesh.data.adding.options import Options

    reader = open_reader(folder, Options())
    os.utime(folder / "a" / "003.png", (1, 1))
    with pytest.raises(Invalid) as caught:
        list(reader.batches())
    assert caught.value.reason == "DATASET_CHANGED"
    assert "a/003.png" in caught.value.message


def test_classes_that_are_empty_or_one_or_only_tested_are_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "c").mkdir()
    refused(folder, "DATASET_CLASS_EMPTY", "(c)")
    (folder / "c" / "x.png").write_bytes(b"rubbish")
    refused(folder, "DATASET_CLASS_EMPTY", "(c)", skip_bad=True)
    make.write_folder(tmp_path / "one", ("only",), each=5)
    refused(tmp_path / "one", "DATASET_CLASSES_TOO_FEW", "only")
    make.write_folder(tmp_path / "split" / "train", ("a", "b"), each=10)
    make.write_folder(tmp_path / "split" / "test", ("a", "z"), each=2)
    refused(tmp_path / "split", "DATASET_CLASS_UNTRAINED", "(z)")


def test_labels_out_of_range_are_refused_or_left_out(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(60, 3))
    y = np.arange(60) % 3
    y[7] = -1
    np.savez(tmp_path / "d.npz", x=x, y=y)
    refused(tmp_path / "d.npz", "DATASET_LABELS_INVALID", "-1")
    manifest, _ = make.added(tmp_path / "d.npz", skip_bad=True)
    assert (manifest.samples, manifest.skipped_count, manifest.skipped[0].path) == (59, 1, "d.npz:x[7]")
    y[7] = 9
    np.savez(tmp_path / "d.npz", x=x, y=y)
    refused(tmp_path / "d.npz", "DATASET_LABELS_INVALID", "outside 0 to 2", "9", classes=3)
    manifest, _ = make.added(tmp_path / "d.npz", classes=3, skip_bad=True)
    assert list(manifest.class_counts) == [20, 19, 20]
    refused(tmp_path / "d.npz", "DATASET_CLASS_EMPTY", classes=12)


def test_values_that_are_no_numbers_are_named_or_left_out(tmp_path: Path) -> None:
    rows = [[i / 7, -i, i % 2] for i in range(60)]
    rows[4][1] = "NaN"
    rows[9][0] = ""
    rows[11][2] = ""
    path = make.write_csv(tmp_path / "t.csv", ("a", "b", "label"), rows)
    error = refused(
        path, "DATASET_FILES_CORRUPT", "3 rows", "t.csv, row 5: b", "t.csv, row 10: a", "row 12: has no label"
    )
    assert error.metadata["count"] == "3"
    manifest, _ = make.added(path, skip_bad=True)
    assert (manifest.samples, manifest.skipped_count) == (57, 3)
    x = np.ones((40, 2))
    x[3, 1] = np.inf
    np.savez(tmp_path / "d.npz", x=x, y=np.arange(40) % 2)
    refused(tmp_path / "d.npz", "DATASET_FILES_CORRUPT", "1 sample ", "d.npz:x[3]")


def test_a_table_whose_values_change_their_kind_further_down_is_refused(tmp_path: Path) -> None:
    rows = [[i, i % 2] for i in range(600_000)]
    rows[-1][0] = "oops"
    path = make.write_csv(tmp_path / "t.csv", ("a", "label"), rows)
    refused(path, "DATASET_FILES_CORRUPT", "t.csv", "oops")


def test_arrays_of_objects_are_never_unpickled(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    x = np.empty(4, dtype=object)
    x[:] = [Bomb()] * 4
    np.savez(tmp_path / "d.npz", x=x, y=np.arange(4))
    refused(tmp_path / "d.npz", "DATASET_PICKLED", "d.npz:x")
    (tmp_path / "arrays").mkdir()
    np.save(tmp_path / "arrays" / "x.npy", x, allow_pickle=True)
    np.save(tmp_path / "arrays" / "y.npy", np.arange(4))
    refused(tmp_path / "arrays", "DATASET_PICKLED", "x.npy")
    (tmp_path / "arrays" / "x.npy").write_bytes(pickle.dumps(Bomb()))
    refused(tmp_path / "arrays", "DATASET_FILES_CORRUPT", "x.npy")
    assert not (tmp_path / "ran").exists()


def test_arrays_that_are_cut_short_or_do_not_fit_each_other_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "arrays"
    folder.mkdir()
    np.save(folder / "x.npy", np.ones((50, 4)))
    np.save(folder / "y.npy", np.arange(49) % 2)
    refused(folder, "DATASET_LENGTHS_DIFFER", "50 rows", "49")
    np.save(folder / "y.npy", np.arange(50) % 2)
    content = (folder / "x.npy").read_bytes()
    (folder / "x.npy").write_bytes(content[:-8])
    refused(folder, "DATASET_FILES_CORRUPT", "x.npy", "cut short")


def test_pixels_and_layouts_that_say_too_little_are_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    np.savez(tmp_path / "a.npz", x=rng.integers(0, 256, (20, 5, 6, 7), dtype=np.uint8), y=np.arange(20) % 2)
    refused(tmp_path / "a.npz", "DATASET_LAYOUT_AMBIGUOUS", "--layout")
    assert make.added(tmp_path / "a.npz", layout="nhwc")[0].sample_dims == [7, 5, 6]
    np.savez(tmp_path / "b.npz", x=rng.normal(size=(20, 3, 6, 6)), y=np.arange(20) % 2)
    refused(tmp_path / "b.npz", "DATASET_PIXELS_NOT_BYTES", "uint8")


@pytest.mark.parametrize(
    ("options", "reason", "field"),
    [
        ({"window": 3}, "DATASET_OPTION_UNUSED", "window"),
        ({"task": "guess"}, "DATASET_OPTION_INVALID", "task"),
        ({"size": (0, 4)}, "DATASET_OPTION_INVALID", "size"),
        ({"stride": 2}, "DATASET_OPTION_INVALID", "stride"),
        ({"label": "a", "target": ("b",)}, "DATASET_OPTION_INVALID", "target"),
        ({"drop": ("a",)}, "DATASET_OPTION_UNUSED", "drop"),
    ],
)
def test_options_that_the_files_have_no_use_for_are_refused(folder: Path, options, reason: str, field: str) -> None:
    assert refused(folder, reason, **options).field == field


def test_tables_whose_columns_are_unclear_name_what_there_is(tmp_path: Path) -> None:
    path = make.write_csv(tmp_path / "t.csv", ("a", "b", "name"), [(i / 9, i % 2, f"n{i}") for i in range(40)])
    refused(path, "DATASET_COLUMN_UNKNOWN", "--label", "a, b, name")
    refused(path, "DATASET_COLUMN_UNKNOWN", "'x'", label="x")
    refused(path, "DATASET_COLUMN_TEXT", "--drop name", label="b")
    refused(path, "DATASET_LABELS_INVALID", "no numbers", target=("name",))
    assert make.added(path, label="b", drop=("name",))[0].classes == 2


def test_paths_with_nothing_to_read_are_refused(tmp_path: Path) -> None:
    refused(tmp_path / "none", "DATASET_PATH_UNKNOWN")
    (tmp_path / "a.doc").write_bytes(b"x")
    refused(tmp_path / "a.doc", "DATASET_FORMAT_UNKNOWN", "CIFAR")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "DATASET_FORMAT_UNKNOWN")
    path = make.write_csv(tmp_path / "t.csv", ("a", "label"), [])
    refused(path, "DATASET_EMPTY")


def test_groups_too_few_to_divide_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.ones((40, 2)), y=np.arange(40) % 2, groups=np.zeros(40, dtype=int))
    refused(tmp_path / "d.npz", "DATASET_GROUPS_TOO_FEW", "1 group")


@pytest.mark.parametrize("form", ["csv", "npz"])
def test_whole_numbers_that_may_be_amounts_are_not_taken_for_classes_in_silence(tmp_path: Path, form: str) -> None:
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(200, 2)), rng.integers(18, 90, 200)

    def written(answers: np.ndarray) -> Path:
        if form == "npz":
            np.savez(tmp_path / "d.npz", x=x, y=answers)
            return tmp_path / "d.npz"
        return make.write_csv(tmp_path / "d.csv", ("a", "b", "y"), np.c_[x, answers].tolist())

    path = written(y)
    error = refused(path, "DATASET_TASK_AMBIGUOUS", "in 200 samples", "--target", "--label")
    assert error.field == "task"
    assert make.added(path, target=("y",))[0].targets == 1
    assert make.added(path, task="regression")[0].targets == 1
    assert make.added(path, label="y")[0].classes == len(np.unique(y))
    assert make.added(written(np.arange(200) % 30 + 1))[0].classes == 30


def test_windows_that_share_rows_need_something_that_keeps_them_in_one_split(tmp_path: Path) -> None:
    rows = [(step / 9, f"s{step // 50}", "on" if step % 20 < 10 else "off") for step in range(400)]
    path = make.write_csv(tmp_path / "t.csv", ("v", "who", "label"), rows)
    error = refused(path, "DATASET_WINDOWS_SHARED", "--group", drop=("who",), window=10, stride=5)
    assert error.field == "stride"
    error = refused(path, "DATASET_EMPTY", "sort the rows by group", group="who", window=60)
    assert error.field == "window"
    assert make.added(path, group="who", window=10, stride=5)[0].samples == 8 * 9
    assert make.added(path, drop=("who",), window=10)[0].samples == 40
    assert make.added(path, drop=("who",), window=10, stride=15)[0].samples == 27


@pytest.mark.filterwarnings("error")
def test_numbers_too_large_for_what_is_stored_are_no_finite_numbers(tmp_path: Path) -> None:
    rows = [[i / 7, -i / 3, i % 2] for i in range(60)]
    rows[4][1] = 1e39
    path = make.write_csv(tmp_path / "t.csv", ("a", "b", "label"), rows)
    refused(path, "DATASET_FILES_CORRUPT", "1 row ", "t.csv, row 5: b")
    refused(path, "DATASET_FILES_CORRUPT", "1 row ", "t.csv, row 5", label="", target=("b",))
    x = np.ones((40, 2))
    x[3, 1] = 1e39
    np.savez(tmp_path / "d.npz", x=x, y=np.arange(40) % 2)
    refused(tmp_path / "d.npz", "DATASET_FILES_CORRUPT", "1 sample ", "d.npz:x[3]")


def test_pipes_are_not_waited_for(folder: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    refused(tmp_path / "pipe.csv", "DATASET_FORMAT_UNKNOWN", "neither a file nor a folder")
    os.mkfifo(folder / "a" / "pipe.png")
    refused(folder, "DATASET_FILES_CORRUPT", "a/pipe.png: is no file")


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("goes_on", [False, True])
def test_a_column_that_only_numbers_the_rows_is_refused_by_name(tmp_path: Path, first: int, goes_on: bool) -> None:
    for part in range(2):
        start = first + 40 * part * goes_on
        rows = [(start + index, index % 7, index % 2) for index in range(40)]
        make.write_csv(tmp_path / f"{part}.csv", ("id", "v", "label"), rows)
    error = refused(tmp_path, "DATASET_COLUMN_NUMBERS_ROWS", "column id", "--drop id")
    assert error.field == "drop"
    assert list(make.added(tmp_path, drop=("id",))[0].channel_names) == ["v"]
    rows[7] = (3, 0, 1)  # an amount that happens to grow is none
    make.write_csv(tmp_path / "1.csv", ("id", "v", "label"), rows)
    assert list(make.added(tmp_path)[0].channel_names) == ["id", "v"]
