"""Zero-cost proxies against references written by hand, in plain torch and numpy, from the papers' formulas."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from nasmesh.model.engine.convert import to_module
from nasmesh.model.lower import lower
from nasmesh.v1 import architecture_pb2 as arch
from nasmesh.v1 import training_pb2 as pb
from tests.builders.architectures import activation, architecture, block, conv
from train_svc.proxies import Subject, score

_NORM = arch.BatchNorm(scale=True, offset=True)


class ByHand(nn.Module):
    """conv, batch norm, ReLU, conv, ReLU, mean, linear."""

    def __init__(self, state: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 6, 3, padding=1, bias=True)
        self.head = nn.Linear(6, 5)
        self.patterns: list[torch.Tensor] = []
        names = {
            "first.weight": "a.conv",
            "second.weight": "b.conv",
            "second.bias": "b.conv",
            "head.weight": "fc",
            "head.bias": "fc",
        }
        own = {name: state[f"{block}.{name.partition('.')[2]}"] for name, block in names.items()}
        own |= {
            f"norm.{role}": state[f"a.norm.{role}"] for role in ("weight", "bias", "running_mean", "running_var")
        } | {"norm.num_batches_tracked": torch.tensor(0)}
        self.load_state_dict(own)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self._relu(self.norm(self.first(x)))
        x = self._relu(self.second(x))
        return self.head(x.mean((2, 3)))

    def _relu(self, x: torch.Tensor) -> torch.Tensor:
        self.patterns.append((x > 0).flatten(1).detach())
        return F.relu(x)


def _network(*, act: bool = True) -> arch.Architecture:
    order = arch.CONV_ORDER_CONV_NORM_ACT
    first = arch.ConvUnit(conv=conv(4), norm=_NORM, order=order, dropout=arch.Dropout(rate=0.5))
    second = arch.ConvUnit(conv=conv(6, bias=True), order=order)
    if act:
        first.activation.CopyFrom(activation())
        second.activation.CopyFrom(activation())
    return architecture(
        (2, 6, 6),
        "fc",
        block("a", "x", conv_unit=first),
        block("b", "a", conv_unit=second),
        block("gap", "b", global_pool=arch.GlobalPool(kind=arch.POOL_KIND_AVERAGE)),
        block("fc", "gap", linear=arch.Linear(features=5, bias=True)),
    )


@pytest.fixture
def subject() -> Subject:
    draw = torch.Generator().manual_seed(3)
    x, y = torch.randn(8, 2, 6, 6, generator=draw), torch.randint(5, (8,), generator=draw)
    module = to_module(lower(_network()), seed=3)
    return Subject(module, x, lambda logits: F.cross_entropy(logits, y))


def _hand(subject: Subject) -> ByHand:
    return ByHand({name: tensor.clone() for name, tensor in subject.module.state_dict().items()}).train()


def test_synflow_when_compared_then_is_the_flow_of_positive_weights(subject):
    hand = _hand(subject).double().eval()
    for tensor in hand.state_dict().values():
        tensor.abs_()
    hand(torch.ones(1, 2, 6, 6, dtype=torch.float64)).sum().backward()
    expected = sum(float((m.weight.detach() * m.weight.grad).abs().sum()) for m in (hand.first, hand.second, hand.head))
    assert score(pb.ZERO_COST_PROXY_SYNFLOW, subject) == pytest.approx(expected, rel=1e-9)


def test_naswot_when_compared_then_is_the_log_determinant_of_agreements(subject):
    hand = _hand(subject)
    hand(subject.x)
    codes = torch.cat(hand.patterns, 1).numpy()
    kernel = np.array([[int((one == other).sum()) for other in codes] for one in codes])
    expected = np.log(abs(np.linalg.det(kernel.astype(np.float64))))
    assert score(pb.ZERO_COST_PROXY_NASWOT, subject) == pytest.approx(expected, rel=1e-9)


def test_jacobian_covariance_when_compared_then_is_mellors_score(subject):
    x = subject.x.clone().requires_grad_()
    _hand(subject)(x).backward(torch.ones(8, 5))
    values, _ = np.linalg.eig(np.corrcoef(x.grad.reshape(8, -1).double().numpy()))
    expected = -np.sum(np.log(values.real + 1e-5) + 1.0 / (values.real + 1e-5))
    assert score(pb.ZERO_COST_PROXY_JACOBIAN_COVARIANCE, subject) == pytest.approx(expected, rel=1e-4)


def test_grad_norm_and_snip_when_compared_then_use_all_gradients_and_all_connections(subject):
    hand = _hand(subject)
    subject.loss(hand(subject.x)).backward()
    norm = math.sqrt(sum(float(p.grad.double().square().sum()) for p in hand.parameters()))
    assert score(pb.ZERO_COST_PROXY_GRAD_NORM, subject) == pytest.approx(norm, rel=1e-5)
    snip = sum(float((m.weight.detach() * m.weight.grad).abs().sum()) for m in (hand.first, hand.second, hand.head))
    assert score(pb.ZERO_COST_PROXY_SNIP, subject) == pytest.approx(snip, rel=1e-5)


def test_scores_when_taken_then_leave_the_network_and_chance_alone(subject):
    before = {name: tensor.clone() for name, tensor in subject.module.state_dict().items()}
    torch.manual_seed(4)
    chance = torch.get_rng_state()
    first = [score(proxy, subject) for proxy in pb.ZeroCostProxy.values() if proxy]
    assert first == [score(proxy, subject) for proxy in pb.ZeroCostProxy.values() if proxy]
    assert all(math.isfinite(value) for value in first)
    assert torch.equal(torch.get_rng_state(), chance)
    after = subject.module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(parameter.grad is None for parameter in subject.module.parameters())


def test_naswot_when_nothing_is_switched_then_has_no_score(subject):
    linear = Subject(to_module(lower(_network(act=False)), seed=1), subject.x, subject.loss)
    assert math.isnan(score(pb.ZERO_COST_PROXY_NASWOT, linear))
