"""Checks an architecture message and infers its shapes; pure, no onnx. Nothing is repaired, nothing is guessed."""

import math
from collections.abc import Sequence

from nasmesh.ids import BLOCK_ID
from nasmesh.model.geometry import Dims, halvings
from nasmesh.model.operations import MAX_DIM, check_enum, check_range, operation_dims
from nasmesh.model.reasons import Reason, rejected
from nasmesh.v1 import architecture_pb2 as pb

INPUT_ID = "x"
MAX_BLOCKS = 5_000
MAX_EDGES = 256  # of one block; 7-cell envelopes with dense skips need far fewer


def check(architecture: pb.Architecture) -> None:
    """Refuse an architecture that contradicts itself; raises Rejected whose field is the block id at fault."""
    shapes(architecture)


def shapes(architecture: pb.Architecture) -> dict[str, Dims]:
    """Return the output dims, without batch, of the input "x" and of every block, after the full check."""
    _check_input(architecture)
    _check_preprocessing(architecture)
    groups = _check_groups(architecture)
    if not architecture.blocks:
        raise rejected(Reason.ARCHITECTURE_EMPTY, "there are no blocks", where="blocks")
    if len(architecture.blocks) > MAX_BLOCKS:
        raise rejected(Reason.ARCHITECTURE_TOO_LARGE, f"more than {MAX_BLOCKS} blocks", where="blocks")
    ids = {block.id for block in architecture.blocks}
    known: dict[str, Dims] = {INPUT_ID: seen_dims(architecture.inputs[0].dims)}
    for block in architecture.blocks:
        _check_identity(block, known, groups)
        merged = merged_dims(block, known, later=ids)
        known[block.id] = operation_dims(block.operation, merged, where=block.id)
    _check_output(architecture, known)
    return known


def seen_dims(given: Sequence[int]) -> Dims:
    """Return the dims that blocks see of an input: a series [C, L] is an image of one row, [C, 1, L]."""
    dims = tuple(given)
    return (dims[0], 1, dims[1]) if len(dims) == 2 else dims


def merged_dims(block: pb.Block, known: dict[str, Dims], *, later: set[str] | None = None) -> Dims:
    """Return the dims of a block's merged input; `later` holds ids that exist but come after the block."""
    if not block.inputs:
        raise rejected(Reason.EDGE_MISSING, "the block has no inputs", where=block.id)
    check_range(len(block.inputs), 1, MAX_EDGES, "the number of inputs", block.id)
    arriving = [_edge_dims(block, edge, known, later or set()) for edge in block.inputs]
    sources = [edge.source for edge in block.inputs]
    if len(set(sources)) != len(sources):
        raise rejected(Reason.EDGE_DUPLICATE, "a source is named twice; put an identity block between", where=block.id)
    if len(arriving) == 1:
        if block.merge != pb.MERGE_UNSPECIFIED:
            raise rejected(Reason.MERGE_UNEXPECTED, "merge is set but there is one input", where=block.id)
        return arriving[0]
    if block.merge not in (pb.MERGE_CONCAT, pb.MERGE_SUM):
        raise rejected(Reason.MERGE_MISSING, "several inputs need merge CONCAT or SUM", where=block.id)
    return _merge(block, sources, arriving)


def _merge(block: pb.Block, sources: list[str], arriving: list[Dims]) -> Dims:
    first = arriving[0]
    skip = 1 if block.merge == pb.MERGE_CONCAT else 0
    for source, dims in zip(sources, arriving, strict=True):
        if len(dims) != len(first) or dims[skip:] != first[skip:]:
            rule = "concatenation needs equal sizes" if skip else "a sum needs equal shapes"
            message = f"{rule}: {sources[0]!r} is {first}, {source!r} is {dims}; add an adapter block or a resize rule"
            raise rejected(Reason.MERGE_MISMATCH, message, where=block.id)
    if not skip:
        return first
    channels = sum(dims[0] for dims in arriving)
    check_range(channels, 1, MAX_DIM, "the number of concatenated channels", block.id)
    return channels, *first[1:]


def _edge_dims(block: pb.Block, edge: pb.Edge, known: dict[str, Dims], later: set[str]) -> Dims:
    dims = known.get(edge.source)
    if dims is None:
        if edge.source in later:
            message = f"input {edge.source!r} is the block itself or comes after it; sort the blocks topologically"
            raise rejected(Reason.EDGE_ORDER, message, where=block.id)
        message = f"input {edge.source[:80]!r} is neither the data input nor a block"
        raise rejected(Reason.EDGE_SOURCE_UNKNOWN, message, where=block.id)
    if edge.HasField("scale"):
        check_range(edge.scale.init_mean, -1e6, 1e6, "scale.init_mean", block.id)
        check_range(edge.scale.init_std, 0.0, 1e6, "scale.init_std", block.id)
    if edge.resize == pb.RESIZE_UNSPECIFIED:
        return dims
    check_enum(edge.resize, pb.Resize.values(), "resize", block.id)
    target = known.get(block.inputs[0].source, ())
    if edge is block.inputs[0] or edge.source == block.inputs[0].source:
        message = "the first input sets the size and cannot be resized itself"
        raise rejected(Reason.EDGE_RESIZE_IMPOSSIBLE, message, where=block.id)
    if len(dims) != 3 or len(target) != 3:
        raise rejected(Reason.EDGE_RESIZE_IMPOSSIBLE, "only [N, C, H, W] can be resized", where=block.id)
    steps = halvings(dims, (target[1], target[2]), where=block.id)
    return steps[-1] if steps else dims


def _check_identity(block: pb.Block, known: dict[str, Dims], groups: set[str]) -> None:
    if not BLOCK_ID.fullmatch(block.id):
        message = f"block id {block.id[:80]!r} breaks {BLOCK_ID.pattern}"
        raise rejected(Reason.BLOCK_ID_INVALID, message, where=block.id[:64] or "blocks")
    if block.id in known:
        raise rejected(Reason.BLOCK_ID_DUPLICATE, "the id is taken by the input or another block", where=block.id)
    if block.group and block.group not in groups:
        raise rejected(Reason.GROUP_UNKNOWN, f"group {block.group[:80]!r} does not exist", where=block.id)


def _check_input(architecture: pb.Architecture) -> None:
    if len(architecture.inputs) != 1:
        raise rejected(Reason.INPUT_INVALID, f"there are {len(architecture.inputs)} inputs; give one", where="inputs")
    given = architecture.inputs[0]
    if given.id != INPUT_ID:
        raise rejected(Reason.INPUT_INVALID, f"the input is called {given.id[:80]!r}; call it 'x'", where="inputs")
    check_enum(given.data_type, pb.DataType.values(), "inputs[0].data_type", INPUT_ID)
    if not 1 <= len(given.dims) <= 3:
        raise rejected(Reason.INPUT_INVALID, "give 1 to 3 dims, without the batch", where=INPUT_ID)
    for size in given.dims:
        check_range(size, 1, MAX_DIM, "an input dimension", INPUT_ID)


def _check_preprocessing(architecture: pb.Architecture) -> None:
    rule = architecture.preprocessing
    channels = architecture.inputs[0].dims[0]
    for what, values in (("mean", rule.mean), ("std", rule.std)):
        if len(values) not in (0, channels):
            message = f"{what} has {len(values)} numbers for {channels} channels"
            raise rejected(Reason.PREPROCESSING_INVALID, message, where="preprocessing")
        if not all(math.isfinite(value) for value in values):
            raise rejected(Reason.PREPROCESSING_INVALID, f"{what} must be finite", where="preprocessing")
    if not all(value > 0 for value in rule.std):
        raise rejected(Reason.PREPROCESSING_INVALID, "std must be greater than 0", where="preprocessing")
    if rule.per_image and (rule.mean or rule.std):
        message = "per_image replaces mean and std; leave them empty"
        raise rejected(Reason.PREPROCESSING_INVALID, message, where="preprocessing")


def _check_groups(architecture: pb.Architecture) -> set[str]:
    parents: dict[str, str] = {}
    for group in architecture.groups:
        if not BLOCK_ID.fullmatch(group.id) or group.id in parents:
            message = f"group id {group.id[:80]!r} is taken or breaks {BLOCK_ID.pattern}"
            raise rejected(Reason.GROUP_INVALID, message, where=group.id[:64] or "groups")
        check_enum(group.kind, pb.GroupKind.values(), "group kind", group.id)
        parents[group.id] = group.parent
    for identifier, parent in parents.items():
        if parent and parent not in parents:
            raise rejected(Reason.GROUP_UNKNOWN, f"parent {parent[:80]!r} does not exist", where=identifier)
        seen = {identifier}
        while parent:
            if parent in seen:
                raise rejected(Reason.GROUP_INVALID, "the group contains itself", where=identifier)
            seen.add(parent)
            parent = parents.get(parent, "")
    return set(parents)


def _check_output(architecture: pb.Architecture, known: dict[str, Dims]) -> None:
    output = architecture.output
    if output not in known or output == INPUT_ID:
        raise rejected(Reason.OUTPUT_UNKNOWN, f"output {output[:80]!r} is not a block", where="output")
    if len(known[output]) != 1:
        message = f"the output is {known[output]}, not [N, classes]; end in a linear, global pool or flatten block"
        raise rejected(Reason.OUTPUT_NOT_LOGITS, message, where=output)
    extra = list(architecture.auxiliary_outputs)
    for name in extra:
        if name not in known or name in (INPUT_ID, output) or extra.count(name) > 1:
            message = f"auxiliary output {name[:80]!r} is not a block, the output itself, or named twice"
            raise rejected(Reason.OUTPUT_UNKNOWN, message, where="auxiliary_outputs")
        if known[name] != known[output]:
            message = f"the auxiliary output is {known[name]}, and the output {known[output]}; they must be equal"
            raise rejected(Reason.OUTPUT_NOT_LOGITS, message, where=name)
    needed = {output, *extra}
    for block in reversed(architecture.blocks):
        if block.id not in needed:
            raise rejected(Reason.BLOCK_UNUSED, "the output does not need this block; remove it", where=block.id)
        needed.update(edge.source for edge in block.inputs)
