import pytest
import torch
from torch import nn

from nasmesh import training_config
from nasmesh.errors import Invalid
from nasmesh.model.lower import lower
from nasmesh.v1 import architecture_pb2
from nasmesh.v1 import training_pb2 as pb
from tests.builders.architectures import architecture, block, small_cnn
from train_svc.averaging import Average
from train_svc.optimizer import Optimizer, undecayed_names


def _config(**fields):
    return training_config.complete(pb.TrainConfig(steps=1, optimizer=pb.OptimizerConfig(**fields))).optimizer


def _layers(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 16, 4))


REFERENCES = {
    "SGD": lambda ps, **more: torch.optim.SGD(ps, 0.1, momentum=0.9, **more),
    "NESTEROV": lambda ps, **more: torch.optim.SGD(ps, 0.1, momentum=0.9, nesterov=True, **more),
    "ADAM": lambda ps, **more: torch.optim.Adam(ps, 0.1, **more),
    "ADAMW": lambda ps, **more: torch.optim.AdamW(ps, 0.1, **more),
}


@pytest.mark.parametrize(("fused", "rtol"), [(True, 0), (False, 1e-4)])
@pytest.mark.parametrize("kind", REFERENCES)
def test_step_when_repeated_then_equals_torchs_optimiser(kind, fused, rtol):
    ours, theirs = _layers(), _layers()
    config = _config(kind=f"OPTIMIZER_KIND_{kind}", learning_rate=0.1, weight_decay=0.01)
    optimizer = Optimizer(ours.named_parameters(), config, undecayed=frozenset())
    ranks = [[p for p in theirs.parameters() if (p.dim() > 1) == decayed] for decayed in (True, False)]
    references = [
        REFERENCES[kind](rank, weight_decay=decay, fused=fused) for rank, decay in zip(ranks, (0.01, 0.0), strict=True)
    ]
    x = torch.randn(5, 2, 6, 6)
    for _ in range(4):
        optimizer.zero_grad()
        ours(x).square().mean().backward()
        optimizer.step(0.1)
        for reference in references:
            reference.zero_grad()
        theirs(x).square().mean().backward()
        for reference in references:
            reference.step()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=rtol, atol=rtol)


def test_step_when_there_is_no_momentum_then_is_plain_descent():
    parameter = nn.Parameter(torch.tensor([1.0, 2.0]))
    optimizer = Optimizer([("w", parameter)], _config(momentum=0), undecayed=frozenset())
    parameter.grad = torch.tensor([1.0, -1.0])
    optimizer.step(0.5)
    assert parameter.tolist() == [0.5, 2.5]
    assert optimizer.state == {"w": {}}


def test_decay_when_a_parameter_is_exempt_then_only_the_others_shrink():
    names = {"conv": (2, 2, 3, 3), "norm": (4, 4, 4), "bias": (3,), "scale": ()}
    parameters = {name: nn.Parameter(torch.ones(shape)) for name, shape in names.items()}
    optimizer = Optimizer(parameters.items(), _config(weight_decay=0.5, momentum=0), undecayed=frozenset({"norm"}))
    for parameter in parameters.values():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step(0.1)
    assert {name: float(parameter.detach().mean()) for name, parameter in parameters.items()} == {
        "conv": pytest.approx(0.95),
        "norm": 1,
        "bias": 1,
        "scale": 1,
    }


def test_undecayed_when_read_from_the_graph_then_norms_and_biases_of_any_rank():
    layer_norm = architecture(
        (1, 4, 4),
        "fc",
        block("norm", "x", layer_norm=architecture_pb2.LayerNorm()),
        block("flat", "norm", flatten=architecture_pb2.Flatten()),
        block("fc", "flat", linear=architecture_pb2.Linear(features=3, bias=True)),
    )
    names = undecayed_names(lower(layer_norm))
    assert {"norm.weight", "norm.bias", "fc.bias"} <= names
    assert "fc.weight" not in names
    cnn = undecayed_names(lower(small_cnn()))
    assert {"stem_conv.norm.weight", "head_fc.bias"} <= cnn
    assert not any(name.endswith("conv.weight") for name in cnn)


def test_clip_when_the_joint_norm_is_larger_then_scales_all_gradients():
    parameters = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))]
    optimizer = Optimizer([("a", parameters[0]), ("b", parameters[1])], _config(), undecayed=frozenset())
    for largest, expected in ((5.0, [3, 0, 4]), (1.0, [0.6, 0, 0.8])):
        parameters[0].grad, parameters[1].grad = torch.tensor([3.0, 0.0]), torch.tensor([4.0])
        optimizer.clip(largest)
        assert [*parameters[0].grad.tolist(), *parameters[1].grad.tolist()] == pytest.approx(expected, rel=1e-5)


def test_load_when_a_tensor_is_missing_then_refuses():
    parameter = nn.Parameter(torch.zeros(2))
    optimizer = Optimizer([("w", parameter)], _config(), undecayed=frozenset())
    optimizer.load({"w": {"momentum_buffer": torch.ones(2)}})
    assert optimizer.state["w"]["momentum_buffer"].tolist() == [1, 1]
    for state in ({}, {"w": {"exp_avg": torch.ones(2)}}, {"w": {"momentum_buffer": torch.ones(3)}}):
        with pytest.raises(Invalid) as caught:
            optimizer.load(state)
        assert caught.value.reason == "CHECKPOINT_MISMATCH"


def test_average_when_updated_then_follows_the_closed_form_and_shares_nothing():
    layer = nn.BatchNorm1d(2, affine=True)
    average = Average(layer, 0.5)
    expected = layer.weight.detach().clone()
    for update in range(1, 30):
        with torch.no_grad():
            layer.weight.add_(1.0)
            layer.running_mean.add_(2.0)
        average.update(update)
        decay = min(0.5, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * layer.weight.detach()
    torch.testing.assert_close(average.state["weight"], expected)
    assert float(average.state["running_mean"][0]) < float(layer.running_mean[0])
    assert "num_batches_tracked" not in average.state
