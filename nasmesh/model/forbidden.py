"""The parts of admission that look at the message alone: counts, names, and what may not be there at all."""

import re
from collections.abc import Iterable

import onnx

from nasmesh import limits
from nasmesh.model.initializers import parameter_names
from nasmesh.model.metadata import ARCHITECTURE_KEY, TRAINING_KEY
from nasmesh.model.reasons import Reason, rejected
from nasmesh.model.tensors import check_tensor

_NAME = re.compile(r"[!-~]+")
_SUBGRAPHS = frozenset({"If", "Loop", "Scan"})
_NESTED = (
    onnx.AttributeProto.GRAPH,
    onnx.AttributeProto.GRAPHS,
    onnx.AttributeProto.SPARSE_TENSOR,
    onnx.AttributeProto.SPARSE_TENSORS,
    onnx.AttributeProto.TYPE_PROTO,
    onnx.AttributeProto.TYPE_PROTOS,
)


def check_counts(model: onnx.ModelProto) -> None:
    """Refuse too many nodes, initialisers, attributes; names that are long, not printable ASCII, or there twice."""
    graph = model.graph
    _at_most(len(graph.node), limits.ADMISSION_NODES, "nodes", "graph.node")
    _at_most(len(graph.initializer), limits.ADMISSION_INITIALIZERS, "initialisers", "graph.initializer")
    _at_most(len(graph.input), limits.ADMISSION_INITIALIZERS, "inputs", "graph.input")
    _at_most(len(graph.value_info), 4 * limits.ADMISSION_NODES, "value infos", "graph.value_info")
    for node in graph.node:
        _at_most(len(node.attribute), limits.ADMISSION_ATTRIBUTES, "attributes", node.name[:80] or node.op_type[:80])
        _check_name(node.name, may_be_empty=True)
        for name in (*node.input, *node.output):
            _check_name(name, may_be_empty=True)
    seen: set[str] = set()
    valued = {tensor.name for tensor in graph.initializer}
    fresh = [value.name for value in graph.input if value.name not in valued]
    for name in (*(t.name for t in graph.initializer), *fresh, *(n for node in graph.node for n in node.output if n)):
        _check_name(name, may_be_empty=False)
        if name in seen:
            raise rejected(Reason.NAME_DUPLICATE, "two values have this name", where=name)
        seen.add(name)
    inputs = [value.name for value in graph.input]
    if len(set(inputs)) != len(inputs):
        raise rejected(Reason.NAME_DUPLICATE, "two inputs have one name", where="graph.input")
    check_parameter_names(parameter_names(model))


def check_parameter_names(names: Iterable[str]) -> None:
    """Refuse names that nested modules cannot hold: empty parts, "::", and a name that is also another's prefix."""
    taken = set(names)
    for name in taken:
        if "::" in name or not all(name.split(".")):
            raise rejected(Reason.NAME_INVALID, "a parameter's name may not have '::' or an empty part", where=name)
        parts = name.split(".")
        for length in range(1, len(parts)):
            prefix = ".".join(parts[:length])
            if prefix in taken:
                message = f"{prefix!r} is a parameter too; a name cannot be both a leaf and a prefix"
                raise rejected(Reason.NAME_INVALID, message, where=name)


def check_forbidden(model: onnx.ModelProto, *, checkpoint: bool) -> None:
    """Refuse external data, functions, subgraphs, training info, sparse and string tensors, long metadata."""
    if model.functions:
        message = "model-local functions; import the network, which inlines them"
        raise rejected(Reason.FUNCTIONS, message, where=model.functions[0].name)
    if model.graph.sparse_initializer:
        raise rejected(Reason.TENSOR_TYPE, "sparse tensors are not supported", where="graph.sparse_initializer")
    if model.graph.quantization_annotation:
        raise rejected(Reason.TENSOR_TYPE, "quantisation is not supported", where="graph")
    for tensor in model.graph.initializer:
        _check_location(tensor)
    for node in model.graph.node:
        _check_node(node)
    _check_training(model, checkpoint=checkpoint)
    _check_metadata(model, checkpoint=checkpoint)


def _check_node(node: onnx.NodeProto) -> None:
    where = node.name or node.op_type
    if node.op_type in _SUBGRAPHS:
        raise rejected(Reason.SUBGRAPH, f"{node.op_type}: control flow is not supported", where=where)
    for attribute in node.attribute:
        if attribute.type in _NESTED or attribute.HasField("g") or attribute.graphs:
            reason = Reason.SUBGRAPH if attribute.HasField("g") or attribute.graphs else Reason.TENSOR_TYPE
            raise rejected(reason, f"attribute {attribute.name[:60]!r} holds a graph or sparse tensor", where=where)
        if attribute.ref_attr_name:
            raise rejected(Reason.FUNCTIONS, f"attribute {attribute.name[:60]!r} refers to a function", where=where)
        if attribute.HasField("t"):
            check_tensor(attribute.t, where)


def _check_location(tensor: onnx.TensorProto) -> None:
    if tensor.data_location != onnx.TensorProto.DEFAULT or tensor.external_data:
        raise rejected(Reason.EXTERNAL_DATA, "the tensor's data is outside the object", where=tensor.name)
    if tensor.data_type == onnx.TensorProto.STRING or tensor.string_data:
        raise rejected(Reason.TENSOR_TYPE, "string tensors are not supported", where=tensor.name)


def _check_training(model: onnx.ModelProto, *, checkpoint: bool) -> None:
    if not model.training_info:
        return
    info = model.training_info[0]
    plain = len(model.training_info) == 1 and not info.HasField("initialization") and not info.algorithm.node
    bindings = info.initialization_binding or info.update_binding
    if not checkpoint or not plain or bindings:
        message = "training info is allowed in checkpoints of our own only; publish the network without it"
        raise rejected(Reason.TRAINING_INFO, message, where="training_info")
    _at_most(len(info.algorithm.initializer), 4 * limits.ADMISSION_INITIALIZERS, "state tensors", "training_info")
    for tensor in info.algorithm.initializer:
        _check_name(tensor.name, may_be_empty=False)
        check_tensor(tensor, tensor.name)


def _check_metadata(model: onnx.ModelProto, *, checkpoint: bool) -> None:
    long = {ARCHITECTURE_KEY} | ({TRAINING_KEY} if checkpoint else set())
    keys = [prop.key for prop in model.metadata_props]
    if len(set(keys)) != len(keys):
        raise rejected(Reason.NAME_DUPLICATE, "a metadata key is there twice", where="metadata_props")
    for prop in model.metadata_props:
        limit = limits.ADMISSION_ARCHITECTURE_BYTES if prop.key in long else limits.ADMISSION_METADATA_BYTES
        if len(prop.key) > limits.ADMISSION_NAME_CHARS or len(prop.value.encode()) > limit:
            message = f"{len(prop.value)} characters of metadata; the limit is {limit}"
            raise rejected(Reason.METADATA_TOO_LARGE, message, where=prop.key)
    graph = model.graph
    texts = [(graph.name, graph.doc_string, graph.metadata_props)]
    texts += [(node.name, node.doc_string, node.metadata_props) for node in graph.node]
    texts += [(tensor.name, tensor.doc_string, tensor.metadata_props) for tensor in graph.initializer]
    values = (*graph.input, *graph.output, *graph.value_info)
    texts += [(value.name, value.doc_string, value.metadata_props) for value in values]
    for name, text, props in texts:
        size = len(text) + sum(len(prop.key) + len(prop.value) for prop in props)
        if size > limits.ADMISSION_METADATA_BYTES:
            message = f"{size} characters of documentation; the limit is {limits.ADMISSION_METADATA_BYTES}"
            raise rejected(Reason.METADATA_TOO_LARGE, message, where=name)
    if len(model.doc_string) > limits.ADMISSION_METADATA_BYTES:
        raise rejected(Reason.METADATA_TOO_LARGE, "a long documentation text", where="doc_string")


def _at_most(count: int, limit: int, what: str, where: str) -> None:
    if count > limit:
        raise rejected(Reason.TOO_MANY, f"{count} {what}; the limit is {limit}", where=where)


def _check_name(name: str, *, may_be_empty: bool) -> None:
    if not name and may_be_empty:
        return
    if len(name) > limits.ADMISSION_NAME_CHARS or not _NAME.fullmatch(name):
        message = f"the name {name[:40]!r} is empty, longer than {limits.ADMISSION_NAME_CHARS}, or not printable ASCII"
        raise rejected(Reason.NAME_INVALID, message, where=name[:64].encode("ascii", "replace").decode())
