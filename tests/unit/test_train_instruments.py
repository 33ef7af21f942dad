import numpy as np
import pytest
import torch

from nasmesh.errors import Invalid
from nasmesh.model.engine.convert import to_module
from nasmesh.model.lower import lower
from nasmesh.v1 import architecture_pb2 as arch
from nasmesh.v1 import training_pb2 as pb
from tests.builders.architectures import architecture, block, conv, small_cnn
from train_svc.instruments import Cadence, attach

EVERY = [pb.STATISTIC_MEAN, pb.STATISTIC_VARIANCE, pb.STATISTIC_MEAN_SQUARE]


def _skipping():
    joined = arch.Block(
        id="mix",
        inputs=[
            arch.Edge(source="a"),
            arch.Edge(source="x", scale=arch.EdgeScale(init_mean=0.5, init_std=0.01)),
        ],
        merge=arch.MERGE_CONCAT,
        operation=arch.Operation(conv=conv(3, 1)),
    )
    return architecture(
        (1, 4, 4),
        "fc",
        block("a", "x", conv=conv(2)),
        joined,
        block("gap", "mix", global_pool=arch.GlobalPool(kind=arch.POOL_KIND_AVERAGE)),
        block("fc", "gap", linear=arch.Linear(features=10, bias=True)),
    )


def _module(model=None):
    return to_module(lower(model or small_cnn()), seed=1).train()


def _read(instruments, steps):
    return {(m.metric, m.element): m.value for m in instruments.measurements(steps)}


def _batches(count, size=5):
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(size + i, 1, 8, 8, generator=draw) for i in range(count)]


def test_statistics_when_batches_differ_in_size_then_equal_numpy_over_all_images():
    module = _module()
    plan = pb.InstrumentationPlan(probes=[pb.Probe(elements=["body"], tap=pb.TAP_ACTIVATION, statistics=EVERY)])
    instruments = attach(module, plan, total_steps=3)
    seen = []
    node = next(n for n in module.graph.nodes if n.op == "call_module" and "_observers" in str(n.target))
    module.get_submodule(str(node.target)).register_forward_hook(lambda _m, args, _o: seen.append(args[0].detach()))
    for step, x in enumerate(_batches(3)):
        instruments.before_step(step)
        module(x)
        instruments.after_step(step)
    values = torch.cat(seen).double().numpy()
    assert values.min() == 0  # the tap lies behind the ReLU
    got = _read(instruments, 3)
    assert got["mean", "body"] == pytest.approx(values.mean(), rel=1e-6)
    assert got["variance", "body"] == pytest.approx(values.var(axis=0).mean(), rel=1e-5)
    assert got["mean_square", "body"] == pytest.approx((values**2).mean(), rel=1e-6)


def test_statistics_when_no_variance_is_asked_for_then_scalars_give_the_same():
    plan = pb.InstrumentationPlan(
        probes=[
            pb.Probe(elements=["body"], tap=pb.TAP_OUTPUT, statistics=[pb.STATISTIC_MEAN, pb.STATISTIC_MEAN_SQUARE]),
            pb.Probe(elements=["body"], tap=pb.TAP_ACTIVATION, statistics=EVERY),
        ]
    )
    module = _module()
    instruments = attach(module, plan, total_steps=1)
    instruments.before_step(0)
    module(_batches(1)[0])
    found = [(m.metric, m.value) for m in instruments.measurements(1)]
    assert found[0][1] == pytest.approx(found[2][1], rel=1e-6)
    assert found[1][1] == pytest.approx(found[4][1], rel=1e-6)


def test_observers_when_attached_then_change_neither_outputs_nor_state():
    plain, watched = _module(), _module()
    attach(watched, pb.InstrumentationPlan(probes=[pb.Probe(tap=pb.TAP_OUTPUT, statistics=EVERY)]), total_steps=9)
    x = _batches(1)[0]
    assert torch.equal(plain(x), watched(x))
    assert plain.state_dict().keys() == watched.state_dict().keys()
    assert [name for name, _ in plain.named_parameters()] == [name for name, _ in watched.named_parameters()]


def test_observers_when_in_evaluation_or_not_due_then_stand_still():
    module = _module()
    plan = pb.InstrumentationPlan(
        probes=[pb.Probe(tap=pb.TAP_ACTIVATION, statistics=EVERY, from_step=2, every_steps=2)]
    )
    instruments = attach(module, plan, total_steps=6)
    counts = []
    for step, x in enumerate(_batches(6, size=1)):
        instruments.before_step(step)
        module(x)
        module.eval()
        module(x)
        module.train()
        instruments.after_step(step)
        counts.append({int(entries["counts"][1]) for entries in instruments.state().values()})
    assert counts == [set(), set(), {3}, {3}, {8}, {8}]  # steps 2 and 4 bring 3 and 5 images


def test_window_when_complete_then_only_the_last_one_is_reported():
    module = _module()
    probe = pb.Probe(elements=["body"], tap=pb.TAP_ACTIVATION, statistics=[pb.STATISTIC_MEAN], window_steps=2)
    instruments = attach(module, pb.InstrumentationPlan(probes=[probe]), total_steps=5)
    alone = {}
    for step, x in enumerate(_batches(5)):
        instruments.before_step(step)
        module(x)
        instruments.after_step(step)
        alone[step] = _read(instruments, step).get(("mean", "body"))
    assert alone[0] is None
    assert alone[1] == alone[2] is not None
    assert alone[3] == alone[4] != alone[1]


def test_edge_scales_when_read_then_are_the_parameters_values():
    module = _module(_skipping())
    plan = pb.InstrumentationPlan(probes=[pb.Probe(tap=pb.TAP_EDGE_SCALE, statistics=[pb.STATISTIC_VALUE])])
    instruments = attach(module, plan, total_steps=1)
    with torch.no_grad():
        module.get_parameter("mix.scale.x").fill_(-0.25)
    assert _read(instruments, 1) == {("value", "mix.scale.x"): -0.25}


def test_elements_when_left_out_then_every_block_with_the_tap():
    module = _module()
    plan = pb.InstrumentationPlan(probes=[pb.Probe(tap=pb.TAP_ACTIVATION, statistics=[pb.STATISTIC_MEAN])])
    instruments = attach(module, plan, total_steps=1)
    instruments.before_step(0)
    module(_batches(1)[0])
    assert {element for _, element in _read(instruments, 1)} == {"stem_conv", "body"}


@pytest.mark.parametrize(
    ("probe", "field"),
    [
        (pb.Probe(elements=["nope"], tap=pb.TAP_OUTPUT, statistics=EVERY), "elements"),
        (pb.Probe(elements=["head_fc"], tap=pb.TAP_ACTIVATION, statistics=EVERY), "elements"),
        (pb.Probe(elements=["body"], tap=pb.TAP_EDGE_SCALE, statistics=[pb.STATISTIC_VALUE]), "elements"),
        (pb.Probe(tap=pb.TAP_OUTPUT, statistics=EVERY, from_step=10), "from_step"),
        (pb.Probe(tap=pb.TAP_OUTPUT, statistics=EVERY, window_steps=11), "from_step"),
    ],
)
def test_attach_when_nothing_would_be_read_then_names_the_field(probe, field):
    with pytest.raises(Invalid) as caught:
        attach(_module(), pb.InstrumentationPlan(probes=[probe]), total_steps=10)
    assert caught.value.reason == "INSTRUMENTATION_INVALID"
    assert caught.value.violations[0].field == f"instrumentation.probes[0].{field}"


def test_cadence_when_every_third_step_from_two_then_observes_those():
    cadence = Cadence(every_steps=3, from_step=2, window_steps=6)
    assert [step for step in range(15) if cadence.observes(step)] == [2, 5, 8, 11, 14]
    assert [step for step in range(15) if cadence.ends_window(step)] == [7, 13]


def test_variance_when_values_are_constant_then_is_never_negative():
    module = _module()
    plan = pb.InstrumentationPlan(probes=[pb.Probe(elements=["pool"], tap=pb.TAP_OUTPUT, statistics=EVERY)])
    instruments = attach(module, plan, total_steps=1)
    instruments.before_step(0)
    module(torch.full((4, 1, 8, 8), 3.0))
    assert np.isfinite(_read(instruments, 1)["variance", "pool"])
    assert _read(instruments, 1)["variance", "pool"] >= 0
