"""A training is cut once to the time that it may take; apart from its length it is the training it would have been."""

import pytest

from nasmesh.clock import ManualClock
from nasmesh.jobs.context import Cancelled
from nasmesh.model.engine.checkpoint import load_checkpoint
from nasmesh.store.memory import MemoryStore
from nasmesh.v1 import train_service_pb2
from nasmesh.v1 import training_pb2 as pb
from tests.builders import training_jobs as jobs
from tests.builders.training_jobs import Context
from train_svc import compute, job
from train_svc.cutting import TIMED, UNTIMED


class SteadyClock(ManualClock):
    """Every look at it takes 25 ms, so that an update that is timed seems to take that long."""

    def monotonic(self) -> float:
        self.advance(0.025)
        return super().monotonic()


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("NASMESH_HOME", str(tmp_path))
    monkeypatch.setattr(compute, "_DEFAULT_THREADS", 1)


@pytest.fixture
def store():
    return MemoryStore()


def _asked(store: MemoryStore, **more: object) -> train_service_pb2.StartTrainingRequest:
    """A training that uses everything that has state."""
    start = jobs.request(
        jobs.stored(store, jobs.tiny()),
        seed=5,
        clip_norm=5,
        ema_decay=0.9,
        schedule=pb.ScheduleConfig(kind=pb.SCHEDULE_KIND_COSINE, warmup_steps=3),
        augmentation=pb.AugmentationConfig(crop_padding=1, flip=True, cutout=2),
        **more,
    )
    every = [pb.STATISTIC_MEAN, pb.STATISTIC_MEAN_SQUARE]
    start.instrumentation.probes.add(tap=pb.TAP_ACTIVATION, statistics=every)
    start.instrumentation.probes.add(tap=pb.TAP_OUTPUT, statistics=every, window_steps=4)
    return start


def _train(store: MemoryStore, start: train_service_pb2.StartTrainingRequest, context: Context | None = None):
    return job.train(start, context or Context(), store, SteadyClock())


def test_what_was_timed_is_undone(store: MemoryStore) -> None:
    timed = _train(store, _asked(store, steps=30, max_time_s=1e6))
    plain = _train(store, _asked(store, steps=30))
    assert timed.steps == plain.steps == 30
    found, wanted = (load_checkpoint(store.get(result.checkpoint)) for result in (timed, plain))
    assert found.state.keys() == wanted.state.keys()
    for name, tensor in wanted.state.items():
        assert tensor.numpy().tobytes() == found.state[name].numpy().tobytes(), name
    assert [m for m in timed.measurements if m.element] == [m for m in plain.measurements if m.element]


def test_steps_and_schedule_are_those_that_fit(store: MemoryStore) -> None:
    context = Context()
    result = _train(store, _asked(store, steps=100_000, max_time_s=3.0), context)
    an_epoch = _train(store, _asked(store, epochs=1)).steps
    before = 2 * min(UNTIMED + TIMED, an_epoch) * 0.025
    assert (3.0 * 0.95 - before) / 0.025 * 0.7 < result.steps < (3.0 * 0.95 - before) / 0.025
    last = context.marks[-1][0]
    assert (last.step, last.total_steps) == (result.steps, result.steps)
    assert last.learning_rate < 1e-3, "the cosine came to its end"


def test_an_epoch_is_the_least_and_what_fits_is_not_lengthened(store: MemoryStore) -> None:
    assert (
        _train(store, _asked(store, epochs=3, max_time_s=0.001)).steps == _train(store, _asked(store, epochs=1)).steps
    )
    assert _train(store, _asked(store, steps=5, max_time_s=1e6)).steps == 5
    assert _train(store, _asked(store, steps=5, max_time_s=0.001)).steps == 1


def test_a_resumed_training_keeps_its_length(store: MemoryStore) -> None:
    start = _asked(store, steps=100_000, max_time_s=3.0, checkpoint_interval_s=1e-9)

    def stop(context: Context) -> None:
        context.cancelled = context.marks[-1][0].step >= 10

    context = Context(stop)
    with pytest.raises(Cancelled):
        _train(store, start, context)
    total = context.marks[-1][0].total_steps
    start.resume_from.CopyFrom(context.checkpoints[-1])
    later = Context()
    assert _train(store, start, later).steps == later.marks[-1][0].total_steps == total
