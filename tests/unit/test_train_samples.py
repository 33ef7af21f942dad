"""Samples that are read while training: the same batches, a bounded buffer, errors where they belong."""

import threading

import numpy as np
import pytest
import torch

from nasmesh import training_config
from nasmesh.data.preprocessing import Preprocessing
from nasmesh.errors import Unavailable
from nasmesh.v1 import training_pb2 as pb
from train_svc import samples
from train_svc.feed import Feed
from train_svc.samples import Held, Streamed, place_samples

VALUES = np.random.default_rng(1).integers(0, 256, (90, 1, 6, 6), dtype=np.uint8)
ROWS = np.arange(5, 85)
CPU = torch.device("cpu")


class Pieces:
    """A source that is not in memory as a whole, counts what it is asked for, and fails on request."""

    array = None
    dims = (1, 6, 6)
    dtype = np.dtype(np.uint8)

    def __init__(self) -> None:
        self.asked = 0
        self.fails_at = -1
        self.progress = threading.Condition()

    def __len__(self) -> int:
        return len(VALUES)

    def rows(self, indices):
        with self.progress:
            self.asked += 1
            self.progress.notify_all()
        if self.asked == self.fails_at:
            raise Unavailable("STORE_DOWN", "the store is away")
        return VALUES[indices]


def _feed(held):
    how = pb.AugmentationConfig(flip=True, crop_padding=1, mixup=0.5)
    config = training_config.complete(pb.TrainConfig(steps=1, batch_size=16, seed=2, augmentation=how))
    return Feed(held, torch.arange(len(ROWS)), config, Preprocessing())


@pytest.fixture
def source():
    return Pieces()


def test_streamed_when_read_in_order_then_gives_the_batches_of_what_is_held(source):
    held, streamed = _feed(Held(torch.from_numpy(VALUES[ROWS]))), _feed(Streamed(source, ROWS, CPU))
    for epoch in range(3):
        for number in range(5):
            first, second = (feed.batch(feed.draw(epoch), number) for feed in (held, streamed))
            assert torch.equal(first.x, second.x)
            assert torch.equal(first.y, second.y)
    streamed.close()


def test_streamed_when_begun_in_the_middle_then_reads_from_there(source):
    held, streamed = _feed(Held(torch.from_numpy(VALUES[ROWS]))), _feed(Streamed(source, ROWS, CPU))
    for at in ((0, 0), (2, 3), (2, 4), (3, 0), (1, 1)):
        draws = held.draw(at[0])
        assert torch.equal(held.batch(draws, at[1]).x, streamed.batch(draws, at[1]).x)
        part = streamed.batch(draws, at[1], part=1, parts=2)
        assert torch.equal(held.batch(draws, at[1], part=1, parts=2).x, part.x)
    streamed.close()


def test_streamed_when_nobody_takes_then_reads_no_further_than_its_buffer(source, monkeypatch):
    monkeypatch.setattr(samples, "BUFFER_BYTES", 4 * 16 * 36)
    streamed = _feed(Streamed(source, ROWS, CPU))
    streamed.batch(streamed.draw(0), 0)
    with source.progress:
        # One taken, four ready, one in the reader's hand.
        assert source.progress.wait_for(lambda: source.asked == 6, timeout=10)
    streamed.close()
    assert source.asked == 6
    assert not any(thread.name == "read-ahead" for thread in threading.enumerate())


def test_streamed_when_reading_fails_then_the_training_gets_it_at_that_batch(source):
    source.fails_at = 3
    streamed = _feed(Streamed(source, ROWS, CPU))
    draws = streamed.draw(0)
    streamed.batch(draws, 0), streamed.batch(draws, 1)
    with pytest.raises(Unavailable) as caught:
        streamed.batch(draws, 2)
    assert caught.value.reason == "STORE_DOWN"
    streamed.close()


def test_place_when_the_source_is_in_pieces_then_streams(source):
    assert isinstance(place_samples(source, ROWS, CPU), Streamed)
