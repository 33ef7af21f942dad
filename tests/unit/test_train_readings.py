"""Sparsity, norms, statistics of weights and gradients, proxies and profiles: against torch, and over a resumption."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from nasmesh.clock import SystemClock
from nasmesh.errors import Invalid
from nasmesh.model.engine.checkpoint import load_checkpoint
from nasmesh.model.engine.convert import to_module
from nasmesh.model.lower import lower
from nasmesh.store.memory import MemoryStore
from nasmesh.training_config import check_instrumentation
from nasmesh.v1 import training_pb2 as pb
from tests.builders import training_jobs as jobs
from tests.builders.architectures import small_cnn
from train_svc import together
from train_svc.compute import Choice
from train_svc.instruments import attach
from train_svc.instruments_profile import profile
from train_svc.proxies import Subject

WEIGHT_STATISTICS = [
    pb.STATISTIC_MEAN,
    pb.STATISTIC_VARIANCE,
    pb.STATISTIC_MEAN_SQUARE,
    pb.STATISTIC_SPARSITY,
    pb.STATISTIC_NORM,
]
EVERY_STEP = 1e-6
PROXIES = [proxy for proxy in pb.ZeroCostProxy.values() if proxy]


def _module():
    return to_module(lower(small_cnn()), seed=1).train()


def _read(instruments, steps):
    return {(m.metric, m.element): m.value for m in instruments.measurements(steps)}


def _figures(tensors):
    values = torch.cat([tensor.detach().double().flatten() for tensor in tensors])
    return [
        float(values.mean()),
        float(values.var(correction=0)),
        float(values.square().mean()),
        float((values == 0).double().mean()),
        float(values.norm()),
    ]


def test_activations_when_observed_then_sparsity_and_norm_of_an_image_are_means_over_all_images():
    module = _module()
    statistics = [pb.STATISTIC_SPARSITY, pb.STATISTIC_NORM]
    plan = pb.InstrumentationPlan(
        probes=[pb.Probe(elements=["body", "stem_conv"], tap=pb.TAP_ACTIVATION, statistics=statistics)]
    )
    instruments = attach(module, plan, total_steps=3)
    seen = {"body": [], "stem_conv": []}
    for element, watch in zip(seen, instruments._watches, strict=True):
        watch.observer.register_forward_hook(lambda _m, args, _o, e=element: seen[e].append(args[0].detach()))
    draw = torch.Generator().manual_seed(0)
    for step in range(3):
        instruments.before_step(step)
        module(torch.randn(4, 1, 8, 8, generator=draw).to(memory_format=torch.channels_last))
        instruments.after_step(step)
    got = _read(instruments, 3)
    for element, batches in seen.items():
        values = torch.cat(batches).double()
        assert 0 < got["sparsity", element] < 1
        assert got["sparsity", element] == pytest.approx(float((values == 0).double().mean()), rel=1e-12)
        assert got["norm", element] == pytest.approx(float(values.flatten(1).norm(dim=1).mean()), rel=1e-6)


@pytest.mark.parametrize("tap", [pb.TAP_WEIGHT, pb.TAP_GRADIENT])
@pytest.mark.parametrize("window", [0, 2])
def test_weights_and_gradients_when_read_then_are_means_over_the_steps(tap, window):
    module = _module()
    probe = pb.Probe(tap=tap, statistics=WEIGHT_STATISTICS, from_step=1, window_steps=window)
    instruments = attach(module, pb.InstrumentationPlan(probes=[probe]), total_steps=6)
    blocks = {"stem_conv": [], "body": [], "head_fc": []}
    draw = torch.Generator().manual_seed(0)
    for step in range(6):
        instruments.before_step(step)
        logits = module(torch.randn(4, 1, 8, 8, generator=draw))
        module.zero_grad()
        F.cross_entropy(logits, torch.tensor([1, 2, 3, 4])).backward()
        instruments.after_backward(step)
        gradients = {name: p.grad.clone() for name, p in module.named_parameters()}
        with torch.no_grad():
            for p in module.parameters():
                p.sub_(0.1 * p.grad)
                p.view(-1)[0] = 0.0
        instruments.after_step(step)
        for block, figures in blocks.items():
            source = gradients if tap == pb.TAP_GRADIENT else dict(module.named_parameters())
            figures.append(_figures([t for name, t in source.items() if name.startswith(f"{block}.")]))
    counted = slice(3, 5) if window else slice(1, 6)  # from step 1: windows are steps 1-2 and 3-4
    got = _read(instruments, 6)
    prefix = "weight" if tap == pb.TAP_WEIGHT else "gradient"
    assert {element for _, element in got} == set(blocks)
    for block, figures in blocks.items():
        expected = torch.tensor(figures[counted], dtype=torch.float64).mean(0).tolist()
        for name, value in zip(["mean", "variance", "mean_square", "sparsity", "norm"], expected, strict=True):
            assert got[f"{prefix}_{name}", block] == pytest.approx(value, rel=1e-4, abs=1e-8)


def test_gradients_when_a_step_overflows_then_it_is_left_out():
    module = _module()
    probe = pb.Probe(tap=pb.TAP_GRADIENT, statistics=[pb.STATISTIC_NORM], elements=["head_fc"])
    instruments = attach(module, pb.InstrumentationPlan(probes=[probe]), total_steps=3)
    for step, value in enumerate((1.0, float("inf"), 3.0)):
        for parameter in module.parameters():
            parameter.grad = torch.full_like(parameter, value)
        instruments.after_backward(step)
    size = sum(p.numel() for name, p in module.named_parameters() if name.startswith("head_fc."))
    assert _read(instruments, 3) == {("gradient_norm", "head_fc"): pytest.approx(2 * size**0.5)}


def test_attach_when_a_block_has_no_weights_then_says_so():
    for tap in (pb.TAP_WEIGHT, pb.TAP_GRADIENT):
        probe = pb.Probe(tap=tap, statistics=[pb.STATISTIC_NORM], elements=["pool"])
        with pytest.raises(Invalid) as caught:
            attach(_module(), pb.InstrumentationPlan(probes=[probe]), total_steps=3)
        assert caught.value.violations[0].field == "instrumentation.probes[0].elements"
        assert "no block 'pool' has trainable weights" in caught.value.message


@pytest.mark.parametrize("proxies", [[0], [77], [pb.ZERO_COST_PROXY_SNIP, pb.ZERO_COST_PROXY_SNIP]])
def test_plan_when_a_proxy_is_unknown_or_there_twice_then_names_it(proxies):
    with pytest.raises(Invalid) as caught:
        check_instrumentation(pb.InstrumentationPlan(proxies=proxies))
    assert caught.value.violations[0].field == f"instrumentation.proxies[{len(proxies) - 1}]"


def _start(network, **more):
    start = jobs.request(network, steps=12, seed=3, ema_decay=0.9, **more)
    plan = start.instrumentation
    plan.probes.add(tap=pb.TAP_ACTIVATION, statistics=[pb.STATISTIC_SPARSITY, pb.STATISTIC_NORM])
    plan.probes.add(tap=pb.TAP_WEIGHT, statistics=WEIGHT_STATISTICS, every_steps=2)
    plan.probes.add(tap=pb.TAP_GRADIENT, statistics=[pb.STATISTIC_NORM], from_step=2, window_steps=3)
    plan.proxies.extend(PROXIES)
    plan.profile = True
    return start


def _measured(result):
    """All but times: a profile that was taken is kept, so that a resumption reports the first attempt's."""
    return {(m.metric, m.element, m.step): m.value for m in result.measurements if m.metric != "forward_ms"}


@pytest.mark.parametrize("stop_after", [1, 5])
def test_train_when_resumed_then_every_reading_is_the_same_to_the_last_bit(stop_after):
    store = MemoryStore()
    network = jobs.stored(store)
    whole = jobs.run(_start(network), store)

    class PowerCutError(Exception):
        pass

    def die(context):
        if context.checkpoints and load_checkpoint(store.get(context.checkpoints[-1])).scalars["step"] >= stop_after:
            raise PowerCutError

    context = jobs.Context(die)
    with pytest.raises(PowerCutError):
        jobs.run(_start(network, checkpoint_interval_s=EVERY_STEP), store, context)
    resumed = _start(network)
    resumed.resume_from.CopyFrom(context.checkpoints[-1])
    result = jobs.run(resumed, store)
    assert load_checkpoint(store.get(context.checkpoints[-1])).scalars["step"] < 12
    assert _measured(result) == _measured(whole)
    assert result.model.sha256 == whole.model.sha256


def test_train_when_everything_is_measured_then_weights_are_those_of_a_training_without():
    store = MemoryStore()
    network = jobs.stored(store)
    watched = jobs.run(_start(network), store)
    plain = _start(network)
    plain.ClearField("instrumentation")
    assert jobs.run(plain, store).model.sha256 == watched.model.sha256
    found = {(m.metric, m.element): m for m in watched.measurements}
    for proxy in PROXIES:
        name = pb.ZeroCostProxy.Name(proxy).removeprefix("ZERO_COST_PROXY_").lower()
        assert found[name, ""].step == 0
    blocks = {element for metric, element in found if metric == "forward_ms"}
    assert blocks == {"a", "b", "gap", "fc"}
    assert all(found["forward_ms", block].value > 0 for block in blocks)
    # Block a: 6 channels of 4x4 after stride 2, in float32, for 100 samples: convolution, norm, activation, dropout.
    assert found["activation_bytes", "a"].value == 100 * 6 * 4 * 4 * 4 * 4
    assert found["activation_bytes", "fc"].value == 100 * 10 * 4
    assert found["activation_bytes", "a"].unit == "bytes"


def test_profile_when_processes_share_the_training_then_waits_for_none_of_them():
    class Busy:
        """Two processes, of which the other never answers; it cannot be copied either."""

        rank, size = 0, 2

        def total(self, _tensors):
            raise AssertionError("nobody is asked")

        average = total

        def __deepcopy__(self, memo):
            raise AssertionError("a connection cannot be copied")

    module = to_module(lower(jobs.tiny()), seed=1)
    probe = pb.Probe(tap=pb.TAP_ACTIVATION, statistics=WEIGHT_STATISTICS)
    attach(module, pb.InstrumentationPlan(probes=[probe]), total_steps=3)
    together.share(module, Busy())
    subject = Subject(module, torch.full((4, 1, 8, 8), 0.5), torch.Tensor.sum)
    times, sizes = profile(subject, Choice(), SystemClock())
    assert (len(times), sizes[-1]) == (4, 4 * 10 * 4)
    assert all(time > 0 for time in times)
