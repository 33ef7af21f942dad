"""Losses by name, loss scaling against torch's, and what is worth compiling."""

import math
import types
from importlib import metadata

import pytest
import torch

from nasmesh import training_config
from nasmesh.clock import ManualClock
from nasmesh.data.info import CLASSIFICATION, REGRESSION
from nasmesh.errors import Invalid, Unavailable
from nasmesh.store.memory import MemoryStore
from nasmesh.v1 import training_pb2 as pb
from tests.builders import training_jobs as jobs
from train_svc import compiling, compute, convert, device_loss, losses
from train_svc.compiling import Gain, Question
from train_svc.compute import Choice, ProbeMemory
from train_svc.optimizer import Optimizer
from train_svc.scaling import LossScale


def _loss(name, task, **config):
    return losses.loss_of(training_config.complete(pb.TrainConfig(steps=1, loss=name, **config)), task)


def test_losses_when_named_then_are_their_closed_forms():
    draw = torch.Generator().manual_seed(1)
    outputs, targets = torch.randn(6, 3, generator=draw), torch.randn(6, 3, generator=draw)
    off = outputs - targets
    assert torch.allclose(_loss("", REGRESSION)(outputs, targets), off.square().mean())
    assert torch.allclose(_loss("mean_absolute_error", REGRESSION)(outputs, targets), off.abs().mean())
    huber = torch.where(off.abs() < 1, off.square() / 2, off.abs() - 0.5).mean()
    assert torch.allclose(_loss("huber", REGRESSION)(outputs, targets), huber)
    labels = torch.tensor([0, 1, 2, 2, 1, 0])
    hot = torch.nn.functional.one_hot(labels, 3)
    signs = hot * 2 - 1
    one_against_all = -torch.log(torch.sigmoid(signs * outputs)).mean()
    assert torch.allclose(_loss("binary_cross_entropy", CLASSIFICATION)(outputs, labels), one_against_all)


def test_loss_when_installed_then_is_found_by_its_name(monkeypatch):
    point = metadata.EntryPoint("cubic", f"{__name__}:cubic", "nasmesh.losses")
    broken = metadata.EntryPoint("broken", "nowhere:loss", "nasmesh.losses")

    def entry_points(*, group, name=None):
        return [p for p in (point, broken) if group == "nasmesh.losses" and name in (None, p.name)]

    monkeypatch.setattr(metadata, "entry_points", entry_points)
    outputs = torch.ones(2, 1)
    assert float(_loss("cubic", REGRESSION)(outputs, outputs * 3)) == 8
    with pytest.raises(Invalid, match="cannot be loaded: ModuleNotFoundError"):
        _loss("broken", REGRESSION)
    with pytest.raises(Invalid, match="did you mean cubic"):
        _loss("cubi", REGRESSION)
    assert {"cubic", "huber", "cross_entropy"} <= set(convert.server(slots=1).losses)


def cubic(outputs, targets):
    return (outputs - targets).abs().pow(3).mean()


@pytest.mark.parametrize(("name", "task"), [("huber", CLASSIFICATION), ("cross_entropy", REGRESSION)])
def test_loss_when_of_the_other_task_then_names_those_that_fit(name, task):
    with pytest.raises(Invalid) as caught:
        _loss(name, task)
    assert caught.value.field == "config.loss"


@pytest.mark.parametrize("kind", [pb.OPTIMIZER_KIND_SGD, pb.OPTIMIZER_KIND_ADAMW])
def test_scaling_when_gradients_overflow_then_does_what_torchs_scaler_does(kind):
    ours, theirs = (torch.nn.Parameter(torch.tensor([1.0, -2.0])) for _ in range(2))
    config = training_config.complete(
        pb.TrainConfig(steps=1, optimizer=pb.OptimizerConfig(kind=kind, learning_rate=0.1, weight_decay=0.01))
    )
    optimizer = Optimizer([("w", ours)], config.optimizer, undecayed=frozenset())
    build = {
        pb.OPTIMIZER_KIND_SGD: lambda: torch.optim.SGD([theirs], lr=0.1, momentum=0.9, weight_decay=0.01 * 0),
        pb.OPTIMIZER_KIND_ADAMW: lambda: torch.optim.AdamW([theirs], lr=0.1, weight_decay=0.0),
    }
    reference, scaler = build[kind](), torch.amp.GradScaler("cpu")
    scale = LossScale(torch.device("cpu"))
    for factor in (1.0, math.inf, 2.0, math.inf, math.inf, 0.5):
        for parameter, lift in ((ours, scale.lift), (theirs, scaler.scale)):
            parameter.grad = None
            lift((parameter * factor).sum()).backward()
        scale.unscale(optimizer.gradients())
        optimizer.step(0.1, skip=scale.overflown)
        scale.adapt()
        scaler.step(reference)
        scaler.update()
        assert torch.equal(ours, theirs)
    assert float(scale.state()["scale"]) == scaler.get_scale() == 65536 / 8
    other = LossScale(torch.device("cpu"))
    other.load(scale.state())
    assert torch.equal(other.state()["scale"], scale.state()["scale"])
    with pytest.raises(Invalid, match="no loss scale"):
        other.load({})


def test_gain_when_time_is_won_back_then_pays():
    gain = Gain(step_s=0.1, compiled_s=0.06, compile_s=20)
    assert gain.pays(501)
    assert not gain.pays(499)
    assert Gain.from_text(gain.to_text()) == gain
    assert not Gain.from_text(Gain(0.1).to_text()).pays(10**9)


@pytest.mark.parametrize(("steps", "pays"), [(100, False), (2000, True), (10**6, True)])
def test_compiling_when_auto_then_measures_once_and_only_what_can_pay(tmp_path, monkeypatch, steps, pays):
    """Time is by hand: a step takes 50 ms, a compiled one 20 ms, compiling 15 s."""
    clock, built = ManualClock(), []

    class Network(torch.nn.Module):
        graph = types.SimpleNamespace(nodes=range(3))

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

        def forward(self, x):
            clock.advance(0.05)
            return x * self.weight

    def compiled(module):
        built.append(module)
        first = [15.0]

        def forward(x):
            clock.advance(first.pop() if first else 0.02)
            return x * module.weight

        return forward

    module = Network()
    Network.__deepcopy__ = lambda self, _: self
    monkeypatch.setattr(compiling, "compiled", compiled)
    auto = pb.ComputePolicy(compile=pb.COMPILE_MODE_AUTO)
    asked = Question(module, Choice(), torch.ones(1, 2), steps, observed=False)
    memory = ProbeMemory(tmp_path, "question")
    assert compiling.worthwhile(auto, asked, memory, clock) is pays
    assert len(built) == (0 if steps == 100 else 1)
    began = clock.monotonic()
    assert compiling.worthwhile(auto, asked, memory, clock) is pays
    assert clock.monotonic() == began, "the second time nothing is measured"
    watched = Question(module, Choice(), torch.ones(1, 2), steps, observed=True)
    assert not compiling.worthwhile(auto, watched, memory, clock)
    assert compiling.worthwhile(pb.ComputePolicy(compile=pb.COMPILE_MODE_ALWAYS), watched, memory, clock)


class _Timed(torch.nn.Module):
    """Takes as long as a table says: by (is it in bfloat16, samples), seconds by a clock set by hand."""

    def __init__(self, clock, times):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.calls = []
        self._clock, self._times = clock, times

    def __deepcopy__(self, memo):
        return self

    def forward(self, x):
        asked = (torch.is_autocast_enabled("cpu"), len(x))
        self.calls.append(asked)
        self._clock.advance(self._times[asked])
        return x * self.weight


def _probed(tmp_path, times, samples):
    clock = ManualClock()
    network = _Timed(clock, times)
    seconds = compute.probe_seconds(network, torch.ones(samples, 2), clock.monotonic)
    chosen = compute.fastest([Choice("float32"), Choice("bfloat16")], seconds, ProbeMemory(tmp_path, "question"))
    return chosen.precision, network.calls


def test_probe_when_an_option_is_hopeless_then_gives_up_after_one_step(tmp_path):
    chosen, calls = _probed(tmp_path, {(False, 2): 0.05, (True, 2): 1.0}, 2)
    assert chosen == "float32"
    assert calls == [(False, 2)] * 3 + [(True, 2)]


def test_probe_when_few_samples_show_that_an_option_is_hopeless_then_no_whole_batch_is_spent_on_it(tmp_path):
    chosen, calls = _probed(tmp_path, {(False, 8): 0.01, (False, 64): 0.05, (True, 8): 0.1}, 64)
    assert chosen == "float32"
    assert calls == [(False, 8)] * 2 + [(False, 64)] * 3 + [(True, 8)] * 2


def test_probe_when_few_samples_are_slower_and_the_batch_is_faster_then_the_batch_decides(tmp_path):
    times = {(False, 8): 0.01, (False, 64): 0.5, (True, 8): 0.013, (True, 64): 0.3}
    chosen, calls = _probed(tmp_path, times, 64)
    assert chosen == "bfloat16"
    assert calls == [(False, 8)] * 2 + [(False, 64)] * 3 + [(True, 8)] + [(True, 64)] * 3


@pytest.mark.parametrize(("halved_s", "chosen"), [(0.96, "float32"), (0.92, "float32"), (0.9, "bfloat16")])
def test_probe_when_an_option_is_not_clearly_faster_then_float32_stays(tmp_path, halved_s, chosen):
    times = {"float32": 1.0, "bfloat16": halved_s}
    policy = pb.ComputePolicy(precision=pb.PRECISION_AUTO, layout=pb.LAYOUT_AUTO)
    options = compute.candidates(policy, total_steps=compute.PROBE_FROM_STEPS)
    assert [option.precision for option in options] == ["float32", "bfloat16"]
    found = compute.fastest(options, lambda option, _: times[option.precision], ProbeMemory(tmp_path, "question"))
    assert found.precision == chosen


def test_compiled_when_resumed_then_gives_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setenv("NASMESH_HOME", str(tmp_path))
    monkeypatch.setattr(compute, "_DEFAULT_THREADS", 1)
    store = MemoryStore()
    config = {"steps": 6, "batch_size": 32, "compute": pb.ComputePolicy(compile=pb.COMPILE_MODE_ALWAYS)}
    start = jobs.request(jobs.stored(store, jobs.flat()), **config)
    whole = jobs.run(start, store)
    assert whole.environment["compiled"] == "true"
    start.until_step = 3
    start.resume_from.CopyFrom(jobs.run(start, store).checkpoint)
    start.until_step = 0
    assert jobs.run(start, store).model == whole.model
    start.config.compute.compile = pb.COMPILE_MODE_NEVER
    start.ClearField("resume_from")
    eager = jobs.run(start, store)
    for ours, theirs in zip(whole.measurements, eager.measurements, strict=True):
        assert ours.value == pytest.approx(theirs.value, rel=1e-4)


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (torch.AcceleratorError("CUDA error: unspecified launch failure\nmore"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), True),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered"), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), False),
        (RuntimeError("CUDA error: out of memory"), False),
        (RuntimeError("shape '[2]' is invalid"), False),
    ],
)
def test_device_when_lost_then_is_told_apart(error, lost):
    with pytest.raises(Unavailable if lost else type(error)) as caught, device_loss.told_apart():
        raise error
    if lost:
        assert caught.value.reason == "DEVICE_LOST"
        assert "\n" not in caught.value.message
