"""Which values of a network are parameters, and by which rule each starts.

A parameter is a typed graph input other than the data input (weightless network), or an initialiser that carries the
init rule in its metadata_props (network with weights). Other initialisers are constants: nobody trains them. Batch
norm's running statistics are parameters here, because weights contain them; `trainable_names` leaves them out.
"""

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass

import onnx

from nasmesh.model.reasons import Reason, rejected

INIT_KEY = "nasmesh.init"
DATA_INPUT = "x"
_RULE_CHARS = 100  # more than any rule has, so that what is remembered is bounded
_ARITY = {
    "zeros": 0,
    "ones": 0,
    "constant": 1,
    "normal": 2,
    "uniform": 2,
    "kaiming_normal": 0,
    "kaiming_uniform": 0,
    "xavier_normal": 0,
    "xavier_uniform": 0,
}
STATISTICS = (3, 4)
"""Inputs of a batch norm that are running mean and variance."""


@dataclass(frozen=True, slots=True)
class InitRule:
    """How a parameter starts.

    kind: zeros | ones | constant(value) | normal(mean, std) | uniform(low, high) | kaiming_normal | kaiming_uniform |
    xavier_normal | xavier_uniform. Kaiming counts fan_in and assumes ReLU (He et al. 2015).
    """

    kind: str
    numbers: tuple[float, ...] = ()

    def __str__(self) -> str:
        """Return the text form, for example "normal:0.5:0.01"."""
        return ":".join([self.kind, *(repr(float(number)) for number in self.numbers)])


def parse_init(rule: str, *, where: str = "") -> InitRule:
    """Return a rule from its text form; raises Rejected (INIT_RULE_INVALID) naming `where`."""
    found = _parsed(rule) if len(rule) <= _RULE_CHARS else None
    if found is None:
        raise rejected(
            Reason.INIT_RULE_INVALID, f"{rule[:80]!r} is no init rule; use one of {sorted(_ARITY)}", where=where
        )
    return found


@functools.lru_cache(maxsize=256)
def _parsed(rule: str) -> InitRule | None:
    """Return the rule in a text, None where it is none; a network has few, on many parameters."""
    kind, *rest = rule.split(":")
    try:
        numbers = tuple(float(text) for text in rest)
    except ValueError:
        return None
    is_rule = _ARITY.get(kind) == len(numbers) and all(math.isfinite(number) for number in numbers)
    return InitRule(kind, numbers) if is_rule else None


def default_init(role: str, rank: int) -> InitRule:
    """Return the rule for a parameter that names none, from the last part of its name and its rank."""
    if role.endswith(("bias", "running_mean")):
        return InitRule("zeros")
    if rank >= 2:
        return InitRule("kaiming_normal")
    return InitRule("ones")


@dataclass(frozen=True, slots=True)
class Interface:
    """What a model takes from outside, read once: its data inputs, and dims and rule of every parameter by name."""

    data: tuple[str, ...]
    dims: dict[str, tuple[int, ...]]
    rules: dict[str, InitRule]

    @classmethod
    def of(cls, model: onnx.ModelProto) -> "Interface":
        """Return the interface of a model; raises Rejected (INPUT_AMBIGUOUS, INIT_RULE_INVALID)."""
        free = _free_inputs(model)
        data = tuple(_data_of(free)) if free else ()
        dims: dict[str, tuple[int, ...]] = {}
        texts: dict[str, str] = {}
        for name, value in free.items():
            if name not in data:
                dims[name], texts[name] = parameter_dims(value), _annotation(value)
        for tensor in model.graph.initializer:
            if text := _annotation(tensor):
                dims[tensor.name], texts[tensor.name] = tuple(tensor.dims), text
        rules = {name: _rule(name, text, len(dims[name])) for name, text in texts.items()}
        return cls(data, dims, rules)


def init_rule(model: onnx.ModelProto, name: str) -> InitRule:
    """Return the rule of a parameter, the default one where it names none; KeyError if it is none."""
    for proto in _parameters(model):
        if proto.name == name:
            return _rule_of(proto)
    raise KeyError(name)


def init_rules(model: onnx.ModelProto) -> dict[str, InitRule]:
    """Return the rule of every parameter by name, in the model's order."""
    return {proto.name: _rule_of(proto) for proto in _parameters(model)}


def parameter_dims(proto: onnx.ValueInfoProto | onnx.TensorProto) -> tuple[int, ...]:
    """Return the dims of a parameter's proto; 0 where an input's dimension is not a fixed number."""
    if isinstance(proto, onnx.TensorProto):
        return tuple(proto.dims)
    return tuple(dim.dim_value for dim in proto.type.tensor_type.shape.dim)


def parameters(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Return the dims of every parameter by name, in the model's order."""
    return {proto.name: parameter_dims(proto) for proto in _parameters(model)}


def parameter_names(model: onnx.ModelProto) -> list[str]:
    """Return the names of all parameters, running statistics included, in the model's order."""
    return [proto.name for proto in _parameters(model)]


def statistic_names(model: onnx.ModelProto) -> set[str]:
    """Return the names of batch norm's running statistics."""
    norms = [node for node in model.graph.node if node.op_type == "BatchNormalization" and len(node.input) == 5]
    return {node.input[position] for node in norms for position in STATISTICS}


def trainable_names(model: onnx.ModelProto) -> list[str]:
    """Return the names of the parameters that an optimiser updates."""
    statistics = statistic_names(model)
    return [name for name in parameter_names(model) if name not in statistics]


def data_inputs(model: onnx.ModelProto) -> list[str]:
    """Return the names of the inputs that are samples: "x" by convention, else the one input whose batch is not fixed.

    Raises Rejected (INPUT_AMBIGUOUS) where that names not exactly one.
    """
    return _data_of(_free_inputs(model))


def _free_inputs(model: onnx.ModelProto) -> dict[str, onnx.ValueInfoProto]:
    """Return the inputs that no initialiser gives a value, by name."""
    valued = {tensor.name for tensor in model.graph.initializer}
    return {name: value for value in model.graph.input if (name := value.name) not in valued}


def _data_of(inputs: dict[str, onnx.ValueInfoProto]) -> list[str]:
    """Return which of the inputs without a value are samples; raises as data_inputs does."""
    if DATA_INPUT in inputs:
        return [DATA_INPUT]
    if len(inputs) == 1:
        return list(inputs)
    free = [name for name, value in inputs.items() if _has_free_batch(value)]
    if len(free) != 1:
        message = f"cannot tell which of {len(inputs)} inputs is the data; name it 'x'"
        raise rejected(Reason.INPUT_AMBIGUOUS, message, where="graph.input")
    return free


def annotate(proto: onnx.ValueInfoProto | onnx.TensorProto, rule: InitRule) -> None:
    """Write the init rule on a parameter's proto; this also marks an initialiser as a parameter."""
    for prop in proto.metadata_props:
        if prop.key == INIT_KEY:
            prop.value = str(rule)
            return
    proto.metadata_props.add(key=INIT_KEY, value=str(rule))


def _has_free_batch(value: onnx.ValueInfoProto) -> bool:
    dims = value.type.tensor_type.shape.dim
    return bool(dims) and not dims[0].HasField("dim_value")


def _rule_of(proto: onnx.ValueInfoProto | onnx.TensorProto) -> InitRule:
    return _rule(proto.name, _annotation(proto), len(parameter_dims(proto)))


def _rule(name: str, text: str, rank: int) -> InitRule:
    return parse_init(text, where=name) if text else default_init(name, rank)


def _annotation(proto: onnx.ValueInfoProto | onnx.TensorProto) -> str:
    for prop in proto.metadata_props:
        if prop.key == INIT_KEY:
            return prop.value
    return ""


def _parameters(model: onnx.ModelProto) -> Iterable[onnx.ValueInfoProto | onnx.TensorProto]:
    inputs = _free_inputs(model)
    if inputs:
        data = _data_of(inputs)
        yield from (value for name, value in inputs.items() if name not in data)
    yield from (tensor for tensor in model.graph.initializer if _annotation(tensor))
