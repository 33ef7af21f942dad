"""SGD, Nesterov, Adam and AdamW over named parameters, by torch's fused kernels.

torch.optim computes the same with the same kernels, but constructing any of its optimisers imports torch._dynamo, which
takes a fresh child process three seconds. A test holds the two equal.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import onnx
import torch
from torch import Tensor, nn

from nasmesh.errors import Invalid
from nasmesh.v1 import training_pb2 as pb

State = Mapping[str, Mapping[str, Tensor]]

_NORMALISATIONS = {
    "BatchNormalization",
    "InstanceNormalization",
    "LayerNormalization",
    "GroupNormalization",
    "RMSNormalization",
}
_WITH_BIAS = {"Conv", "ConvTranspose", "Gemm"}


def undecayed_names(model: onnx.ModelProto) -> frozenset[str]:
    """Return the names of normalisation parameters and biases of any rank, from how the graph uses them."""
    found: set[str] = set()
    for node in model.graph.node:
        if node.op_type in _NORMALISATIONS:
            found.update(node.input[1:])
        elif node.op_type in _WITH_BIAS:
            found.update(node.input[2:3])
    return frozenset(found)


@dataclass(slots=True)
class _Group:
    """Parameters with one weight decay."""

    weight_decay: float
    names: list[str] = field(default_factory=list)
    parameters: list[nn.Parameter] = field(default_factory=list)


class _Live(NamedTuple):
    """The parameters of a group that have gradients, with those and their state."""

    parameters: list[Tensor]
    gradients: list[Tensor]
    states: list[dict[str, Tensor]]


class Optimizer:
    """One optimiser. Weight decay spares `undecayed` names and parameters of rank 0 or 1."""

    def __init__(
        self, parameters: Iterable[tuple[str, nn.Parameter]], config: pb.OptimizerConfig, *, undecayed: frozenset[str]
    ) -> None:
        """Take the parameters with their names; `config` must be complete."""
        self._config = config
        decayed, spared = _Group(config.weight_decay), _Group(0.0)
        for name, parameter in parameters:
            group = spared if parameter.dim() <= 1 or name in undecayed else decayed
            group.names.append(name)
            group.parameters.append(parameter)
        self._groups = [group for group in (decayed, spared) if group.names]
        self._state: dict[str, dict[str, Tensor]] = {
            name: _fresh_state(parameter, config)
            for group in self._groups
            for name, parameter in zip(group.names, group.parameters, strict=True)
        }

    @property
    def state(self) -> State:
        """The optimiser's tensors by parameter name and then by role, as torch.optim calls them."""
        return self._state

    def load(self, state: State) -> None:
        """Take over the tensors of an earlier run; raises Invalid (CHECKPOINT_MISMATCH) where they are others."""
        for name, mine in self._state.items():
            theirs = state.get(name, {})
            for role, tensor in mine.items():
                if role not in theirs or theirs[role].shape != tensor.shape:
                    message = f"resume_from: the checkpoint has no {role} of {name}, which this optimiser needs"
                    raise Invalid("CHECKPOINT_MISMATCH", message, field="resume_from")
                tensor.copy_(theirs[role])

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for group in self._groups:
            for parameter in group.parameters:
                parameter.grad = None

    def parameters(self) -> list[Tensor]:
        """Return the parameters that have a gradient."""
        return [p for group in self._groups for p in group.parameters if p.grad is not None]

    def gradients(self) -> list[Tensor]:
        """Return the gradients there are, in the order of `parameters`."""
        return [p.grad for group in self._groups for p in group.parameters if p.grad is not None]

    def clip(self, largest: float) -> None:
        """Scale all gradients down so that their joint 2-norm is at most `largest`."""
        gradients = self.gradients()
        if gradients:
            norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
            torch._foreach_mul_(gradients, (largest / (norm + 1e-6)).clamp(max=1.0))

    @torch.no_grad()
    def step(self, rate: float, *, skip: Tensor | None = None) -> None:
        """Update every parameter that has a gradient, with this rate; none where `skip` (on the device) is 1."""
        for group in self._groups:
            live = [i for i, parameter in enumerate(group.parameters) if parameter.grad is not None]
            parameters: list[Tensor] = [group.parameters[i] for i in live]
            gradients = [grad for i in live if (grad := group.parameters[i].grad) is not None]
            states = [self._state[group.names[i]] for i in live]
            if not parameters:
                continue
            if self._config.kind in (pb.OPTIMIZER_KIND_ADAM, pb.OPTIMIZER_KIND_ADAMW):
                self._step_adam(_Live(parameters, gradients, states), rate, group.weight_decay, skip)
            else:
                self._step_sgd(_Live(parameters, gradients, states), rate, group.weight_decay, skip)

    def _step_sgd(self, live: _Live, rate: float, decay: float, skip: Tensor | None) -> None:
        momentum = self._config.momentum
        torch._fused_sgd_(
            live.parameters,
            live.gradients,
            [state["momentum_buffer"] for state in live.states] if momentum else [],
            weight_decay=decay,
            momentum=momentum,
            lr=rate,
            dampening=0.0,
            nesterov=self._config.kind == pb.OPTIMIZER_KIND_NESTEROV,
            maximize=False,
            is_first_step=False,  # buffers begin at zero, which gives the same first step
            found_inf=skip,
        )

    def _step_adam(self, live: _Live, rate: float, decay: float, skip: Tensor | None) -> None:
        steps = [state["step"] for state in live.states]
        torch._foreach_add_(steps, 1)
        kernel = torch._fused_adamw_ if self._config.kind == pb.OPTIMIZER_KIND_ADAMW else torch._fused_adam_
        kernel(
            live.parameters,
            live.gradients,
            [state["exp_avg"] for state in live.states],
            [state["exp_avg_sq"] for state in live.states],
            [],
            steps,
            lr=rate,
            beta1=self._config.beta1,
            beta2=self._config.beta2,
            weight_decay=decay,
            eps=self._config.epsilon,
            amsgrad=False,
            maximize=False,
            found_inf=skip,
        )
        if skip is not None:
            torch._foreach_sub_(steps, [skip] * len(steps))


def _fresh_state(parameter: nn.Parameter, config: pb.OptimizerConfig) -> dict[str, Tensor]:
    if config.kind in (pb.OPTIMIZER_KIND_ADAM, pb.OPTIMIZER_KIND_ADAMW):
        return {
            "step": torch.zeros((), device=parameter.device),
            "exp_avg": torch.zeros_like(parameter, requires_grad=False),
            "exp_avg_sq": torch.zeros_like(parameter, requires_grad=False),
        }
    if config.momentum:
        return {"momentum_buffer": torch.zeros_like(parameter, requires_grad=False)}
    return {}
