"""What can be refused in a space without building it; generate agents check the rest before they propose."""

from collections.abc import Iterator

from nasmesh.spaces.overlay import overlay
from nasmesh.v1 import generate_service_pb2, search_pb2, space_pb2

_LAYERS = 32
_NODES = 6
_CELLS = 64

Fault = tuple[str, str]


def space_faults(space: space_pb2.Space, generator: generate_service_pb2.Generator | None) -> Iterator[Fault]:
    """Yield (field, what is wrong) for an empty or contradictory space, or one the generator does not understand."""
    kind = space.WhichOneof("kind")
    if kind is None:
        yield "space", "it is empty: set envelope, chain, fixed or cell"
        return
    if generator is not None and generator.spaces and kind not in generator.spaces:
        yield "space", f"{generator.name} understands {', '.join(generator.spaces)}, not {kind}"
    if kind == "envelope":
        yield from _envelope_faults(space.envelope)
    elif kind == "chain":
        yield from _chain_faults(space.chain)
    elif kind == "cell":
        yield from _cell_faults(space.cell)
    elif space.fixed.WhichOneof("network") is None:
        yield "space.fixed", "it is empty: set architecture or object"


def drop_path_faults(spec: search_pb2.SearchSpec) -> Iterator[Fault]:
    """Yield where a rate of drop-path meets a space whose networks have no mark for it: each would be refused."""
    if spec.evaluate.table:
        return  # nothing is trained
    if spec.train.drop_path_rate > 0 and (what := _unmarked(spec.space, "space")):
        yield "train.drop_path_rate", what
    own, scale = spec.final.train.HasField("drop_path_rate"), spec.final.scale_up
    enlarged = scale.WhichOneof("kind") == "space"
    if not spec.HasField("final") or not (own or enlarged):
        return
    rate = spec.final.train.drop_path_rate if own else spec.train.drop_path_rate
    space, path = spec.space, "space"
    if enlarged:
        if scale.space.WhichOneof("kind") != space.WhichOneof("kind"):
            return  # refused for that
        # What the enlarged space leaves out is as in the search's: so are its marks.
        space, path = overlay(space, scale.space), "final.scale_up.space"
    if rate > 0 and (what := _unmarked(space, path)):
        yield "final.train.drop_path_rate", what


def _unmarked(space: space_pb2.Space, path: str) -> str:
    """Return why no network of a space has paths to leave out; empty where some may."""
    kind = space.WhichOneof("kind")
    if kind == "chain":
        return "a chain has no paths to leave out; leave it unset"
    if kind == "cell" and not space.cell.drop_path:
        return f"the space's networks have no paths marked for it; set {path}.cell.drop_path, or leave it unset"
    if kind == "envelope" and not space.envelope.drop_path:
        return f"the space's networks have no paths marked for it; set {path}.envelope.drop_path, or leave it unset"
    return ""


def _envelope_faults(envelope: space_pb2.EnvelopeSpace) -> Iterator[Fault]:
    if not envelope.stages:
        yield "space.envelope.stages", "it is empty: describe at least one stage"
    for index, stage in enumerate(envelope.stages):
        if stage.initial_cells < 1:
            yield f"space.envelope.stages[{index}].initial_cells", f"must be at least 1, not {stage.initial_cells}"
        if stage.max_cells < 0 or (stage.construct and stage.max_cells < stage.initial_cells):
            yield (
                f"space.envelope.stages[{index}].max_cells",
                f"must be at least initial_cells ({stage.initial_cells}) where construct is true",
            )
    if envelope.auxiliary_head and sum(stage.initial_cells for stage in envelope.stages) == 1:
        yield "space.envelope.auxiliary_head", "needs two initial cells or more, not one"
    for name in ("branch_dropout", "head_dropout"):
        if envelope.HasField(name) and not 0 <= getattr(envelope, name) < 1:
            yield f"space.envelope.{name}", "must be in [0, 1)"


def _chain_faults(chain: space_pb2.ChainSpace) -> Iterator[Fault]:
    if not 1 <= chain.min_layers <= chain.max_layers <= _LAYERS:
        yield "space.chain", f"needs 1 <= min_layers <= max_layers <= {_LAYERS}"
    for name in ("kernels", "channels"):
        values = list(getattr(chain, name))
        if not values:
            yield f"space.chain.{name}", "it is empty: give at least one value to choose from"
        elif min(values) < 1 or len(set(values)) != len(values):
            yield f"space.chain.{name}", "values must be at least 1, each once"


def _cell_faults(cell: space_pb2.CellSpace) -> Iterator[Fault]:
    if cell.nodes and not 2 <= cell.nodes <= _NODES:
        yield "space.cell.nodes", f"must be 2 to {_NODES}, not {cell.nodes}"
    if cell.width < 0:
        yield "space.cell.width", f"must be at least 1, not {cell.width}"
    if any(not 1 <= cells <= _CELLS for cells in cell.cells):
        yield "space.cell.cells", f"every stage needs 1 to {_CELLS} cells"
    if cell.auxiliary_head and sum(cell.cells) == 1:
        yield "space.cell.auxiliary_head", "needs two cells or more, not one"
    if len(set(cell.operations)) != len(cell.operations):
        yield "space.cell.operations", "each may be listed once"
