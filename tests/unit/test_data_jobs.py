"""Added data through the real train and evaluate jobs: series, tables, targets; streamed as well as in memory."""

from pathlib import Path
from random import Random

import numpy as np
import pytest

from evaluate_svc import job as evaluate_job
from nasmesh import spaces
from nasmesh.clock import SystemClock
from nasmesh.data import cache
from nasmesh.data import load as loading
from nasmesh.data.resolve import resolve
from nasmesh.store.memory import MemoryStore
from nasmesh.v1 import architecture_pb2, dataset_pb2, evaluation_pb2, measurement_pb2, space_pb2
from nasmesh.v1 import evaluate_service_pb2 as pb
from tests.builders import data_files
from tests.builders import training_jobs as jobs

pytestmark = pytest.mark.usefixtures("forgotten_data")


def network(data: dataset_pb2.DatasetSpec, store: MemoryStore) -> architecture_pb2.Architecture:
    """A small network of the chain space for this data, as a generate agent would build it."""
    info = resolve(data, store)
    space = space_pb2.Space(chain=space_pb2.ChainSpace(min_layers=2, max_layers=2, channels=[16]))
    space.chain.kernels.append(1 if len(info.sample_dims) == 1 else 3)
    rule = architecture_pb2.Preprocessing(mean=info.mean, std=info.std)
    values = spaces.sample(space, Random(1))
    return spaces.build(space, values, input_dims=info.sample_dims, classes=info.outputs, preprocessing=rule)


def trained(data: dataset_pb2.DatasetSpec, store: MemoryStore, **config):
    start = jobs.request(jobs.stored(store, network(data, store)), **{"steps": 150, "batch_size": 64, **config})
    start.data.CopyFrom(data)
    start.config.optimizer.learning_rate = 0.02
    return jobs.run(start, store)


def scored(data: dataset_pb2.DatasetSpec, store: MemoryStore, model) -> dict[str, float]:
    start = pb.StartEvaluationRequest(evaluation_id="e", model=model, data=data)
    start.config.CopyFrom(evaluation_pb2.EvaluateConfig(split=measurement_pb2.SPLIT_VALIDATION, latency=False))
    result = evaluate_job.evaluate(start, jobs.Context(), store, SystemClock())
    assert result.data_digest == loading.load(data, store).digest
    return {found.metric: found.value for found in result.measurements}


def test_series_are_learned_from_their_shape(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    labels = np.arange(600) % 2
    time = np.arange(48)
    waves = np.sin(time[None] * np.where(labels, 0.4, 0.9)[:, None] + rng.uniform(0, 6, 600)[:, None])
    series = np.stack([waves * 5 + 100, rng.normal(size=(600, 48))], axis=1)
    np.savez(tmp_path / "d.npz", x=series, y=labels)
    store = MemoryStore()
    data = data_files.stored(tmp_path / "d.npz", store)
    assert scored(data, store, trained(data, store).model)["accuracy"] > 0.9


def test_numbers_are_predicted_from_a_table(tmp_path: Path) -> None:
    x = np.random.default_rng(2).normal(size=(900, 4)) * [1, 10, 0.1, 1] + [0, 50, 0, -3]
    y = np.stack([x[:, 0] * 3 + x[:, 1] / 10 + 40, np.abs(x[:, 0])], axis=1)
    np.savez(tmp_path / "d.npz", x=x, y=y)
    store = MemoryStore()
    data = data_files.stored(tmp_path / "d.npz", store)
    # Mean squared error in units of the targets' variance: predicting the mean would give 1.
    assert scored(data, store, trained(data, store, steps=300).model)["loss"] < 0.3


def test_streamed_samples_train_the_same_network_as_samples_in_memory(tmp_path: Path, monkeypatch) -> None:
    images = np.random.default_rng(3).integers(0, 256, (400, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "d.npz", x=images, y=np.arange(400) % 4)
    store = MemoryStore()
    data = data_files.stored(tmp_path / "d.npz", store)
    in_memory = trained(data, store, steps=20)
    loading.forget()
    real = cache.open_cached
    monkeypatch.setattr(cache, "open_cached", lambda *given: real(*given, memory_bytes=0))
    assert loading.load(data, store).samples.array is None
    streamed = trained(data, store, steps=20)
    assert streamed.model == in_memory.model
    assert scored(data, store, streamed.model) == pytest.approx(scored(data, store, in_memory.model))
