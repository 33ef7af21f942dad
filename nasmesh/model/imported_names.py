"""Names of an imported graph: made such that modules can hold the parameters, which are then marked."""

import math
import re

import onnx

from nasmesh.limits import ADMISSION_NAME_CHARS
from nasmesh.model.imported_graph import Workbench
from nasmesh.model.initializers import DATA_INPUT, INIT_KEY, InitRule, annotate
from nasmesh.model.lower import OUTPUT

_UNSOUND = re.compile(r"[^A-Za-z0-9_.]+")
# Positions of parameters by operator, with the rule by which each starts anew.
_ZEROS, _ONES, _KAIMING = InitRule("zeros"), InitRule("ones"), InitRule("kaiming_normal")
_ROLES: dict[str, dict[int, InitRule]] = {
    "Conv": {1: _KAIMING, 2: _ZEROS},
    "ConvTranspose": {1: _KAIMING, 2: _ZEROS},
    "Gemm": {1: _KAIMING, 2: _ZEROS},
    "MatMul": {0: _KAIMING, 1: _KAIMING},
    "BatchNormalization": {1: _ONES, 2: _ZEROS, 3: _ZEROS, 4: _ONES},
    "LayerNormalization": {1: _ONES, 2: _ZEROS},
    "InstanceNormalization": {1: _ONES, 2: _ZEROS},
    "GroupNormalization": {1: _ONES, 2: _ZEROS},
    "PRelu": {1: InitRule("constant", (0.25,))},
    "Add": {0: _ZEROS, 1: _ZEROS},
    "Mul": {0: _ONES, 1: _ONES},
    "Transpose": {0: _KAIMING},
    "Reshape": {0: _KAIMING},
    "Unsqueeze": {0: _ONES},
}
_ELEMENTWISE = frozenset({"Add", "Mul"})
# Where a tensor that was a Constant node is a weight all the same: some exporters write all weights so.
_WEIGHTY = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization"})


def sound_names(bench: Workbench, *, data: str) -> None:
    """Rename the data input to "x", the output to "logits", and every value whose name cannot be kept."""
    _move(bench, bench.output, OUTPUT)
    _move(bench, data if data != OUTPUT else f"{OUTPUT}_1", DATA_INPUT)
    parameters = set(bench.tensors) | {value.name for value in bench.inputs}
    taken = bench.names()
    for name in sorted(taken):
        if name in (DATA_INPUT, OUTPUT):
            continue
        sound = _sound(name) if name in parameters else _printable(name)
        if sound != name:
            fresh = _free(sound, taken)
            taken.add(fresh)
            bench.rename(name, fresh)
    _part_prefixes(bench)
    for node in bench.nodes:
        node.name = _printable(node.name) if node.name else ""


def mark_parameters(bench: Workbench, *, data: str) -> None:
    """Write an init rule on every tensor that training may change; a network of ours has its marks already.

    A float tensor is a parameter where an operator expects one; in elementwise operators if it has several elements and
    does not meet the data input itself, where it is normalisation of the data.
    """
    protos: dict[str, onnx.TensorProto | onnx.ValueInfoProto] = dict(bench.tensors)
    protos.update({value.name: value for value in bench.inputs if value.name != data})
    marked = any(prop.key == INIT_KEY for proto in protos.values() for prop in proto.metadata_props)
    for node in bench.nodes:
        for position, rule in _ROLES.get(node.op_type, {}).items():
            name = node.input[position] if position < len(node.input) else ""
            proto = protos.get(name)
            if proto is None or any(prop.key == INIT_KEY for prop in proto.metadata_props):
                continue
            if isinstance(proto, onnx.TensorProto) and (marked or not _trainable(bench, proto, node, data)):
                continue
            annotate(proto, rule)


def _trainable(bench: Workbench, tensor: onnx.TensorProto, node: onnx.NodeProto, data: str) -> bool:
    if tensor.data_type != onnx.TensorProto.FLOAT or (tensor.name in bench.lifted and node.op_type not in _WEIGHTY):
        return False
    return node.op_type not in _ELEMENTWISE or (math.prod(tensor.dims) > 1 and data not in node.input)


def _move(bench: Workbench, old: str, new: str) -> None:
    """Call `old` `new`; what has that name now gets another."""
    if old == new:
        return
    if new in bench.names():
        bench.rename(new, _free(f"{new}_1", bench.names()) if new != OUTPUT else f"{OUTPUT}_1")
    bench.rename(old, new)


def _sound(name: str) -> str:
    parts = [part for part in _UNSOUND.sub("_", name).split(".") if part]
    return _short(".".join(parts) or "parameter")


def _printable(name: str) -> str:
    return _short(re.sub(r"[^!-~]+", "_", name))


def _short(name: str) -> str:
    """Keep the end of a long name, which tells values apart; room is left for a number."""
    return name[-(ADMISSION_NAME_CHARS - 8) :].lstrip(".") if len(name) > ADMISSION_NAME_CHARS - 8 else name


def _free(name: str, taken: set[str]) -> str:
    if name not in taken:
        return name
    number = 1
    while f"{name}_{number}" in taken:
        number += 1
    return f"{name}_{number}"


def _part_prefixes(bench: Workbench) -> None:
    """Rename a parameter whose name is also the beginning of another's path."""
    names = set(bench.tensors) | {value.name for value in bench.inputs}
    prefixes = {".".join(name.split(".")[:length]) for name in names for length in range(1, name.count(".") + 1)}
    for name in sorted(names & prefixes):
        bench.rename(name, _free(f"{name}_value", bench.names() | prefixes))
