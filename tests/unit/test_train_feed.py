import numpy as np
import pytest
import torch

from nasmesh import training_config
from nasmesh.data.load import load
from nasmesh.data.preprocessing import Preprocessing
from nasmesh.v1 import dataset_pb2
from nasmesh.v1 import training_pb2 as pb
from train_svc.feed import Feed, training_rows
from train_svc.samples import Held

RULE = Preprocessing(mean=(0.3, 0.6), std=(0.5, 0.25))
DRAW = np.random.default_rng(0)
IMAGES = torch.from_numpy(DRAW.integers(1, 256, (50, 2, 6, 8), dtype=np.uint8))
LABELS = torch.arange(50)


def _feed(*, batch=50, seed=3, rule=RULE, images=IMAGES, **augmentation):
    config = pb.TrainConfig(steps=1, batch_size=batch, seed=seed, augmentation=pb.AugmentationConfig(**augmentation))
    return Feed(Held(images), LABELS[: len(images)], training_config.complete(config), rule)


def _epoch(feed, epoch=0):
    batch = feed.batch(feed.draw(epoch), 0)
    return batch.x[batch.y.argsort()]


def test_batch_when_nothing_is_augmented_then_equals_evaluations_input():
    assert np.array_equal(_epoch(_feed()).numpy(), RULE.apply(IMAGES.numpy()))


def test_batch_when_per_image_then_equals_evaluations_input():
    rule = Preprocessing(per_image=True)
    np.testing.assert_allclose(_epoch(_feed(rule=rule)).numpy(), rule.apply(IMAGES.numpy()), atol=1e-5)


def test_epoch_when_drawn_then_visits_every_sample_once_in_another_order():
    feed = _feed(batch=10)
    first, second = (
        torch.cat([feed.batch(feed.draw(epoch), number).y for number in range(5)]).tolist() for epoch in (0, 1)
    )
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second


def test_batch_when_drawn_again_then_is_the_same_and_another_seed_differs():
    everything = {"crop_padding": 2, "flip": True, "cutout": 3, "brightness": 0.2, "contrast": 0.3}
    first = _feed(batch=10, **everything)
    second = _feed(batch=10, **everything)
    other = _feed(batch=10, seed=4, **everything)
    assert torch.equal(first.batch(first.draw(5), 3).x, second.batch(second.draw(5), 3).x)
    assert not torch.equal(first.batch(first.draw(5), 3).x, other.batch(other.draw(5), 3).x)


def test_flip_when_on_then_mirrors_about_half_and_nothing_else():
    plain = _epoch(_feed())
    flipped = torch.cat([_epoch(_feed(flip=True), epoch) for epoch in range(8)])
    plain = plain.repeat(8, 1, 1, 1)
    mirrored = torch.tensor([torch.equal(a, b.flip(-1)) for a, b in zip(flipped, plain, strict=True)])
    kept = torch.tensor([torch.equal(a, b) for a, b in zip(flipped, plain, strict=True)])
    assert bool((mirrored | kept).all())
    assert 0.4 < float(mirrored.float().mean()) < 0.6


def test_crop_when_on_then_cuts_every_window_of_the_padded_image():
    pad = 1
    padded = torch.nn.functional.pad(IMAGES, (pad,) * 4)
    seen = set()
    for epoch in range(6):
        got = _epoch(_feed(crop_padding=pad, rule=Preprocessing()), epoch) * 255
        for image, source in zip(got.round().to(torch.uint8), padded, strict=True):
            windows = [
                (y, x) for y in range(3) for x in range(3) if torch.equal(image, source[:, y : y + 6, x : x + 8])
            ]
            assert len(windows) == 1
            seen.add(windows[0])
    assert len(seen) == 9


def test_brightness_when_on_then_adds_one_number_an_image_within_the_range():
    shift = _epoch(_feed(brightness=0.2, rule=Preprocessing())) - IMAGES / 255
    per_image = shift.flatten(1)
    assert float((per_image.max(1).values - per_image.min(1).values).max()) < 1e-5
    assert float(per_image.abs().max()) <= 0.2 + 1e-6
    assert float(per_image[:, 0].std()) == pytest.approx(0.2 / 3**0.5, rel=0.3)


def test_contrast_when_on_then_scales_about_each_channels_mean():
    got, plain = _epoch(_feed(contrast=0.5, rule=Preprocessing())), IMAGES / 255
    assert torch.allclose(got.mean((2, 3)), plain.mean((2, 3)), atol=1e-5)
    factors = (got.std((2, 3)) / plain.std((2, 3))).flatten(1)
    assert torch.allclose(factors[:, 0], factors[:, 1], atol=1e-4)
    assert 0.5 <= float(factors.min()) < 0.7
    assert 1.3 < float(factors.max()) <= 1.5 + 1e-5


def test_cutout_when_on_then_sets_a_square_to_the_mean():
    constant = torch.full((50, 2, 6, 8), 200, dtype=torch.uint8)
    cut = _epoch(_feed(cutout=3, images=constant)) == 0
    assert torch.equal(cut[:, 0], cut[:, 1])
    areas = cut[:, 0].flatten(1).sum(1)
    assert int(areas.max()) == 9
    assert int(areas.min()) >= 4  # at a corner part of the square falls outside
    rows, columns = cut[:, 0].any(2), cut[:, 0].any(1)
    assert torch.equal(areas, rows.sum(1) * columns.sum(1))


def test_feed_when_fewer_samples_than_a_batch_then_uses_what_there_is():
    feed = _feed(batch=64)
    assert feed.batch_size == 50
    assert len(feed.batch(feed.draw(0), 0).y) == 50


def test_training_rows_when_a_fraction_then_a_prefix_of_the_seeded_order():
    splits = load(dataset_pb2.DatasetSpec(dataset="datasets/digits"))

    def labels(**config):
        filled = training_config.complete(pb.TrainConfig(steps=1, **config))
        return splits.labels[training_rows(splits, filled)].tolist()

    assert labels() == splits.labels[splits.train].tolist()
    half, quarter = labels(data_fraction=0.5, seed=1), labels(data_fraction=0.25, seed=1)
    assert len(half) == round(0.5 * len(splits.train))
    assert half[: len(quarter)] == quarter
    assert half != labels(data_fraction=0.5, seed=2)
    assert len(labels(include_validation=True)) == len(splits.train) + len(splits.validation)
