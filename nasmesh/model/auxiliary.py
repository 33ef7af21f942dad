"""Networks without their auxiliary classifiers: the form that is served."""

import base64

import onnx

from nasmesh.model.fields import copy_fields
from nasmesh.model.initializers import data_inputs
from nasmesh.model.metadata import ARCHITECTURE_KEY, AUXILIARY_KEY
from nasmesh.v1 import architecture_pb2 as pb


def without_auxiliary(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the network without its auxiliary outputs and all that only they need; itself where it has none.

    The architecture that rides along loses the same blocks.
    """
    if len(model.graph.output) == 1:
        return model
    result = onnx.ModelProto()
    copy_fields(model, result, {"graph", "metadata_props"})
    for prop in model.metadata_props:
        if prop.key == ARCHITECTURE_KEY:
            result.metadata_props.add(key=prop.key, value=_pruned(prop.value))
        elif prop.key != AUXILIARY_KEY:
            result.metadata_props.append(prop)
    source, graph = model.graph, result.graph
    copy_fields(source, graph, {"node", "output", "input", "initializer", "value_info"})
    graph.output.append(source.output[0])
    needed = {source.output[0].name, *data_inputs(model)}
    kept = []
    for node in reversed(source.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    graph.node.extend(reversed(kept))
    graph.input.extend(value for value in source.input if value.name in needed)
    graph.initializer.extend(tensor for tensor in source.initializer if tensor.name in needed)
    graph.value_info.extend(value for value in source.value_info if value.name in needed)
    return result


def served(architecture: pb.Architecture) -> pb.Architecture:
    """Return the architecture without blocks that only auxiliary outputs need, and without groups of nothing else."""
    result = pb.Architecture()
    result.CopyFrom(architecture)
    del result.auxiliary_outputs[:]
    needed = {architecture.output}
    kept, gone = [], set()
    for block in reversed(architecture.blocks):
        if block.id in needed:
            needed.update(edge.source for edge in block.inputs)
            kept.append(block)
        else:
            gone.add(block.group)
    del result.blocks[:]
    result.blocks.extend(reversed(kept))
    gone -= {block.group for block in kept} | {group.parent for group in architecture.groups}
    groups = [group for group in architecture.groups if group.id not in gone]
    del result.groups[:]
    result.groups.extend(groups)
    return result


def _pruned(text: str) -> str:
    architecture = served(pb.Architecture.FromString(base64.b64decode(text, validate=True)))
    return base64.b64encode(architecture.SerializeToString(deterministic=True)).decode("ascii")
