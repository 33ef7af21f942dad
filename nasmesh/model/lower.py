"""Lowers an architecture to a weightless ONNX network: deterministic, one way only, refusing what does not fit."""

import base64
import json

import onnx
from onnx import helper

from nasmesh.model.architecture import INPUT_ID, merged_dims, shapes
from nasmesh.model.emit_operations import emit_operation
from nasmesh.model.emitter import Emitter
from nasmesh.model.geometry import Dims, halvings
from nasmesh.model.initializers import DATA_INPUT, InitRule
from nasmesh.model.metadata import ARCHITECTURE_KEY, AUXILIARY_KEY, DROP_PATH_KEY, PREPROCESSING_KEY, VERSION_KEY
from nasmesh.model.reasons import Reason, rejected
from nasmesh.v1 import architecture_pb2 as pb

OPSET = 21
IR_VERSION = 10
OUTPUT = "logits"
# Version of the form of the objects (names, metadata), not of the package: the bytes must not change with a release.
FORM_VERSION = "1"
# The architecture rides along as one metadata value; admission refuses longer ones.
MAX_ARCHITECTURE_CHARS = 1 << 20


def lower(architecture: pb.Architecture) -> onnx.ModelProto:
    """Return the weightless network of an architecture: data input "x" [N, ...], output "logits" [N, classes].

    Opset 21, IR 10. Parameters are typed graph inputs "{block}.{role}" with their init rule in metadata_props; a
    block's last value is "{block}.out". Equal architectures give equal bytes. Raises Rejected naming the block.
    """
    known = shapes(architecture)
    emit = Emitter()
    given = architecture.inputs[0].dims
    values = {INPUT_ID: emit.one_row(DATA_INPUT) if len(given) == 2 else DATA_INPUT}
    for block in architecture.blocks:
        arriving = [_emit_edge(emit, block, edge, values, known) for edge in block.inputs]
        source = _emit_merge(emit, block, arriving)
        values[block.id] = emit_operation(emit, block.operation, block.id, source, merged_dims(block, known))
    emit.node("Identity", [values[architecture.output]], OUTPUT)
    extra = [emit.node("Identity", [values[name]], f"{name}.logits") for name in architecture.auxiliary_outputs]
    sample = helper.make_tensor_value_info(DATA_INPUT, onnx.TensorProto.FLOAT, ["N", *given])
    classes = known[architecture.output]
    logits = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", *classes]) for name in (OUTPUT, *extra)]
    graph = helper.make_graph(emit.nodes, "network", [sample, *emit.inputs], logits, emit.constants)
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="nasmesh")
    marks = [
        path_name(block.id, edge.source) for block in architecture.blocks for edge in block.inputs if edge.drop_path
    ]
    for key, value in _metadata(architecture):
        model.metadata_props.add(key=key, value=value)
    for key, names, wanted in ((AUXILIARY_KEY, extra, False), (DROP_PATH_KEY, marks, architecture.drop_path)):
        if names or wanted:
            model.metadata_props.add(key=key, value=json.dumps(names, separators=(",", ":")))
    return model


def path_name(block: str, source: str) -> str:
    """Return the name of the value that a drop-path mark is on."""
    return f"{block}.path.{source}"


def preprocessing_text(rule: pb.Preprocessing) -> str:
    """Return the preprocessing as canonical JSON: {"layout", "mean", "per_image", "std"}."""
    content = {"layout": "NCHW", "mean": list(rule.mean), "std": list(rule.std), "per_image": rule.per_image}
    return json.dumps(content, sort_keys=True, separators=(",", ":"))


def _metadata(architecture: pb.Architecture) -> list[tuple[str, str]]:
    encoded = base64.b64encode(architecture.SerializeToString(deterministic=True)).decode("ascii")
    if len(encoded) > MAX_ARCHITECTURE_CHARS:
        message = f"the message takes {len(encoded)} characters in the object; the limit is {MAX_ARCHITECTURE_CHARS}"
        raise rejected(Reason.ARCHITECTURE_TOO_LARGE, message, where="architecture")
    return [
        (ARCHITECTURE_KEY, encoded),
        (PREPROCESSING_KEY, preprocessing_text(architecture.preprocessing)),
        (VERSION_KEY, FORM_VERSION),
    ]


def _emit_edge(emit: Emitter, block: pb.Block, edge: pb.Edge, values: dict[str, str], known: dict[str, Dims]) -> str:
    """Append what an edge does to its tensor: first the resize, then the trainable scale."""
    value = values[edge.source]
    name = f"{block.id}.from.{edge.source}"
    if edge.resize == pb.RESIZE_MAX_POOL_2X2:
        dims = known[edge.source]
        target = known[block.inputs[0].source]
        for number, halved in enumerate(halvings(dims, (target[1], target[2]), where=block.id)):
            value = emit.node(
                "MaxPool",
                [value],
                f"{name}.pool{number}",
                kernel_shape=[2, 2],
                strides=[2, 2],
                pads=[0, 0, dims[1] % 2, dims[2] % 2],
            )
            dims = halved
    if edge.HasField("scale"):
        rule = InitRule("normal", (edge.scale.init_mean, edge.scale.init_std))
        scale = emit.parameter(f"{block.id}.scale.{edge.source}", (), rule)
        value = emit.node("Mul", [value, scale], name)
    if edge.drop_path:
        # A dropout of nothing: engines pass it over, and whoever trains finds the branch's end of its own here.
        value = emit.dropout(pb.Dropout(rate=0), value, path_name(block.id, edge.source))
    return value


def _emit_merge(emit: Emitter, block: pb.Block, arriving: list[str]) -> str:
    if block.merge == pb.MERGE_CONCAT:
        return emit.node("Concat", arriving, f"{block.id}.merged", axis=1)
    if block.merge == pb.MERGE_SUM:
        return emit.node("Sum" if len(arriving) > 2 else "Add", arriving, f"{block.id}.merged")
    return arriving[0]
