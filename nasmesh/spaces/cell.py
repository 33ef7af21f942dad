"""The cell space of NAS-Bench-201 (Dong and Yang 2020): one cell, repeated, with an operation on each of its edges.

Stem (3x3 convolution, batch norm), stages of cells with a residual block between them that halves the resolution and
doubles the width, then batch norm, ReLU, global mean, linear. Convolutions on edges are ReLU, convolution, batch norm.
Where a size is odd the residual block rounds up, and its strided convolution pads at the bottom and right.
Drop-path marks and an auxiliary classifier, where they are asked for, are NASNet's (Zoph et al. 2018).
"""

from collections.abc import Mapping, Sequence
from random import Random

from nasmesh.errors import FieldViolation, Invalid
from nasmesh.spaces import blocks
from nasmesh.spaces.domains import categorical, resolve
from nasmesh.v1 import architecture_pb2 as arch
from nasmesh.v1 import space_pb2 as pb

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
"""In the order in which NAS-Bench-201 numbers them."""

MOST_NODES = 6
MOST_STAGES = 8
MOST_CELLS = 64
MOST_WIDTH = 4096
_CONV_KERNELS = {"nor_conv_1x1": 1, "nor_conv_3x3": 3}

Edge = tuple[int, int]


def complete(space: pb.CellSpace) -> pb.CellSpace:
    """Return a copy with the defaults of space.proto filled in."""
    full = pb.CellSpace()
    full.CopyFrom(space)
    full.nodes = full.nodes or 4
    full.width = full.width or 16
    if not full.operations:
        full.operations.extend(OPERATIONS)
    if not full.cells:
        full.cells.extend((5, 5, 5))
    return full


def check(space: pb.CellSpace) -> None:
    """Raise Invalid (SPACE_INVALID) with every field that is out of bounds."""
    full = complete(space)
    found: list[FieldViolation] = []
    if not 2 <= full.nodes <= MOST_NODES:
        found.append(_violation("nodes", f"{full.nodes}; use 2 to {MOST_NODES}"))
    if not 1 <= full.width << (len(full.cells) - 1) <= MOST_WIDTH:
        found.append(_violation("width", f"{full.width}; use 1 to {MOST_WIDTH} in the last stage, doubled at each"))
    if len(full.cells) > MOST_STAGES:
        found.append(_violation("cells", f"{len(full.cells)} stages; use 1 to {MOST_STAGES}"))
    elif not all(1 <= cells <= MOST_CELLS for cells in full.cells):
        found.append(_violation("cells", f"{list(full.cells)}; use 1 to {MOST_CELLS} cells in each stage"))
    elif full.auxiliary_head and sum(full.cells) < blocks.LEAST_CELLS:
        found.append(_violation("auxiliary_head", f"needs {blocks.LEAST_CELLS} cells; there is one"))
    for index, name in enumerate(full.operations):
        if name not in OPERATIONS:
            found.append(_violation(f"operations[{index}]", f"{name[:40]!r}; use {', '.join(OPERATIONS)}"))
        elif name in full.operations[:index]:
            found.append(_violation(f"operations[{index}]", f"{name} is listed twice"))
    if found:
        raise Invalid("SPACE_INVALID", found[0].description, field=found[0].field, violations=found)


def _violation(field: str, what: str) -> FieldViolation:
    path = f"space.cell.{field}"
    return FieldViolation(path, f"{path}: {what}")


def edges(nodes: int) -> list[Edge]:
    """Return the edges of a cell as (from, to), in NAS-Bench-201's order: by the node they lead to."""
    return [(source, target) for target in range(1, nodes) for source in range(target)]


def edge_choice(edge: Edge) -> str:
    """Return the name of an edge's choice."""
    return f"edge_{edge[0]}_{edge[1]}"


def choices(space: pb.CellSpace) -> list[pb.Choice]:
    """Return one choice an edge, for a complete space."""
    return [categorical(edge_choice(edge), space.operations) for edge in edges(space.nodes)]


def live_edges(cell: Mapping[Edge, str]) -> set[Edge]:
    """Return the edges on which the cell's output depends: not "none", and with a path to the last node."""
    last = max(target for _, target in cell)
    wanted, found = {last}, set()
    for target in range(last, 0, -1):
        for source in range(target) if target in wanted else ():
            if cell[source, target] != "none":
                found.add((source, target))
                wanted.add(source)
    return found


def sample(space: pb.CellSpace, rng: Random) -> pb.ChoiceValues:
    """Draw a value for every edge of a complete space; each is equally likely."""
    return pb.ChoiceValues(
        values={
            edge_choice(edge): space.operations[rng.randrange(len(space.operations))] for edge in edges(space.nodes)
        }
    )


def count_networks(space: pb.CellSpace) -> int:
    """Return how many values the choices of a complete space have together; some stand for equal networks."""
    return int(len(space.operations) ** len(edges(space.nodes)))


def build(space: pb.CellSpace, values: pb.ChoiceValues, input_dims: Sequence[int], classes: int) -> arch.Architecture:
    """Return the network of `values` in a complete, checked space; raises Invalid naming a wrong choice."""
    resolved = resolve(choices(space), values)
    cell = {edge: resolved[edge_choice(edge)] for edge in edges(space.nodes)}
    built = arch.Architecture(inputs=[blocks.image_input(input_dims)], drop_path=space.drop_path)
    built.groups.add(id="stem", kind=arch.GROUP_KIND_STEM)
    stem = arch.ConvUnit(conv=blocks.convolution(3, space.width), norm=_NORM, order=arch.CONV_ORDER_CONV_NORM_ACT)
    built.blocks.append(blocks.block("stem_conv", "stem", ["x"], arch.Operation(conv_unit=stem)))
    source, width = "stem_conv", space.width
    until_auxiliary = blocks.auxiliary_cell(sum(space.cells)) if space.auxiliary_head else 0
    for stage, cells in enumerate(space.cells, start=1):
        if stage > 1:
            width *= 2
            source = _add_reduction(built, f"r{stage - 1}", source, width)
        built.groups.add(id=f"stage_{stage}", kind=arch.GROUP_KIND_STAGE)
        for number in range(1, cells + 1):
            name = f"s{stage}_c{number}"
            built.groups.add(id=name, kind=arch.GROUP_KIND_CELL, parent=f"stage_{stage}")
            source = _add_cell(built, name, source, cell, width)
            until_auxiliary -= 1
            if until_auxiliary == 0:
                blocks.add_auxiliary(built, name, source, width, classes)
    built.groups.add(id="head", kind=arch.GROUP_KIND_HEAD)
    built.blocks.append(blocks.block("head_norm", "head", [source], arch.Operation(batch_norm=_NORM)))
    built.blocks.append(blocks.block("head_act", "head", ["head_norm"], arch.Operation(activation=_RELU)))
    built.blocks.extend(blocks.head_blocks("head_act", classes, 0.0))
    built.output = built.blocks[-1].id
    return built


_NORM = arch.BatchNorm(scale=True, offset=True, momentum=0.9, epsilon=1e-5)
_RELU = arch.Activation(kind=arch.ACTIVATION_KIND_RELU)


def _add_cell(built: arch.Architecture, name: str, source: str, cell: Mapping[Edge, str], width: int) -> str:
    """Append a cell behind block `source` and return the id of its output."""
    last = max(target for _, target in cell)
    live = live_edges(cell)
    outputs = {0: source}
    for target in range(1, last + 1):
        arriving: list[arch.Edge] = []
        for edge in [edge for edge in sorted(live) if edge[1] == target]:
            operation = _operation(cell[edge], width)
            if operation is None:
                arriving.append(arch.Edge(source=outputs[edge[0]]))
                continue
            made = blocks.block(f"{name}_e{edge[0]}_{edge[1]}", name, [outputs[edge[0]]], operation)
            built.blocks.append(made)
            arriving.append(arch.Edge(source=made.id, drop_path=built.drop_path))
        if arriving:
            if all(edge.drop_path for edge in arriving):  # a sample without any would be lost to all that follows
                arriving[0].drop_path = False
            outputs[target] = _add_sum(built, f"{name}_n{target}", name, arriving)
        elif target == last or any(edge[0] == target for edge in live):
            zero = blocks.block(f"{name}_n{target}", name, [source], arch.Operation(zero=arch.Zero()))
            built.blocks.append(zero)
            outputs[target] = zero.id
    return outputs[last]


def _add_sum(built: arch.Architecture, name: str, group: str, sources: Sequence[str | arch.Edge]) -> str:
    """Append the sum of some blocks; the same block twice is an operand twice."""
    made = blocks.block(name, group, sources, blocks.identity())
    made.merge = arch.MERGE_SUM if len(sources) > 1 else arch.MERGE_UNSPECIFIED
    built.blocks.append(made)
    return name


def _add_reduction(built: arch.Architecture, name: str, source: str, width: int) -> str:
    """Append the residual block between stages: two convolutions beside a pool and a 1x1 convolution."""
    built.groups.add(id=name, kind=arch.GROUP_KIND_WIDENER)
    pool = arch.Pool(kind=arch.POOL_KIND_AVERAGE, kernel=2, stride=2, padding=arch.PADDING_SAME)
    built.blocks.extend(
        (
            blocks.block(f"{name}_conv_a", name, [source], _act_conv_norm(3, width, stride=2)),
            blocks.block(f"{name}_conv_b", name, [f"{name}_conv_a"], _act_conv_norm(3, width)),
            blocks.block(f"{name}_pool", name, [source], arch.Operation(pool=pool)),
            blocks.block(f"{name}_widen", name, [f"{name}_pool"], arch.Operation(conv=blocks.convolution(1, width))),
        )
    )
    return _add_sum(built, f"{name}_sum", name, [f"{name}_conv_b", f"{name}_widen"])


def _operation(name: str, width: int) -> arch.Operation | None:
    """Return an edge's operation; None where it passes its input on."""
    if name == "skip_connect":
        return None
    if name == "avg_pool_3x3":
        pool = arch.Pool(kind=arch.POOL_KIND_AVERAGE, kernel=3, stride=1, padding=arch.PADDING_SAME)
        return arch.Operation(pool=pool)
    return _act_conv_norm(_CONV_KERNELS[name], width)


def _act_conv_norm(kernel: int, width: int, *, stride: int = 1) -> arch.Operation:
    conv = blocks.convolution(kernel, width, stride=stride)
    unit = arch.ConvUnit(conv=conv, norm=_NORM, activation=_RELU, order=arch.CONV_ORDER_ACT_CONV_NORM)
    return arch.Operation(conv_unit=unit)
