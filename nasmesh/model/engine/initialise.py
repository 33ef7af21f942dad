"""Start values of parameters: drawn by the rule that the network names, from a seed and the parameter's name alone.

So a parameter starts alike on every machine, and does not notice what else is in its network. numpy draws, because its
bit streams do not depend on the processor's vector width, as torch's do.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import torch
from torch import Tensor

from nasmesh.clock import derive_seed
from nasmesh.errors import Invalid
from nasmesh.model.initializers import INIT_KEY, InitRule, default_init, parse_init

_RELU_GAIN = math.sqrt(2.0)


def initial_value(rule: InitRule, name: str, dims: Sequence[int], *, seed: int, input_first: bool = False) -> Tensor:
    """Return the float32 start value of a parameter; `input_first` where its first axis counts inputs, not outputs.

    Kaiming and Xavier as He et al. 2015 and Glorot and Bengio 2010 define them, for ReLU and gain 1.
    """
    kind, numbers = rule.kind, rule.numbers
    shape = tuple(dims)
    if kind in ("zeros", "ones", "constant"):
        value = {"zeros": 0.0, "ones": 1.0}.get(kind) if kind != "constant" else numbers[0]
        return torch.full(shape, float(value or 0.0))
    draw = np.random.Generator(np.random.PCG64(derive_seed(seed, "parameter", name)))
    if kind == "normal":
        return _normal(draw, shape, *numbers)
    if kind == "uniform":
        return _uniform(draw, shape, *numbers)
    fan_in, fan_out = fans(shape, input_first=input_first)
    if kind == "kaiming_normal":
        return _normal(draw, shape, 0.0, _RELU_GAIN / math.sqrt(fan_in))
    if kind == "kaiming_uniform":
        return _symmetric(draw, shape, _RELU_GAIN * math.sqrt(3.0 / fan_in))
    if kind == "xavier_normal":
        return _normal(draw, shape, 0.0, math.sqrt(2.0 / (fan_in + fan_out)))
    if kind == "xavier_uniform":
        return _symmetric(draw, shape, math.sqrt(6.0 / (fan_in + fan_out)))
    raise Invalid("INIT_RULE_INVALID", f"{name}: the engine has no init rule {kind!r}", field=name)


def init_rules(model: onnx.ModelProto, dims: Mapping[str, Sequence[int]]) -> dict[str, InitRule]:
    """Return the rules of the parameters with these dims, the default one where none is written, in one pass."""
    written: dict[str, str] = {}
    protos: list[onnx.ValueInfoProto | onnx.TensorProto] = [*model.graph.input, *model.graph.initializer]
    for proto in protos:
        text = next((prop.value for prop in proto.metadata_props if prop.key == INIT_KEY), "")
        written[proto.name] = text or written.get(proto.name, "")
    return {
        name: parse_init(written[name], where=name) if written[name] else default_init(name, len(shape))
        for name, shape in dims.items()
    }


def fans(shape: Sequence[int], *, input_first: bool = False) -> tuple[int, int]:
    """Return (fan in, fan out), at least 1, of a weight [out, in, *window], or [in, out, *window] if `input_first`."""
    if len(shape) < 2:
        size = max(1, math.prod(shape))
        return size, size
    window = math.prod(shape[2:])
    first, second = max(1, shape[0] * window), max(1, shape[1] * window)
    return (first, second) if input_first else (second, first)


def input_first_names(model: onnx.ModelProto) -> set[str]:
    """Return the names of weights whose first axis counts inputs: of MatMul, ConvTranspose and untransposed Gemm."""
    found = set()
    for node in model.graph.node:
        if node.op_type not in ("MatMul", "ConvTranspose", "Gemm") or len(node.input) < 2:
            continue
        transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
        if not transposed:
            found.add(node.input[1])
    return found


def _normal(draw: np.random.Generator, shape: tuple[int, ...], mean: float, std: float) -> Tensor:
    values = draw.standard_normal(shape, dtype=np.float32)
    return torch.from_numpy(np.asarray(values * np.float32(std) + np.float32(mean), dtype=np.float32))


def _uniform(draw: np.random.Generator, shape: tuple[int, ...], low: float, high: float) -> Tensor:
    values = draw.random(shape, dtype=np.float32)
    return torch.from_numpy(np.asarray(values * np.float32(high - low) + np.float32(low), dtype=np.float32))


def _symmetric(draw: np.random.Generator, shape: tuple[int, ...], bound: float) -> Tensor:
    return _uniform(draw, shape, -bound, bound)
