"""Adds weights to a network, takes them away, and strips what only a resumed training needs."""

from collections.abc import Mapping
from copy import deepcopy

import numpy as np
import onnx
from onnx import helper, numpy_helper

from nasmesh.model.initializers import InitRule, annotate, data_inputs, init_rules, parameters
from nasmesh.model.metadata import TRAINING_KEY
from nasmesh.model.reasons import Reason, rejected


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
    return _with_tensors(model, tensors, rules=init_rules(model))


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
    result = _without_parameters(strip_training(model), set(rules))
    for name, dims in parameters(model).items():
        value = helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, list(dims))
        annotate(value, rules[name])
        result.graph.input.append(value)
    return result


def strip_training(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the published form: no training_info, no training scalars; the graph and its weights as they are."""
    result = deepcopy(model)
    del result.training_info[:]
    kept = [prop for prop in result.metadata_props if prop.key != TRAINING_KEY]
    if len(kept) != len(result.metadata_props):
        kept = deepcopy(kept)
        del result.metadata_props[:]
        result.metadata_props.extend(kept)
    return result


def weighted_bytes(model: onnx.ModelProto) -> int:
    """Return the exact size in bytes that the published network with weights has, without making the weights."""
    rules = init_rules(model)
    shell = _without_parameters(strip_training(model), set(rules))
    graph_bytes = shell.graph.ByteSize()
    for name, dims in parameters(model).items():
        tensor = onnx.TensorProto(name=name, data_type=onnx.TensorProto.FLOAT, dims=dims)
        annotate(tensor, rules[name])
        data = 4 * int(np.prod(dims, dtype=object))
        graph_bytes += _field_bytes(tensor.ByteSize() + _field_bytes(data))
    shell.ClearField("graph")
    return shell.ByteSize() + _field_bytes(graph_bytes)


def _with_tensors(
    model: onnx.ModelProto, tensors: list[onnx.TensorProto], rules: Mapping[str, InitRule]
) -> onnx.ModelProto:
    result = _without_parameters(model, set(rules))
    for tensor in tensors:
        annotate(tensor, rules[tensor.name])
        result.graph.initializer.append(tensor)
    return result


def _without_parameters(model: onnx.ModelProto, names: set[str]) -> onnx.ModelProto:
    """Return a copy whose graph has only data inputs and constants."""
    data = set(data_inputs(model))
    result = onnx.ModelProto()
    result.CopyFrom(model)
    inputs = [value for value in model.graph.input if value.name in data]
    constants = [tensor for tensor in model.graph.initializer if tensor.name not in names]
    del result.graph.input[:], result.graph.initializer[:]
    result.graph.input.extend(inputs)
    result.graph.initializer.extend(constants)
    return result


def _field_bytes(length: int) -> int:
    """Return the bytes of a length-delimited protobuf field with a one-byte tag."""
    return 1 + max(1, -(-length.bit_length() // 7)) + length
