"""Shards and manifests with bytes changed at random: what was meant, or a typed refusal; never anything else."""

import random
from collections import Counter

import numpy as np

from nasmesh.data.info import IMAGE
from nasmesh.data.manifest import parse
from nasmesh.data.shards import Shard, decode, encode
from nasmesh.errors import Invalid
from nasmesh.v1 import dataset_manifest_pb2 as pb
from nasmesh.v1 import dataset_pb2, object_pb2

TRIES = 3000
SEED = 20260101


def manifest() -> pb.DatasetManifest:
    ref = object_pb2.ObjectRef(key=f"datasets/sha256/aa/{'a' * 64}.bin", sha256="a" * 64, size_bytes=9)
    made = pb.DatasetManifest(
        format_version=1,
        kind=IMAGE,
        task=dataset_pb2.LEARNING_TASK_CLASSIFICATION,
        sample_dims=[1, 4, 4],
        classes=3,
        class_counts=[4, 4, 4],
        shards=[pb.DatasetShard(object=ref, samples=12)],
        samples=12,
        mean=[0.5],
        std=[0.2],
        content_digest="b" * 64,
        grouped=True,
    )
    for split, count in ((1, 8), (2, 2), (3, 2)):
        made.splits.add(split=dataset_pb2.SplitSize(split=split).split, samples=count)
    return made


def shard() -> Shard:
    images = np.arange(12 * 16, dtype=np.uint8).reshape(12, 1, 4, 4)
    return Shard(images, np.arange(12, dtype="<i8") % 3, np.arange(12, dtype="<i8") // 2)


def changed(content: bytes, rng: random.Random) -> bytes:
    """Return the bytes with some changed, cut out or put in."""
    found = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(found))
        kind = rng.randrange(4)
        if kind == 0:
            found[at] = rng.randrange(256)
        elif kind == 1:
            del found[at : at + rng.randint(1, 40)]
        elif kind == 2:
            found[at:at] = rng.randbytes(rng.randint(1, 40))
        else:
            found[at] ^= 1 << rng.randrange(8)
        if not found:
            break
    return bytes(found)


def test_changed_shards_are_read_as_promised_or_refused() -> None:
    rng, described, whole = random.Random(SEED), manifest(), encode(shard(), regression=False)
    reasons: Counter[str] = Counter()
    for _ in range(TRIES):
        try:
            found = decode(changed(whole, rng), described, 0)
        except Invalid as error:
            reasons[error.reason] += 1
        else:
            assert (found.samples.shape, found.samples.dtype) == ((12, 1, 4, 4), np.uint8)
            assert ((found.answers >= 0) & (found.answers < 3)).all()
    assert set(reasons) == {"DATASET_CORRUPT"}, f"seed {SEED}: {reasons}"
    assert (decode(whole, described, 0).samples == shard().samples).all()


def test_changed_manifests_hold_together_or_are_refused() -> None:
    rng, whole = random.Random(SEED), manifest().SerializeToString()
    assert parse(whole) == manifest()
    reasons: Counter[str] = Counter()
    for _ in range(TRIES):
        try:
            found = parse(changed(whole, rng))
        except Invalid as error:
            reasons[error.reason] += 1
        else:
            assert sum(part.samples for part in found.shards) == found.samples == sum(found.class_counts)
    assert set(reasons) == {"MANIFEST_INVALID"}, f"seed {SEED}: {reasons}"
    assert reasons.total() > TRIES // 2
