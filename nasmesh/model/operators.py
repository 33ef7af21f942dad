"""The operators that a network may use, with the range of every attribute: the one allow-list.

An attribute that is not listed is refused, and so is an operator. No listed operator's output shape depends on data:
inputs that carry shapes or axes must be constants.
"""

import math
from dataclasses import dataclass, field

import onnx
from onnx import helper

from nasmesh.limits import (
    ADMISSION_DILATION,
    ADMISSION_DIM,
    ADMISSION_ENDS,
    ADMISSION_INTEGERS,
    ADMISSION_PAD,
    ADMISSION_RANK,
    ADMISSION_STRIDE,
)
from nasmesh.model.operations import MAX_KERNEL
from nasmesh.model.reasons import Reason, rejected


@dataclass(frozen=True, slots=True)
class Numbers:
    """An int, or a list of ints, within [low, high]."""

    low: int
    high: int
    many: bool = False


@dataclass(frozen=True, slots=True)
class Real:
    """A finite float within [low, high]."""

    low: float = -1e30
    high: float = 1e30


@dataclass(frozen=True, slots=True)
class Text:
    """One of these strings."""

    allowed: tuple[str, ...]


Rule = Numbers | Real | Text


@dataclass(frozen=True, slots=True)
class Operator:
    """What is accepted of one operator.

    fewest, most: number of inputs. constants: input positions that must be constants (shapes, axes, limits).
    outputs: most outputs. attributes: every attribute that may be set.
    """

    fewest: int = 1
    most: int = 1
    constants: tuple[int, ...] = ()
    outputs: int = 1
    attributes: dict[str, Rule] = field(default_factory=dict)


_INT, _INTS = onnx.AttributeProto.INT, onnx.AttributeProto.INTS
_FLOAT, _STRING = onnx.AttributeProto.FLOAT, onnx.AttributeProto.STRING
_TEXT = 64  # more than any text that is allowed
_FLAG = Numbers(0, 1)
_AXIS = Numbers(-ADMISSION_RANK, ADMISSION_RANK)
_AXES = Numbers(-ADMISSION_RANK, ADMISSION_RANK, many=True)
_ANY = Real()
_POSITIVE = Real(1e-12, 1e30)
_EPSILON = Real(1e-12, 1.0)  # engines refuse 0
_MANY = ADMISSION_ENDS
# Padding up to 31, or as much as the widest dilated kernel needs to keep the size; the exact bound depends on the node.
_MOST_PAD = max(ADMISSION_PAD, (MAX_KERNEL - 1) * ADMISSION_DILATION)
_WINDOW: dict[str, Rule] = {
    "auto_pad": Text(("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")),
    "kernel_shape": Numbers(1, MAX_KERNEL, many=True),
    "strides": Numbers(1, ADMISSION_STRIDE, many=True),
    "dilations": Numbers(1, ADMISSION_DILATION, many=True),
    "pads": Numbers(0, _MOST_PAD, many=True),
}
_CONV: dict[str, Rule] = {**_WINDOW, "group": Numbers(1, ADMISSION_DIM)}
_REDUCE = Operator(most=2, constants=(1,), attributes={"axes": _AXES, "keepdims": _FLAG, "noop_with_empty_axes": _FLAG})
_BINARY = Operator(fewest=2, most=2)
_VARIADIC = Operator(fewest=1, most=_MANY)
_UNARY = Operator()

OPERATORS: dict[str, Operator] = {
    "Conv": Operator(fewest=2, most=3, attributes=_CONV),
    "ConvTranspose": Operator(
        fewest=2, most=3, attributes={**_CONV, "output_padding": Numbers(0, ADMISSION_STRIDE, many=True)}
    ),
    "Gemm": Operator(
        fewest=2, most=3, attributes={"alpha": _ANY, "beta": _ANY, "transA": Numbers(0, 0), "transB": _FLAG}
    ),
    "MatMul": _BINARY,
    "MaxPool": Operator(attributes={**_WINDOW, "ceil_mode": _FLAG, "storage_order": Numbers(0, 0)}),
    "AveragePool": Operator(attributes={**_WINDOW, "ceil_mode": _FLAG, "count_include_pad": _FLAG}),
    "GlobalAveragePool": _UNARY,
    "GlobalMaxPool": _UNARY,
    "BatchNormalization": Operator(
        fewest=5,
        most=5,
        attributes={"epsilon": _EPSILON, "momentum": Real(0.0, 1.0), "training_mode": Numbers(0, 0)},
    ),
    "LayerNormalization": Operator(
        fewest=2, most=3, attributes={"axis": _AXIS, "epsilon": _EPSILON, "stash_type": Numbers(1, 1)}
    ),
    "InstanceNormalization": Operator(fewest=3, most=3, attributes={"epsilon": _EPSILON}),
    "GroupNormalization": Operator(
        fewest=3,
        most=3,
        attributes={"epsilon": _EPSILON, "num_groups": Numbers(1, ADMISSION_DIM), "stash_type": Numbers(1, 1)},
    ),
    "LRN": Operator(attributes={"size": Numbers(1, 1023), "alpha": _POSITIVE, "beta": _POSITIVE, "bias": _ANY}),
    "Dropout": Operator(most=3, constants=(1, 2), attributes={"seed": Numbers(-(2**63), 2**63 - 1)}),
    **dict.fromkeys(("Relu", "Sigmoid", "Tanh", "Softplus", "Softsign", "HardSwish", "Mish", "Identity"), _UNARY),
    **dict.fromkeys(("Erf", "Exp", "Log", "Sqrt", "Neg", "Abs", "Reciprocal"), _UNARY),
    "LeakyRelu": Operator(attributes={"alpha": _ANY}),
    "Elu": Operator(attributes={"alpha": _ANY}),
    "Celu": Operator(attributes={"alpha": _ANY}),
    "Selu": Operator(attributes={"alpha": _ANY, "gamma": _ANY}),
    "ThresholdedRelu": Operator(attributes={"alpha": _ANY}),
    "HardSigmoid": Operator(attributes={"alpha": _ANY, "beta": _ANY}),
    "Gelu": Operator(attributes={"approximate": Text(("none", "tanh"))}),
    "Swish": Operator(attributes={"alpha": _ANY}),
    "PRelu": _BINARY,
    "Clip": Operator(most=3, constants=(1, 2)),
    "Softmax": Operator(attributes={"axis": _AXIS}),
    "LogSoftmax": Operator(attributes={"axis": _AXIS}),
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Pow"), _BINARY),
    **dict.fromkeys(("Sum", "Mean", "Max", "Min"), _VARIADIC),
    "Concat": Operator(fewest=1, most=_MANY, attributes={"axis": _AXIS}),
    "Split": Operator(
        most=2, constants=(1,), outputs=_MANY, attributes={"axis": _AXIS, "num_outputs": Numbers(1, _MANY)}
    ),
    "Slice": Operator(fewest=3, most=5, constants=(1, 2, 3, 4)),
    "Reshape": Operator(fewest=2, most=2, constants=(1,), attributes={"allowzero": Numbers(0, 0)}),
    "Flatten": Operator(attributes={"axis": _AXIS}),
    "Squeeze": Operator(most=2, constants=(1,)),
    "Unsqueeze": Operator(fewest=2, most=2, constants=(1,)),
    "Transpose": Operator(attributes={"perm": Numbers(0, ADMISSION_RANK, many=True)}),
    "Pad": Operator(fewest=2, most=4, constants=(1, 2, 3), attributes={"mode": Text(("constant", "reflect", "edge"))}),
    **dict.fromkeys(("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"), _REDUCE),
    "Constant": Operator(fewest=0, most=0),
}


_CONSTANT_TYPES = {
    "value": onnx.AttributeProto.TENSOR,
    "value_float": onnx.AttributeProto.FLOAT,
    "value_floats": onnx.AttributeProto.FLOATS,
    "value_int": onnx.AttributeProto.INT,
    "value_ints": onnx.AttributeProto.INTS,
}


def check_operator(node: onnx.NodeProto, where: str) -> dict[str, object]:
    """Return a node's attributes by name after checking the node against the allow-list.

    Raises Rejected (DOMAIN_NOT_ALLOWED, OP_NOT_ALLOWED, ATTRIBUTE_NOT_ALLOWED, GRAPH_INVALID) with field `where`.
    """
    if node.domain not in ("", "ai.onnx"):
        raise rejected(Reason.DOMAIN_NOT_ALLOWED, f"operator of domain {node.domain[:60]!r}", where=where)
    known = OPERATORS.get(node.op_type)
    if known is None:
        raise rejected(Reason.OP_NOT_ALLOWED, f"operator {node.op_type[:60]!r} is not supported", where=where)
    if not known.fewest <= len(node.input) <= known.most or not 1 <= len(node.output) <= known.outputs:
        message = f"{node.op_type} has {len(node.input)} inputs and {len(node.output)} outputs"
        raise rejected(Reason.GRAPH_INVALID, message, where=where)
    if node.op_type == "Constant":
        return _constant_attribute(node, where)
    values: dict[str, object] = {}
    for attribute in node.attribute:
        values[attribute.name] = _checked(node.op_type, attribute, known.attributes.get(attribute.name), where)
    return values


def _checked(op_type: str, attribute: onnx.AttributeProto, rule: Rule | None, where: str) -> object:
    if rule is None:
        message = f"{op_type} may not have the attribute {attribute.name[:60]!r}"
        raise rejected(Reason.ATTRIBUTE_NOT_ALLOWED, message, where=where)
    value = _value(attribute, rule)
    if value is None or not _within(value, rule):
        message = f"{op_type}.{attribute.name} is {str(value)[:60]}; allowed: {_shown(rule)}"
        raise rejected(Reason.ATTRIBUTE_NOT_ALLOWED, message, where=where)
    return value


def _value(attribute: onnx.AttributeProto, rule: Rule) -> object:
    """Return the value of an attribute if its type suits the rule, None where it does not or the value is long.

    In place of onnx's own reader, which compares the type with one after another.
    """
    kind, ints, text = attribute.type, attribute.ints, attribute.s
    if len(ints) > 2 * ADMISSION_RANK or len(text) > _TEXT:
        return None
    if isinstance(rule, Numbers):
        if kind == _INT:
            return attribute.i
        return list(ints) if kind == _INTS else None
    if isinstance(rule, Real):
        return attribute.f if kind == _FLOAT else None
    return text.decode("ascii", "replace") if kind == _STRING else None


def _within(value: object, rule: Rule) -> bool:
    if isinstance(rule, Text):
        return value in rule.allowed
    if isinstance(value, list):
        return isinstance(rule, Numbers) and rule.many and all(rule.low <= number <= rule.high for number in value)
    is_number = isinstance(value, int | float) and not (isinstance(rule, Numbers) and rule.many)
    return is_number and rule.low <= value <= rule.high  # type: ignore[operator]


def _shown(rule: Rule) -> str:
    if isinstance(rule, Text):
        return ", ".join(rule.allowed)
    return f"{rule.low:g} to {rule.high:g}"


def _constant_attribute(node: onnx.NodeProto, where: str) -> dict[str, object]:
    if len(node.attribute) != 1 or node.attribute[0].name not in _CONSTANT_TYPES:
        raise rejected(Reason.ATTRIBUTE_NOT_ALLOWED, "Constant needs one dense numeric value", where=where)
    attribute = node.attribute[0]
    wanted = _CONSTANT_TYPES[attribute.name]
    if attribute.type != wanted or max(len(attribute.ints), len(attribute.floats)) > ADMISSION_INTEGERS:
        raise rejected(Reason.ATTRIBUTE_NOT_ALLOWED, "Constant needs one dense numeric value", where=where)
    if not all(map(math.isfinite, (attribute.f, *attribute.floats))):
        raise rejected(Reason.DATA_NOT_FINITE, "the constant has NaN or infinity", where=where)
    return {attribute.name: helper.get_attribute_value(attribute)}
