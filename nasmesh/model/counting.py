"""Counts parameters, multiply-accumulates and activations of a network, exactly, in Python integers.

The convention of papers: convolutions and matrix products are counted, biases, normalisation, activations and pooling
are not. Agrees with the published figures of NAS-Bench-201.
"""

import math
from dataclasses import dataclass

import onnx
from onnx import helper

from nasmesh.model.auxiliary import without_auxiliary
from nasmesh.model.backward import kept
from nasmesh.model.geometry import Dims
from nasmesh.model.inference import infer_dims
from nasmesh.model.initializers import Interface, statistic_names
from nasmesh.model.weights import weighted_bytes

_FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True)
class Counts:
    """Static figures of a network.

    parameters: trainable numbers, without batch norm's running statistics. macs: multiply-accumulates of one forward
    pass at batch 1. activations: float32 numbers that one sample leaves behind for the backward pass. training_peak:
    the most that one sample has alive at once in either pass, gradients included. size_bytes: size of the object with
    weights, without training state.
    """

    parameters: int
    macs: int
    activations: int
    training_peak: int
    size_bytes: int


def count(model: onnx.ModelProto) -> Counts:
    """Return the counts of a network, weightless or with weights; raises Rejected where its shapes do not fit."""
    return count_with(model, infer_dims(model, batch=1), Interface.of(model))


def count_with(model: onnx.ModelProto, dims: dict[str, Dims], interface: Interface) -> Counts:
    """Return the counts, given the dims of every value at batch 1 and what the model takes from outside.

    Auxiliary classifiers count in activations and training_peak only: they train, but nobody is served with them.
    """
    trained = kept(model, dims, interface)
    served = without_auxiliary(model)
    if served is not model:
        model, interface = served, Interface.of(served)
    nodes = [node for node in model.graph.node if node.op_type != "Constant"]
    sizes, statistics = interface.dims, statistic_names(model)
    return Counts(
        parameters=sum(math.prod(sizes[name]) for name in sizes if name not in statistics),
        macs=sum(node_macs(node, dims) for node in nodes),
        activations=trained.numbers,
        training_peak=trained.peak,
        size_bytes=weighted_bytes(model, interface),
    )


def node_macs(node: onnx.NodeProto, dims: dict[str, Dims]) -> int:
    """Return the multiply-accumulates of one node; 0 for operators that are not products."""
    if node.op_type == "Conv":
        return math.prod(dims[node.output[0]]) * math.prod(dims[node.input[1]][1:])
    if node.op_type == "ConvTranspose":
        return math.prod(dims[node.input[0]]) * math.prod(dims[node.input[1]][1:])
    if node.op_type == "Gemm":
        return math.prod(dims[node.output[0]]) * dims[node.input[0]][_inner_axis(node)]
    if node.op_type == "MatMul":
        return math.prod(dims[node.output[0]]) * dims[node.input[0]][-1]
    return 0


def peak_activation_bytes(model: onnx.ModelProto, dims: dict[str, Dims], interface: Interface | None = None) -> int:
    """Return the most bytes of activations alive at once when the nodes run in order, each value freed after use."""
    ends = [(list(node.input), list(node.output), node.op_type == "Constant") for node in model.graph.node]
    last = {name: index for index, (inputs, _, _) in enumerate(ends) for name in inputs}
    last.update({value.name: len(ends) for value in model.graph.output})
    trained = (interface or Interface.of(model)).dims
    alive = {value.name: math.prod(dims[value.name]) for value in model.graph.input if value.name not in trained}
    current = peak = sum(alive.values())
    for index, (inputs, outputs, is_constant) in enumerate(ends):
        for name in outputs:
            if name and not is_constant:
                alive[name] = math.prod(dims[name])
                current += alive[name]
        peak = max(peak, current)
        for name in (*inputs, *outputs):
            if name in alive and last.get(name, index) <= index:
                current -= alive.pop(name)
    return peak * _FLOAT_BYTES


def _inner_axis(node: onnx.NodeProto) -> int:
    values = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    return 0 if values.get("transA") else 1
