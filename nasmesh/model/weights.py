"""Adds weights to a network, takes them away, and strips what only a resumed training needs."""

import math
from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from nasmesh.model.fields import copy_fields
from nasmesh.model.initializers import Interface, annotate, data_inputs, init_rules, parameters
from nasmesh.model.metadata import TRAINING_KEY
from nasmesh.model.reasons import Reason, rejected

_FLOAT_BYTES = 4


def has_weights(model: onnx.ModelProto) -> bool:
    """Tell whether every parameter has a value; a network without parameters has its weights."""
    valued = {tensor.name for tensor in model.graph.initializer}
    return all(name in valued for name in parameters(model))


def with_weights(model: onnx.ModelProto, values: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """Return the network with these float32 parameter values as initialisers, bit for bit; init rules stay on them.

    `values` names every parameter, with its dims. Raises Rejected (SHAPE_MISMATCH) naming the parameter.
    """
    wanted = parameters(model)
    for name in sorted(wanted.keys() ^ values.keys()):
        raise rejected(Reason.SHAPE_MISMATCH, "the parameter is missing or unknown", where=name)
    tensors = []
    for name, dims in wanted.items():
        array = np.asarray(values[name])
        if array.shape != dims or array.dtype != np.float32:
            message = f"the value is {array.dtype} {array.shape}, the parameter float32 {dims}"
            raise rejected(Reason.SHAPE_MISMATCH, message, where=name)
        tensors.append(numpy_helper.from_array(np.ascontiguousarray(array).reshape(dims), name))
    rules = init_rules(model)
    result = _shell(model, set(rules), keep_training=True)
    for tensor in tensors:
        annotate(tensor, rules[tensor.name])
        result.graph.initializer.append(tensor)
    return result


def weight_values(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Return the values of a network's parameters by name; raises Rejected where one has none."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    missing = [name for name in parameters(model) if name not in tensors]
    if missing:
        raise rejected(Reason.SHAPE_MISMATCH, "the parameter has no value: the network is weightless", where=missing[0])
    return {name: numpy_helper.to_array(tensors[name]) for name in parameters(model)}


def weightless(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the network with its parameters as typed inputs again, without training state."""
    rules = init_rules(model)
    result = _shell(model, set(rules), keep_training=False)
    for name, dims in parameters(model).items():
        value = helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, list(dims))
        annotate(value, rules[name])
        result.graph.input.append(value)
    return result


def strip_training(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the published form: no training_info, no training scalars; the graph and its weights as they are."""
    result = onnx.ModelProto()
    copy_fields(model, result, {"training_info", "metadata_props"})
    result.metadata_props.extend(prop for prop in model.metadata_props if prop.key != TRAINING_KEY)
    return result


def weighted_bytes(model: onnx.ModelProto, interface: Interface | None = None) -> int:
    """Return the exact size in bytes that the published network with weights has, without making the weights."""
    interface = interface or Interface.of(model)
    rules = interface.rules
    given = [value for value in model.graph.input if value.name not in interface.data]
    stored = [tensor for tensor in model.graph.initializer if tensor.name in rules]
    # Only what is not there in the end is measured and taken away: copying the rest would cost more than all else.
    graph_bytes = model.graph.ByteSize() - sum(_field_bytes(proto.ByteSize()) for proto in (*given, *stored))
    for name, dims in interface.dims.items():
        tensor = onnx.TensorProto(name=name, data_type=onnx.TensorProto.FLOAT, dims=dims)
        annotate(tensor, rules[name])
        data = _FLOAT_BYTES * math.prod(dims)
        graph_bytes += _field_bytes(tensor.ByteSize() + _field_bytes(data))
    result = model.ByteSize() - _field_bytes(model.graph.ByteSize()) + _field_bytes(graph_bytes)
    result -= sum(1 + _field_bytes(info.ByteSize()) for info in model.training_info)  # its tag takes two bytes
    dropped = (prop for prop in model.metadata_props if prop.key == TRAINING_KEY)
    return result - sum(_field_bytes(prop.ByteSize()) for prop in dropped)


def _shell(model: onnx.ModelProto, names: set[str], *, keep_training: bool) -> onnx.ModelProto:
    """Return a copy whose graph has only data inputs and constants; the weights, which are big, are never copied."""
    data = set(data_inputs(model))
    result = onnx.ModelProto()
    copy_fields(model, result, {"graph", "training_info", "metadata_props"})
    copy_fields(model.graph, result.graph, {"input", "initializer"})
    result.graph.input.extend(value for value in model.graph.input if value.name in data)
    result.graph.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name not in names)
    if keep_training:
        result.training_info.extend(model.training_info)
    kept = (prop for prop in model.metadata_props if keep_training or prop.key != TRAINING_KEY)
    result.metadata_props.extend(kept)
    return result


def _field_bytes(length: int) -> int:
    """Return the bytes of a length-delimited protobuf field with a one-byte tag."""
    return 1 + max(1, -(-length.bit_length() // 7)) + length
