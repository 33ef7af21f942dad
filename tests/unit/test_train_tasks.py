"""Regression, series, tables and data that is read while training, from an added data set to the published network."""

from functools import partial

import numpy as np
import onnxruntime
import pytest

from nasmesh.data import cache
from nasmesh.data import load as loading
from nasmesh.data.load import load
from nasmesh.errors import Invalid
from nasmesh.model.engine.checkpoint import load_checkpoint
from nasmesh.v1 import architecture_pb2
from nasmesh.v1 import training_pb2 as pb
from tests.builders import data_files
from tests.builders import training_jobs as jobs
from tests.builders.architectures import activation, architecture, block
from tests.builders.training_jobs import Context
from train_svc.samples import Streamed

ADAM = pb.OptimizerConfig(kind=pb.OPTIMIZER_KIND_ADAM, learning_rate=0.01)


pytestmark = pytest.mark.usefixtures("forgotten_data")


def _dense(dims, outputs):
    """A perceptron of one hidden layer over all of a sample."""
    blocks = [block("flat", "x", flatten=architecture_pb2.Flatten())] if len(dims) > 1 else []
    source = "flat" if blocks else "x"
    return architecture(
        dims,
        "fc",
        *blocks,
        block("hidden", source, linear=architecture_pb2.Linear(features=32, bias=True)),
        block("act", "hidden", activation=activation()),
        block("fc", "act", linear=architecture_pb2.Linear(features=outputs, bias=True)),
    )


def _start(store, data, network, **config):
    start = jobs.request(jobs.stored(store, network), optimizer=ADAM, **config)
    start.data.CopyFrom(data)
    return start


@pytest.fixture
def table(store, tmp_path):
    draw = np.random.default_rng(4)
    x = draw.normal(size=(600, 5)).astype(np.float32)
    y = np.stack([10 + 3 * x[:, 0] - 2 * x[:, 1] * x[:, 2], 100 * x[:, 3]], 1).astype(np.float32)
    np.savez(tmp_path / "table.npz", x=x, targets=y)
    return data_files.stored(tmp_path / "table.npz", store, kind="table", task="regression")


@pytest.mark.parametrize("loss", ["", "huber", "mean_absolute_error"])
def test_regression_when_trained_then_predicts_in_units_of_the_targets(store, table, loss):
    context = Context()
    how = pb.AugmentationConfig(noise=0.01, mixup=0.1)
    start = _start(store, table, _dense((5,), 2), epochs=40, batch_size=32, loss=loss, augmentation=how)
    start.config.validate_every_steps = 100
    result = jobs.run(start, store, context)
    assert [m.metric for m in result.measurements] == ["train_loss"]
    assert {m.metric for m in context.marks[-1][0].validation} == {"loss"}
    splits = load(table, store)
    session = onnxruntime.InferenceSession(store.get(result.model), providers=["CPUExecutionProvider"])
    found = session.run(None, {"x": splits.samples.rows(splits.test)})[0]
    unexplained = np.square(found - splits.targets[splits.test]).mean() / np.square(splits.targets[splits.test]).mean()
    assert unexplained < 0.35


def test_regression_when_the_network_or_loss_is_for_classes_then_refuses(store, table):
    with pytest.raises(Invalid, match="targets"):
        jobs.run(_start(store, table, _dense((5,), 3), steps=1), store)
    with pytest.raises(Invalid) as caught:
        jobs.run(_start(store, table, _dense((5,), 2), steps=1, loss="cross_entropy"), store)
    assert caught.value.field == "config.loss"
    with pytest.raises(Invalid) as caught:
        jobs.run(_start(store, table, _dense((5,), 2), steps=1, augmentation=pb.AugmentationConfig(flip=True)), store)
    assert [violation.field for violation in caught.value.violations] == ["config.augmentation.flip"]


def test_series_when_trained_then_learns_whatever_the_shift(store, tmp_path):
    draw = np.random.default_rng(5)
    labels = np.arange(400) % 2
    phase = draw.uniform(0, 0.5, size=(400, 1))
    x = np.sin(2 * np.pi * (np.arange(24) * np.where(labels, 0.06, 0.14)[:, None] + phase))[:, None, :]
    np.savez(tmp_path / "waves.npz", x=(x + draw.normal(size=x.shape) / 4).astype(np.float32), y=labels)
    data = data_files.stored(tmp_path / "waves.npz", store, kind="series")
    how = pb.AugmentationConfig(shift=0.1, noise=0.1, cutmix=0.5)
    start = _start(store, data, _dense((1, 24), 2), epochs=25, batch_size=32, augmentation=how)
    result = jobs.run(start, store)
    splits = load(data, store)
    session = onnxruntime.InferenceSession(store.get(result.model), providers=["CPUExecutionProvider"])
    found = session.run(None, {"x": splits.samples.rows(splits.test)})[0].argmax(1)
    assert (found == splits.labels[splits.test]).mean() > 0.9


def test_data_larger_than_memory_when_killed_then_goes_on_to_the_bits_of_data_in_memory(store, table, monkeypatch):
    start = _start(store, table, _dense((5,), 2), steps=60, batch_size=32)
    start.config.augmentation.mixup = 0.2
    whole = jobs.run(start, store)
    loading.forget()
    # The same data set, opened as one that memory does not hold.
    monkeypatch.setattr(loading.cache, "open_cached", partial(cache.open_cached, memory_bytes=1))
    taken = []
    monkeypatch.setattr(Streamed, "take", lambda *given, take=Streamed.take: taken.append(1) or take(*given))
    start.until_step = 23  # 13 updates an epoch
    part = jobs.run(start, store)
    assert len(taken) >= 23
    start.until_step = 0
    start.resume_from.CopyFrom(part.checkpoint)
    resumed = jobs.run(start, store)
    states = [load_checkpoint(store.get(result.checkpoint)).state for result in (whole, resumed)]
    assert all(states[0][name].equal(states[1][name]) for name in states[0])
