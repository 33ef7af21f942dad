"""Zero-cost proxies: scores of a network as it starts, from one batch and without an update.

Each follows its authors' code where that says more than the paper. They are computed on a copy, with nothing dropped,
so that the training that follows is the same with them and without them.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, fx, nn

from nasmesh.model.engine import elementwise
from nasmesh.model.engine.modules import Dropout
from nasmesh.v1 import training_pb2 as pb
from train_svc.compute import OBSERVERS
from train_svc.hooks import Alone
from train_svc.paths import DropPath

_TEAMS = ("team", "_team")  # where layers keep the processes that they share a batch with
_JITTER = 1e-5  # of Mellor et al.'s code: keeps the logarithm of a zero eigenvalue finite
_ACTIVATIONS = frozenset(
    {
        F.relu,
        F.leaky_relu,
        F.elu,
        F.celu,
        F.gelu,
        F.hardswish,
        F.mish,
        F.silu,
        F.softsign,
        torch.clamp,
        torch.sigmoid,
        torch.tanh,
        elementwise.hard_sigmoid,
        elementwise.parametric_relu,
        elementwise.selu,
        elementwise.softplus,
        elementwise.swish,
        elementwise.thresholded_relu,
    }
)


@dataclass(frozen=True, slots=True)
class Subject:
    """A network with the first batch `x` [B, ...] and the loss of its logits there; the network is left as it is."""

    module: fx.GraphModule
    x: Tensor
    loss: Callable[[Tensor], Tensor]

    def copied(self, *, drops: bool = False) -> fx.GraphModule:
        """Return a copy in training mode in which nothing is observed, nor dropped unless `drops`."""
        # Where processes share a training, the copy is this one's own: it waits for nobody.
        teams = [getattr(layer, name) for layer in self.module.modules() for name in _TEAMS if name in vars(layer)]
        made = copy.deepcopy(self.module, {id(team): Alone() for team in teams}).train()
        for layer in made.modules():
            if isinstance(layer, Dropout | DropPath):
                layer.train(drops)
        observers = made._modules.get(OBSERVERS)
        if observers is not None:
            observers.eval()
        return made


def score(proxy: pb.ZeroCostProxy.ValueType, subject: Subject) -> float:
    """Return one score; NaN or infinite where the network has none, such as NASWOT's without an activation."""
    return _SCORES[proxy](subject)


def logits_of(outputs: Tensor | tuple[Tensor, ...]) -> Tensor:
    """Return the first output: the others are auxiliary."""
    return outputs if isinstance(outputs, Tensor) else outputs[0]


def _synflow(subject: Subject) -> float:
    """Sum of |w * dR/dw| with R the sum of outputs for an input of ones, all weights positive (Tanaka et al. 2020)."""
    module, x = subject.copied().eval(), torch.ones_like(subject.x[:1])
    if not _casts(subject.module):  # deep networks leave float32's range
        module, x = module.double(), x.double()
    with torch.no_grad():
        for tensor in module.state_dict().values():
            tensor.abs_()
    logits_of(module(x)).sum().backward()  # type: ignore[no-untyped-call]
    return _sensitivity(module)


def _casts(module: fx.GraphModule) -> bool:
    """Say whether the network names a number format itself, so that it computes in no other."""
    return any(isinstance(value, torch.dtype) for node in module.graph.nodes for value in node.args)


def _sensitivity(module: nn.Module) -> float:
    """Return the sum of |w * dw| over connections: weights of rank 2 and more, no norms, biases or scales."""
    found = [(p.detach() * p.grad).abs().sum() for p in module.parameters() if p.dim() >= 2 and p.grad is not None]
    return float(torch.stack(found).double().sum()) if found else math.nan


def _naswot(subject: Subject) -> float:
    """Log-determinant of K, where K_ij counts the units that are alike on or off for samples i and j (Mellor 2021)."""
    codes = _Codes(subject.copied())
    with torch.no_grad():
        codes.run(subject.x)
    if codes.kernel is None:
        return math.nan
    return float(torch.linalg.slogdet(codes.kernel)[1])


class _Codes(fx.Interpreter):
    """Runs a network and adds up the kernel [B, B] of its activations' patterns."""

    def __init__(self, module: fx.GraphModule) -> None:
        """Begin with no activation seen."""
        super().__init__(module)
        self.kernel: Tensor | None = None

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Compute as ever, and look at what activations get."""
        if target in _ACTIVATIONS:
            on = (cast(Tensor, args[0]) > 0).flatten(1).float()
            alike = (on @ on.T + (1 - on) @ (1 - on).T).double()
            self.kernel = alike if self.kernel is None else self.kernel + alike
        return super().call_function(target, args, kwargs)


def _jacobian_covariance(subject: Subject) -> float:
    """Minus the sum of log(v + k) + 1 / (v + k) over eigenvalues v of the samples' Jacobians' correlations (2020)."""
    module, x = subject.copied(), subject.x.detach().clone().requires_grad_()
    logits_of(module(x)).sum().backward()  # type: ignore[no-untyped-call]
    rows = cast(Tensor, x.grad).flatten(1).double()
    correlations = torch.corrcoef(rows)
    if not bool(torch.isfinite(correlations).all()):  # a sample that nothing depends on
        return math.nan
    shifted = torch.linalg.eigvalsh(correlations.reshape(len(rows), len(rows))) + _JITTER
    return float(-(shifted.log() + 1 / shifted).sum())


def _grad_norm(subject: Subject) -> float:
    """Return the Euclidean norm of all gradients of the loss."""
    gradients = [p.grad for p in _differentiated(subject).parameters() if p.grad is not None]
    norms = torch.stack([torch.linalg.vector_norm(gradient) for gradient in gradients])
    return float(torch.linalg.vector_norm(norms))


def _snip(subject: Subject) -> float:
    """Return the sum of |w * dL/dw| over connections (Lee et al. 2019)."""
    return _sensitivity(_differentiated(subject))


def _differentiated(subject: Subject) -> fx.GraphModule:
    module = subject.copied()
    subject.loss(logits_of(module(subject.x)).float()).backward()  # type: ignore[no-untyped-call]
    return module


_SCORES: dict[int, Callable[[Subject], float]] = {
    pb.ZERO_COST_PROXY_SYNFLOW: _synflow,
    pb.ZERO_COST_PROXY_NASWOT: _naswot,
    pb.ZERO_COST_PROXY_JACOBIAN_COVARIANCE: _jacobian_covariance,
    pb.ZERO_COST_PROXY_GRAD_NORM: _grad_norm,
    pb.ZERO_COST_PROXY_SNIP: _snip,
}
