"""Views, divisions, the local cache, and what is refused of a specification."""

import os
from pathlib import Path

import numpy as np
import pytest

from nasmesh import limits
from nasmesh.data import cache, catalog, synthetic
from nasmesh.data import load as loading
from nasmesh.data.adding import writer
from nasmesh.data.load import load
from nasmesh.data.manifest import parse
from nasmesh.data.resolve import added as manifest_of
from nasmesh.data.resolve import resolve
from nasmesh.errors import Invalid, NotFound
from nasmesh.store.memory import MemoryStore
from nasmesh.v1 import dataset_pb2 as pb
from tests.builders import data_files as make

DIGITS = "datasets/digits"


@pytest.fixture(autouse=True)
def _home(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("NASMESH_HOME", str(tmp_path_factory.mktemp("home")))
    yield
    loading.forget()


def view(**fields) -> pb.DatasetSpec:
    return pb.DatasetSpec(dataset=DIGITS, view=pb.DataView(**fields))


def test_fractions_when_taken_then_smaller_ones_are_inside_larger_ones_and_stratified() -> None:
    whole = load(pb.DatasetSpec(dataset=DIGITS))
    before = {"train": set(whole.train.tolist()), "validation": set(whole.validation.tolist())}
    for fraction in (0.5, 0.25, 0.1):
        part = load(view(fraction=fraction))
        for name, larger in before.items():
            mine = getattr(part, name).tolist()
            assert len(mine) == round(fraction * len(getattr(whole, name)))
            assert set(mine) <= larger
            before[name] = set(mine)
        assert part.test.tolist() == whole.test.tolist()
        counts = np.bincount(part.labels[part.train], minlength=10)
        assert counts.max() - counts.min() <= 2 + 0.05 * len(part.train)
    other = load(pb.DatasetSpec(dataset=DIGITS, split_seed=1, view=pb.DataView(fraction=0.1)))
    assert set(other.train.tolist()) != before["train"]


@pytest.mark.parametrize("most", [40, 100, 500, 5000])
def test_a_bound_on_samples_holds_over_train_and_validation(most: int) -> None:
    part = load(view(max_samples=most))
    assert len(part.train) + len(part.validation) <= most
    assert len(part.train) + len(part.validation) >= min(most, 1438) - 1


def test_classes_when_chosen_then_are_numbered_in_that_order_in_every_split() -> None:
    whole, part = load(pb.DatasetSpec(dataset=DIGITS)), load(view(classes=[7, 2, 9]))
    assert (part.info.classes, resolve(view(classes=[7, 2, 9])).classes) == (3, 3)
    for name in ("train", "validation", "test"):
        rows = getattr(part, name)
        assert rows.tolist() == [i for i in getattr(whole, name).tolist() if whole.labels[i] in (7, 2, 9)]
        assert [(7, 2, 9)[label] for label in part.labels[rows]] == whole.labels[rows].tolist()


def test_a_class_that_is_only_validated_is_refused_by_name(tmp_path: Path) -> None:
    groups = np.repeat(np.arange(10), 20)
    labels = np.where(groups == 3, 2, np.arange(200) % 2)  # class 2 is in one group only
    np.savez(tmp_path / "d.npz", x=np.ones((200, 2)) * groups[:, None], y=labels, groups=groups)
    store = MemoryStore()
    spec = make.stored(tmp_path / "d.npz", store)
    outcomes = set()
    for seed in range(20):
        spec.split_seed = seed
        try:
            splits = load(spec, store)
        except Invalid as error:
            outcomes.add(f"{error.reason} {'class 2' in error.message}")
        else:
            outcomes.add("loaded")
            assert 2 in splits.labels[splits.train]
    assert outcomes == {"DATASET_CLASS_UNTRAINED True", "loaded"}
    spec.division = pb.DIVISION_RULE_STRATIFIED
    assert 2 in load(spec, store).labels[load(spec, store).train]


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (view(fraction=0.0), "view.fraction"),
        (view(fraction=float("nan")), "view.fraction"),
        (view(fraction=1.5), "view.fraction"),
        (view(max_samples=-1), "view.max_samples"),
        (view(max_samples=1), "view.max_samples"),
        (view(classes=[1]), "view.classes"),
        (view(classes=[1, 1]), "view.classes"),
        (view(classes=[1, 10]), "view.classes"),
        (view(classes=[-1, 2]), "view.classes"),
        (pb.DatasetSpec(dataset=DIGITS, division=pb.DIVISION_RULE_BY_GROUP), "division"),
        (pb.DatasetSpec(dataset="datasets/synthetic", test_fraction=0.1), "test_fraction"),
    ],
)
def test_specifications_of_no_sense_are_refused_by_field(spec: pb.DatasetSpec, field: str) -> None:
    with pytest.raises(Invalid) as caught:
        load(spec)
    assert caught.value.reason == "DATASET_SPEC_INVALID"
    assert [violation.field for violation in caught.value.violations] == [f"data.{field}"]


def test_split_sizes_that_are_foretold_are_nearly_those_that_come() -> None:
    for spec in (pb.DatasetSpec(dataset=DIGITS), view(fraction=0.3), view(max_samples=200), view(classes=[1, 5])):
        splits = load(spec)
        found = (len(splits.train), len(splits.validation), len(splits.test))
        assert catalog.split_sizes(spec, catalog.DATASETS["digits"]) == pytest.approx(found, rel=0.03, abs=8)


@pytest.fixture
def sharded(tmp_path: Path, monkeypatch) -> tuple[pb.DatasetSpec, MemoryStore, np.ndarray]:
    """A data set of several shards."""
    monkeypatch.setattr(limits, "DATASET_SHARD_BYTES", 10_000)
    monkeypatch.setattr(writer.limits, "DATASET_SHARD_BYTES", 10_000)
    images = np.random.default_rng(2).integers(0, 256, (300, 1, 12, 12), dtype=np.uint8)
    np.savez(tmp_path / "d.npz", x=images, y=np.arange(300) % 3)
    store = MemoryStore()
    spec = make.stored(tmp_path / "d.npz", store)
    assert len(manifest_of(spec.manifest, store).shards) == 5
    return spec, store, images


def open_streamed(spec: pb.DatasetSpec, store: MemoryStore) -> cache.Cached:
    return cache.open_cached(manifest_of(spec.manifest, store), spec.manifest.sha256, store, memory_bytes=0)


def test_rows_of_a_streamed_set_are_those_of_one_in_memory(sharded) -> None:
    spec, store, images = sharded
    source = open_streamed(spec, store).samples
    assert source.array is None
    assert (source.dims, source.dtype, len(source)) == ((1, 12, 12), np.uint8, 300)
    rng = np.random.default_rng(4)
    for rows in (
        np.arange(300),
        rng.permutation(300),
        rng.integers(0, 300, 70),
        np.zeros(0, dtype=int),
        [5],
        [299, 0, 0],
    ):
        assert (source.rows(np.asarray(rows, dtype=np.int64)) == images[np.asarray(rows, dtype=int)]).all()
    with pytest.raises(IndexError):
        source.rows(np.asarray([300]))


def test_a_cache_that_was_changed_on_disk_is_fetched_anew_or_the_change_refused(sharded) -> None:
    spec, store, images = sharded
    load(spec, store)
    kept = cache.folder_of(spec.manifest.sha256) / "samples.bin"
    damaged = bytearray(kept.read_bytes())
    damaged[77] ^= 1
    stamp = kept.stat()
    kept.write_bytes(bytes(damaged))
    os.utime(kept, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # so that only the digest can tell
    loading.forget()
    assert (load(spec, store).samples.array == images).all()
    kept.write_bytes(bytes(damaged))
    assert (open_streamed(spec, store).samples.rows(np.arange(300)) == images).all()


def test_copies_that_were_opened_longest_ago_make_room_for_new_ones(sharded, tmp_path: Path, monkeypatch) -> None:
    spec, store, images = sharded
    specs = [spec]
    for number in range(2):
        np.savez(tmp_path / f"{number}.npz", x=images + np.uint8(number + 1), y=np.arange(300) % 3)
        specs.append(make.stored(tmp_path / f"{number}.npz", store))
    one = images.nbytes + 4000
    monkeypatch.setattr(cache.limits, "DATASET_CACHE_BYTES", 2 * one)
    folders = [cache.folder_of(found.manifest.sha256) for found in specs]
    left = folders[0].with_name("0" * 64 + ".crashed")
    left.mkdir(parents=True)
    os.utime(left, (0, 0))
    for step, found in enumerate((specs[0], specs[1], specs[0])):
        load(found, store)
        loading.forget()
        os.utime(cache.folder_of(found.manifest.sha256) / "stamp.json", (step, step))
    load(specs[2], store)
    assert [folder.exists() for folder in folders] == [True, False, True]
    assert not left.exists()
    assert (load(specs[1], store).samples.array == images + np.uint8(1)).all()


def test_objects_that_changed_in_the_store_or_are_gone_are_refused(sharded) -> None:
    spec, store, _ = sharded
    shard = manifest_of(spec.manifest, store).shards[2].object
    other = MemoryStore()
    for entry in manifest_of(spec.manifest, store).shards:
        if entry.object != shard:
            other.put(make.ObjectKind.DATASET, store.get(entry.object), extension="bin")
    other.put(make.ObjectKind.DATASET, store.get(spec.manifest), extension="bin")
    loading.forget()
    with pytest.raises(NotFound) as gone:
        load(spec, other)
    assert gone.value.reason == "OBJECT_MISSING"
    manifest = manifest_of(spec.manifest, store)
    for change in ("content_digest", "classes", "shards"):
        wrong = type(manifest)()
        wrong.CopyFrom(manifest)
        if change == "content_digest":
            wrong.content_digest = "0" * 64
        elif change == "classes":
            wrong.classes, wrong.class_names[:], wrong.class_counts[:] = 2, ["a", "b"], [150, 150]
        else:
            wrong.shards[0].CopyFrom(manifest.shards[1])
        ref = store.put(make.ObjectKind.DATASET, wrong.SerializeToString(), extension="bin")
        with pytest.raises(Invalid) as caught:
            load(pb.DatasetSpec(dataset="datasets/mine", manifest=ref), store)
        assert caught.value.reason == "DATASET_CORRUPT"


def test_manifests_of_no_sense_are_refused_by_field(sharded) -> None:
    spec, store, _ = sharded
    manifest = manifest_of(spec.manifest, store)
    for field, value in (
        ("format_version", 2),
        ("kind", 9),
        ("task", 0),
        ("samples", 299),
        ("test_samples", 300),
        ("classes", 1),
        ("content_digest", "x"),
        ("targets", 3),
    ):
        wrong = type(manifest)()
        wrong.CopyFrom(manifest)
        setattr(wrong, field, value)
        with pytest.raises(Invalid) as caught:
            parse(wrong.SerializeToString())
        assert caught.value.reason == "MANIFEST_INVALID", field
    with pytest.raises(Invalid):
        parse(b"\xff\xff\xff")


def test_the_synthetic_set_is_as_difficult_as_it_says() -> None:
    splits = load(pb.DatasetSpec(dataset="datasets/synthetic"))
    assert splits.digest == catalog.DATASETS["synthetic"].digest
    assert (len(splits.train), len(splits.validation), len(splits.test)) == catalog.DATASETS["synthetic"].split_sizes
    everything = splits.samples.array[: synthetic.TRAIN] / 255
    assert everything.mean() == pytest.approx(splits.info.mean[0], abs=1e-5)
    assert everything.std() == pytest.approx(splits.info.std[0], abs=1e-5)
    images, labels = synthetic.make(12_000, seed=77)
    right = (synthetic.posterior(images).argmax(axis=1) == labels).mean()
    # 12,000 samples: a standard deviation of 0.0021.
    assert right == pytest.approx(synthetic.BAYES_ACCURACY, abs=0.009)
    assert (synthetic.make(500, seed=77)[0] == images[:500]).all()
