"""The parts of admission that look at the message alone: counts, names, and what may not be there at all."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import onnx

from nasmesh import limits
from nasmesh.model.initializers import INIT_KEY
from nasmesh.model.metadata import ARCHITECTURE_KEY, DROP_PATH_KEY, TRAINING_KEY
from nasmesh.model.reasons import Reason, rejected
from nasmesh.model.tensors import check_tensor

_NAME = re.compile(r"[!-~]+")
# What the training engine can hold: its names become source text, where a quote would be code of the network's author.
_PARAMETER = re.compile(r"[A-Za-z0-9_:;/@+#$~.-]+")
_RESERVED = frozenset({"_operations", "_constants"})
_Described = onnx.GraphProto | onnx.NodeProto | onnx.TensorProto | onnx.ValueInfoProto
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
    _at_most(len(graph.value_info), limits.ADMISSION_NODES, "value infos", "graph.value_info")
    _at_most(len(graph.output), limits.ADMISSION_ENDS, "outputs", "graph.output")
    _at_most(len(model.opset_import), limits.ADMISSION_ENTRIES, "opsets", "opset_import")
    made: list[str] = []
    named: list[str] = []
    for node in graph.node:
        inputs, outputs = node.input, node.output
        ends, attributes = max(len(inputs), len(outputs)), len(node.attribute)
        if ends > limits.ADMISSION_ENDS or attributes > limits.ADMISSION_ATTRIBUTES:
            where = node.name[:80] or node.op_type[:80]
            _at_most(attributes, limits.ADMISSION_ATTRIBUTES, "attributes", where)
            _at_most(ends, limits.ADMISSION_ENDS, "inputs or outputs", where)
        before = len(named)
        named += outputs
        made += named[before:]
        named += inputs
        named.append(node.name)
    _check_names([name for name in named if name])
    taken = [value.name for value in graph.input]
    valued = [tensor.name for tensor in graph.initializer]
    fresh = set(valued)
    given = [*valued, *(name for name in taken if name not in fresh)]
    _check_names(given)
    given += (name for name in made if name)
    if len(set(given)) != len(given):
        twice = next(name for name, times in Counter(given).items() if times > 1)
        raise rejected(Reason.NAME_DUPLICATE, "two values have this name", where=twice)
    if len(set(taken)) != len(taken):
        raise rejected(Reason.NAME_DUPLICATE, "two inputs have one name", where="graph.input")


def check_parameter_names(names: Iterable[str]) -> None:
    """Refuse names that nested modules cannot hold: empty parts, "::", and a name that is also another's prefix."""
    taken = set(names)
    for name in taken:
        if "::" in name or not all(name.split(".")):
            raise rejected(Reason.NAME_INVALID, "a parameter's name may not have '::' or an empty part", where=name)
        parts = name.split(".")
        if not _PARAMETER.fullmatch(name) or parts[0] in _RESERVED:
            message = "a parameter's name has dotted parts of letters, digits and _:;/@+#$~-"
            raise rejected(Reason.NAME_INVALID, message, where=name)
        for length in range(1, len(parts)):
            prefix = ".".join(parts[:length])
            if prefix in taken:
                message = f"{prefix!r} is a parameter too; a name cannot be both a leaf and a prefix"
                raise rejected(Reason.NAME_INVALID, message, where=name)


# An attribute of nothing but its name, its type and one plain value needs no further look.
_PLAIN_FIELDS = frozenset({"name", "type", "i", "ints", "f", "floats", "s"})
_PLAIN_COUNT = 3
_GRAPHS = frozenset({"g", "graphs"})
_MODEL_FIELDS = {
    *("ir_version", "opset_import", "producer_name", "producer_version", "domain", "model_version"),
    *("doc_string", "graph", "metadata_props", "training_info", "functions"),
}


def check_forbidden(model: onnx.ModelProto, *, checkpoint: bool) -> None:
    """Refuse external data, functions, subgraphs, training info, sparse and string tensors, long metadata."""
    if model.functions:
        message = "model-local functions; import the network, which inlines them"
        raise rejected(Reason.FUNCTIONS, message, where=model.functions[0].name)
    extra = sorted({descriptor.name for descriptor, _ in model.ListFields()} - _MODEL_FIELDS)
    if extra:
        raise rejected(Reason.GRAPH_INVALID, f"the model has {', '.join(extra)}; remove that", where="model")
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
        fields = {descriptor.name for descriptor, _ in attribute.ListFields()}
        if fields <= _PLAIN_FIELDS and len(fields) <= _PLAIN_COUNT and attribute.type not in _NESTED:
            continue
        if attribute.type in _NESTED or fields & _GRAPHS:
            reason = Reason.SUBGRAPH if fields & _GRAPHS else Reason.TENSOR_TYPE
            raise rejected(reason, f"attribute {attribute.name[:60]!r} holds a graph or sparse tensor", where=where)
        if attribute.ref_attr_name:
            raise rejected(Reason.FUNCTIONS, f"attribute {attribute.name[:60]!r} refers to a function", where=where)
        if "t" in fields:
            check_tensor(attribute.t, where)
        _check_extras(attribute, fields, where)
    if node.overload or node.device_configurations:
        raise rejected(Reason.FUNCTIONS, "a node of a function, or bound to devices", where=where)


def _check_extras(attribute: onnx.AttributeProto, fields: set[str], where: str) -> None:
    """Refuse an attribute with several values: which of them counts, readers might see differently."""
    values = sorted(fields - {"name", "type", "doc_string"})
    if len(values) > 1 or len(attribute.doc_string) > limits.ADMISSION_METADATA_BYTES:
        message = f"attribute {attribute.name[:60]!r} holds {', '.join(values)}; one value is enough"
        raise rejected(Reason.ATTRIBUTE_NOT_ALLOWED, message, where=where)


def _check_location(tensor: onnx.TensorProto) -> None:
    if tensor.data_location != onnx.TensorProto.DEFAULT or tensor.external_data:
        raise rejected(Reason.EXTERNAL_DATA, "the tensor's data is outside the object", where=tensor.name)
    if len(tensor.dims) > limits.ADMISSION_RANK:  # before anything multiplies them
        message = f"rank {len(tensor.dims)}; use up to {limits.ADMISSION_RANK}"
        raise rejected(Reason.VALUE_OUT_OF_RANGE, message, where=tensor.name)
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
    long = {ARCHITECTURE_KEY, DROP_PATH_KEY} | ({TRAINING_KEY} if checkpoint else set())
    _at_most(len(model.metadata_props), limits.ADMISSION_ENTRIES, "entries", "metadata_props")
    keys = [prop.key for prop in model.metadata_props]
    if len(set(keys)) != len(keys):
        raise rejected(Reason.NAME_DUPLICATE, "a metadata key is there twice", where="metadata_props")
    for prop in model.metadata_props:
        limit = limits.ADMISSION_ARCHITECTURE_BYTES if prop.key in long else limits.ADMISSION_METADATA_BYTES
        if len(prop.key) > limits.ADMISSION_NAME_CHARS or len(prop.value.encode()) > limit:
            message = f"{len(prop.value)} characters of metadata; the limit is {limit}"
            raise rejected(Reason.METADATA_TOO_LARGE, message, where=prop.key)
    graph = model.graph
    values = (*graph.input, *graph.output, *graph.value_info)
    parts: list[_Described] = [graph, *graph.node, *graph.initializer, *values]
    for part in parts:
        text, props = part.doc_string, part.metadata_props
        if not text and not props:
            continue
        size = len(text) + _check_props(props, part.name)
        if size > limits.ADMISSION_METADATA_BYTES:
            message = f"{size} characters of documentation; the limit is {limits.ADMISSION_METADATA_BYTES}"
            raise rejected(Reason.METADATA_TOO_LARGE, message, where=part.name)
    for value in values:
        _check_type_size(value)
    named = len(model.producer_name) + len(model.producer_version) + len(model.domain)
    if len(model.doc_string) + named > limits.ADMISSION_METADATA_BYTES:
        raise rejected(Reason.METADATA_TOO_LARGE, "a long documentation text", where="doc_string")


def _check_props(props: Sequence[onnx.StringStringEntryProto], where: str) -> int:
    """Return how many characters there are in the entries.

    Refuses many of them, one key twice, and an init rule without a word: readers would differ about what it says.
    """
    _at_most(len(props), limits.ADMISSION_ENTRIES, "entries of metadata", where)
    entries: dict[str, str] = {}
    size = 0
    for prop in props:
        key, value = prop.key, prop.value
        entries[key] = value
        size += len(key) + len(value)
    if len(entries) != len(props):
        raise rejected(Reason.NAME_DUPLICATE, "a metadata key is there twice", where=where)
    if entries.get(INIT_KEY) == "":
        raise rejected(Reason.INIT_RULE_INVALID, "an empty init rule", where=where)
    return size


def _check_type_size(value: onnx.ValueInfoProto) -> None:
    kind = value.type
    dims = kind.tensor_type.shape.dim
    _at_most(len(dims), limits.ADMISSION_RANK, "dimensions", value.name)
    most = limits.ADMISSION_NAME_CHARS
    if len(kind.denotation) > most or any(len(dim.dim_param) > most or len(dim.denotation) > most for dim in dims):
        message = f"a dimension's name is longer than {most}"
        raise rejected(Reason.NAME_INVALID, message, where=value.name)


def _at_most(count: int, limit: int, what: str, where: str) -> None:
    if count > limit:
        raise rejected(Reason.TOO_MANY, f"{count} {what}; the limit is {limit}", where=where)


def _check_names(names: list[str]) -> None:
    """Check many names at the price of a few: nearly always all of them are sound."""
    together = "".join(names)
    is_plain = together.isascii() and together.isprintable() and " " not in together
    if not is_plain or max(map(len, names), default=1) > limits.ADMISSION_NAME_CHARS or not all(names):
        for name in names:
            _check_name(name, may_be_empty=False)


def _check_name(name: str, *, may_be_empty: bool) -> None:
    if not name and may_be_empty:
        return
    if len(name) > limits.ADMISSION_NAME_CHARS or not _NAME.fullmatch(name):
        message = f"the name {name[:40]!r} is empty, longer than {limits.ADMISSION_NAME_CHARS}, or not printable ASCII"
        raise rejected(Reason.NAME_INVALID, message, where=name[:64].encode("ascii", "replace").decode())
