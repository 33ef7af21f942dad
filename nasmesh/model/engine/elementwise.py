"""Activations and arithmetic: ONNX node → fx nodes."""

import functools
import operator as python_operator
from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, fx

from nasmesh.model.engine.build import Builder, Operator

UNARY: dict[str, Callable[..., Tensor]] = {
    "Abs": torch.abs,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "HardSwish": F.hardswish,
    "Log": torch.log,
    "Mish": F.mish,
    "Neg": torch.neg,
    "Reciprocal": torch.reciprocal,
    "Relu": F.relu,
    "Round": torch.round,
    "Sigmoid": torch.sigmoid,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Softsign": F.softsign,
    "Sqrt": torch.sqrt,
    "Tanh": torch.tanh,
}


def _unary(function: Callable[..., Tensor]) -> Builder:
    return lambda operator: operator.call(function, operator.tensor(0))


def _alpha(function: Callable[..., Tensor], default: float) -> Builder:
    return lambda operator: operator.call(function, operator.tensor(0), operator.number("alpha", default))


def softplus(x: Tensor) -> Tensor:
    """Return log(1 + exp(x)); torch's own turns linear above a threshold, which ONNX's does not."""
    return torch.logaddexp(x, torch.zeros_like(x))


def selu(x: Tensor, alpha: float, gamma: float) -> Tensor:
    """Return gamma * elu(x, alpha) (Klambauer et al. 2017)."""
    return gamma * F.elu(x, alpha)


def swish(x: Tensor, alpha: float) -> Tensor:
    """Return x * sigmoid(alpha * x) (Ramachandran et al. 2017)."""
    return F.silu(x) if alpha == 1.0 else x * torch.sigmoid(alpha * x)


def hard_sigmoid(x: Tensor, alpha: float, beta: float) -> Tensor:
    """Return alpha * x + beta cut to 0..1."""
    return torch.clamp(alpha * x + beta, 0.0, 1.0)


def thresholded_relu(x: Tensor, alpha: float) -> Tensor:
    """Return x where it is above alpha, else 0."""
    return torch.where(x > alpha, x, torch.zeros_like(x))


def parametric_relu(x: Tensor, slope: Tensor) -> Tensor:
    """Return x where it is not negative, else slope * x, the slope broadcast from the right as ONNX does."""
    return torch.where(x < 0, x * slope, x)


def _selu(operator: Operator) -> fx.Node:
    # ONNX's defaults, from the paper rounded to float32.
    alpha = operator.number("alpha", 1.6732632423543772)
    return operator.call(selu, operator.tensor(0), alpha, operator.number("gamma", 1.0507009873554805))


def _hard_sigmoid(operator: Operator) -> fx.Node:
    alpha, beta = operator.number("alpha", 0.2), operator.number("beta", 0.5)
    return operator.call(hard_sigmoid, operator.tensor(0), alpha, beta)


def _gelu(operator: Operator) -> fx.Node:
    approximate = operator.text("approximate", "none")
    if approximate not in ("none", "tanh"):
        operator.refuse(f"approximate {approximate[:32]!r} is not supported")
    return operator.call(F.gelu, operator.tensor(0), approximate=approximate)


def _clip(operator: Operator) -> fx.Node:
    low, high = operator.static_float(1, "min"), operator.static_float(2, "max")
    x = operator.tensor(0)
    if low is None and high is None:
        return x
    return operator.call(torch.clamp, x, low, high)


def _softmax(function: Callable[..., Tensor]) -> Builder:
    return lambda operator: operator.call(function, operator.tensor(0), operator.integer("axis", -1))


def _operand(operator: Operator, index: int) -> fx.Node | float:
    """Return an operand; a constant number goes into the code, where it costs nothing and follows the other's dtype."""
    constant = operator.constant(index)
    other = operator.constant(1 - index)
    if constant is not None and other is None and constant.ndim == 0 and constant.dtype.kind == "f":
        return float(constant)
    return operator.tensor(index)


def _binary(function: Callable[..., object]) -> Builder:
    return lambda operator: operator.call(function, _operand(operator, 0), _operand(operator, 1))


def _multiply(operator: Operator) -> fx.Node:
    """Multiply; x * sigmoid(x), which is how opset 21 writes SiLU, becomes one kernel that keeps one tensor less."""
    a, b = _operand(operator, 0), _operand(operator, 1)
    for x, gate, index in ((a, b, 1), (b, a, 0)):
        if (
            isinstance(gate, fx.Node)
            and gate.op == "call_function"
            and gate.target is torch.sigmoid
            and gate.args[0] is x
            and operator.uses(operator.node.input[index]) == 1
        ):
            return operator.replace(operator.node.input[index], F.silu, x)
    return operator.call(python_operator.mul, a, b)


def sum_all(*tensors: Tensor) -> Tensor:
    """Return the sum of tensors, broadcast."""
    return functools.reduce(torch.add, tensors)


def mean_all(*tensors: Tensor) -> Tensor:
    """Return the mean of tensors, broadcast."""
    return functools.reduce(torch.add, tensors) / len(tensors)


def max_all(*tensors: Tensor) -> Tensor:
    """Return the elementwise maximum, broadcast."""
    return functools.reduce(torch.maximum, tensors)


def min_all(*tensors: Tensor) -> Tensor:
    """Return the elementwise minimum, broadcast."""
    return functools.reduce(torch.minimum, tensors)


def _variadic(function: Callable[..., Tensor]) -> Builder:
    def build(operator: Operator) -> fx.Node:
        tensors = operator.tensors()
        if not tensors:
            operator.refuse("an input is needed")
        return tensors[0] if len(tensors) == 1 else operator.call(function, *tensors)

    return build


BUILDERS: dict[str, Builder] = {
    **{name: _unary(function) for name, function in UNARY.items()},
    "Add": _binary(python_operator.add),
    "Celu": _alpha(F.celu, 1.0),
    "Clip": _clip,
    "Div": _binary(python_operator.truediv),
    "Elu": _alpha(F.elu, 1.0),
    "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid,
    "Identity": lambda operator: operator.tensor(0),
    "LeakyRelu": _alpha(F.leaky_relu, 0.01),
    "LogSoftmax": _softmax(torch.log_softmax),
    "Max": _variadic(max_all),
    "Mean": _variadic(mean_all),
    "Min": _variadic(min_all),
    "Mul": _multiply,
    "PRelu": lambda operator: operator.call(parametric_relu, operator.tensor(0), operator.tensor(1)),
    "Pow": _binary(torch.pow),
    "Selu": _selu,
    "Softmax": _softmax(torch.softmax),
    "Softplus": _unary(softplus),
    "Sub": _binary(python_operator.sub),
    "Sum": _variadic(sum_all),
    "Swish": _alpha(swish, 1.0),
    "ThresholdedRelu": _alpha(thresholded_relu, 1.0),
}
