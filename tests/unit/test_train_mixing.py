"""Mixing of samples, and what is done to series and tables."""

import numpy as np
import pytest
import torch

from nasmesh import training_config
from nasmesh.data.preprocessing import Preprocessing
from nasmesh.v1 import training_pb2 as pb
from train_svc import losses
from train_svc.augment import mix
from train_svc.draws import Mix
from train_svc.feed import Feed
from train_svc.samples import Held

COUNT = 40
PLAIN = Preprocessing()
CONSTANT = torch.arange(COUNT, dtype=torch.uint8)[:, None, None, None].expand(COUNT, 3, 8, 10).contiguous()
SERIES = torch.from_numpy(np.random.default_rng(3).normal(size=(COUNT, 2, 16)).astype(np.float32))


def _feed(values, *, batch=20, rule=PLAIN, **augmentation):
    how = pb.AugmentationConfig(**augmentation)
    config = pb.TrainConfig(steps=1, batch_size=batch, seed=3, augmentation=how)
    return Feed(Held(values), torch.arange(COUNT), training_config.complete(config), rule)


def test_mixup_when_on_then_each_sample_is_the_stated_mixture():
    feed = _feed(CONSTANT, mixup=1)
    shares = set()
    for number in range(2):
        batch = feed.batch(feed.draw(0), number)
        expected = batch.share * batch.y + (1 - batch.share) * batch.other
        assert torch.allclose(batch.x[:, 0, 0, 0] * 255, expected, atol=1e-3)
        assert sorted(batch.other.tolist()) == sorted(batch.y.tolist())
        shares.add(batch.share)
    assert len(shares) == 2


def test_cutmix_when_on_then_a_box_of_the_stated_area_comes_from_the_other():
    feed = _feed(CONSTANT, cutmix=1)
    for epoch in range(6):
        batch = feed.batch(feed.draw(epoch), 0)
        values = (batch.x[:, 0] * 255).round()
        own = values == batch.y[:, None, None]
        other = values == batch.other[:, None, None]
        assert bool((own | other).all())
        moved = batch.y != batch.other
        if bool(moved.any()):
            assert float(own[moved].float().mean()) == pytest.approx(batch.share, abs=1e-6)


def test_mix_when_both_are_on_then_every_batch_draws_one_and_the_shares_are_betas():
    feed = _feed(CONSTANT, batch=1, mixup=0.5, cutmix=1)
    mixes = [drawn for epoch in range(50) for drawn in feed.draw(epoch).mixes]
    assert 0.45 < np.mean([drawn.cut for drawn in mixes]) < 0.55
    # Beta(a, a) has variance 1 / (4 (2a + 1)).
    for cut, variance in ((False, 1 / 8), (True, 1 / 12)):
        assert np.var([drawn.share for drawn in mixes if drawn.cut == cut]) == pytest.approx(variance, rel=0.15)


def test_parts_when_put_together_then_are_the_batch():
    everything = {"mixup": 0.5, "cutmix": 1, "flip": True, "rand_augment_operations": 1, "saturation": 0.3}
    for values, how in ((CONSTANT, everything), (SERIES, {"cutmix": 1, "noise": 0.3, "shift": 0.2})):
        feed = _feed(values, **how)
        for epoch in range(3):
            draws = feed.draw(epoch)
            whole = feed.batch(draws, 1)
            parts = [feed.batch(draws, 1, part=part, parts=4) for part in range(4)]
            assert torch.equal(torch.cat([part.x for part in parts]), whole.x)
            assert torch.equal(torch.cat([part.other for part in parts]), whole.other)
            assert {part.share for part in parts} == {whole.share}


def test_saturation_when_on_then_scales_about_the_luminance():
    feed = _feed(torch.randint(0, 256, (COUNT, 3, 8, 10), dtype=torch.uint8), saturation=0.5)
    plain = _feed(feed._source._values)
    got, was = (one.batch(one.draw(0), 0).x for one in (feed, plain))
    weights = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    grey = (was * weights).sum(1, keepdim=True)
    factors = ((got - grey) * (was - grey)).sum((1, 2, 3)) / (was - grey).square().sum((1, 2, 3))
    assert torch.allclose(got, grey + factors.view(-1, 1, 1, 1) * (was - grey), atol=1e-5)
    assert 0.5 <= float(factors.min()) < 0.8
    assert 1.2 < float(factors.max()) <= 1.5 + 1e-5


def test_series_when_shifted_then_move_by_whole_values_and_are_filled_with_the_mean():
    plain, feed = _feed(SERIES), _feed(SERIES, shift=0.25)
    was, got = (one.batch(one.draw(0), 0).x for one in (plain, feed))
    seen = set()
    for before, after in zip(was, got, strict=True):
        fitting = [by for by in range(-4, 5) if torch.equal(_shifted(before, by), after)]
        assert len(fitting) == 1
        seen.add(fitting[0])
    assert len(seen) > 4


def _shifted(series, by):
    out = torch.zeros_like(series)
    length = series.shape[-1]
    if by >= 0:
        out[:, by:] = series[:, : length - by]
    else:
        out[:, :by] = series[:, -by:]
    return out


def test_noise_when_on_then_is_of_each_channels_own_size():
    rule = Preprocessing(mean=(0.0, 0.0), std=(5.0, 0.2))
    plain, noisy = _feed(SERIES, rule=rule), _feed(SERIES, rule=rule, noise=0.5)
    difference = noisy.batch(noisy.draw(0), 0).x - plain.batch(plain.draw(0), 0).x
    assert difference.std((0, 2)).tolist() == pytest.approx([0.5, 0.5], rel=0.15)
    tables = _feed(SERIES[:, :, 0].contiguous(), noise=0.5)
    assert tables.batch(tables.draw(0), 0).x.shape == (20, 2)


def test_mix_when_a_window_of_series_then_the_share_is_what_stays():
    values, share = mix(torch.zeros(1, 1, 10), torch.ones(1, 1, 10), Mix(0.6, True, (0.5, 0.1)))
    assert float(values.mean()) == pytest.approx(1 - share)
    assert 0 < share < 1


def test_loss_when_mixed_then_is_that_of_the_soft_targets():
    outputs, first, second = torch.randn(7, 5), torch.randint(5, (7,)), torch.randint(5, (7,))
    loss = losses.loss_of(training_config.complete(pb.TrainConfig(steps=1)), 1)
    soft = 0.3 * torch.nn.functional.one_hot(first, 5) + 0.7 * torch.nn.functional.one_hot(second, 5)
    found = losses.of_batch(loss, outputs, first, second, 0.3)
    assert float(found) == pytest.approx(float(torch.nn.functional.cross_entropy(outputs, soft)), rel=1e-5)
