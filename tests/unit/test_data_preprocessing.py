import json

import numpy as np
import pytest

from nasmesh.data.preprocessing import KEY, Preprocessing, from_metadata
from nasmesh.errors import Rejected

IMAGES = np.random.default_rng(1).integers(0, 256, (3, 2, 5, 4), dtype=np.uint8)


def test_apply_when_mean_and_std_are_given_then_normalises_each_channel():
    got = Preprocessing(mean=(0.5, 0.1), std=(0.25, 2.0)).apply(IMAGES)
    expected = (IMAGES / 255 - np.array([0.5, 0.1])[:, None, None]) / np.array([0.25, 2.0])[:, None, None]
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, atol=2e-6)


def test_apply_when_nothing_is_given_then_scales_to_one():
    np.testing.assert_allclose(Preprocessing().apply(IMAGES), IMAGES / 255, atol=1e-6)


def test_apply_when_per_image_then_follows_tensorflows_rule():
    flat = np.zeros((1, 2, 5, 4), dtype=np.uint8)
    got = Preprocessing(per_image=True).apply(np.concatenate([IMAGES, flat]))
    for image, result in zip(IMAGES / 255, got, strict=False):
        expected = (image - image.mean()) / max(image.std(), 1 / np.sqrt(image.size))
        np.testing.assert_allclose(result, expected, atol=1e-5)
    assert not got[-1].any()


@pytest.mark.parametrize(
    "text",
    ["no json", "[]", '{"mean": [0.1]}', '{"std": [1, 0]}', '{"mean": ["a", 1]}', '{"mean": [NaN, 0]}', '{"std": 3}'],
)
def test_from_metadata_when_malformed_then_refuses(text):
    with pytest.raises(Rejected) as caught:
        from_metadata({KEY: text}, channels=2)
    assert caught.value.reason == "PREPROCESSING_INVALID"


def test_from_metadata_when_written_by_lowering_then_reads_it():
    from nasmesh.model.lower import preprocessing_text
    from nasmesh.v1 import architecture_pb2

    text = preprocessing_text(architecture_pb2.Preprocessing(mean=[0.1, 0.2], std=[0.3, 0.4], per_image=True))
    assert from_metadata({KEY: text}, channels=2) == Preprocessing((0.1, 0.2), (0.3, 0.4), True)
    assert json.loads(text)["layout"] == "NCHW"
    assert from_metadata({}, channels=2) == Preprocessing()
