"""One network of the envelope space as a value: which branches and skips each cell has, by stable id."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from nasmesh.errors import FieldViolation, Invalid
from nasmesh.spaces.domains import resolve
from nasmesh.spaces.envelope import STEM, cell_id, cells_choice, choices, widener_id
from nasmesh.v1 import space_pb2 as pb


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell: its id, its live branches in palette order, its skip sources (entry ids) in network order."""

    id: str
    branches: tuple[str, ...]
    skips: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EnvelopeNetwork:
    """The cells of each stage, first to last."""

    stages: tuple[tuple[Cell, ...], ...]

    def cells(self) -> Iterator[Cell]:
        """Yield all cells in network order."""
        for stage in self.stages:
            yield from stage

    def entries(self) -> list[str]:
        """Return the ids of stem, cells and wideners in network order."""
        return entry_ids([len(stage) for stage in self.stages])


def entry_ids(cells_per_stage: list[int]) -> list[str]:
    """Return the ids of stem, cells and wideners in network order for stages of these lengths."""
    found = [STEM]
    for s, cells in enumerate(cells_per_stage, start=1):
        found += [cell_id(s, k) for k in range(1, cells + 1)]
        if s < len(cells_per_stage):
            found.append(widener_id(s))
    return found


def branch_block(cell: str, branch: str) -> str:
    """Return the id of a branch's block."""
    return f"{cell}_b{branch}"


def skip_block(cell: str) -> str:
    """Return the id of the block that joins a cell's direct input with its skips."""
    return f"{cell}_skip"


def output_block(entry: str, space: pb.EnvelopeSpace) -> str:
    """Return the id of the block whose output is the entry's output; `space` must be complete."""
    if entry == STEM:
        return "stem_norm" if space.stem.local_response_norm else "stem_conv"
    return f"{entry}_cat" if entry.startswith("s") else entry


def dense_sources(entries: list[str], cell: str) -> tuple[str, ...]:
    """Return every entry before `cell` but the stem and the direct predecessor."""
    return tuple(entries[1 : max(entries.index(cell) - 1, 1)])


def initial_network(space: pb.EnvelopeSpace) -> EnvelopeNetwork:
    """Return NAC's start: every stage's initial cells, full, with dense skips where the space has skips."""
    entries = entry_ids([stage.initial_cells for stage in space.stages])
    palette = tuple(space.palette)
    stages: list[tuple[Cell, ...]] = []
    for s, stage in enumerate(space.stages, start=1):
        ids = [cell_id(s, k) for k in range(1, stage.initial_cells + 1)]
        stages.append(tuple(Cell(i, palette, dense_sources(entries, i) if space.skips else ()) for i in ids))
    return EnvelopeNetwork(tuple(stages))


def encode(space: pb.EnvelopeSpace, network: EnvelopeNetwork) -> pb.ChoiceValues:
    """Return the network as values of the choices of a complete space."""
    entries = network.entries()
    values: dict[str, str] = {}
    for s, stage in enumerate(network.stages, start=1):
        values[cells_choice(s)] = str(len(stage))
        for cell in stage:
            for branch in space.palette:
                values[f"{cell.id}.{branch}"] = "on" if branch in cell.branches else "off"
            if space.skips:
                for source in entries[: max(entries.index(cell.id) - 1, 0)]:
                    values[f"{cell.id}.skip.{source}"] = "on" if source in cell.skips else "off"
    return pb.ChoiceValues(values=values)


def decode(space: pb.EnvelopeSpace, values: pb.ChoiceValues) -> EnvelopeNetwork:
    """Return the network that the values stand for; raises Invalid naming the choice, as spaces.build says."""
    resolved = resolve(choices(space), values)
    counts = [int(resolved[cells_choice(s)]) for s in range(1, len(space.stages) + 1)]
    entries = entry_ids(counts)
    stages = [
        tuple(_decode_cell(space, cell_id(s, k), entries, resolved) for k in range(1, count + 1))
        for s, count in enumerate(counts, start=1)
    ]
    return EnvelopeNetwork(tuple(stages))


def _decode_cell(space: pb.EnvelopeSpace, cell: str, entries: list[str], values: Mapping[str, str]) -> Cell:
    branches = tuple(branch for branch in space.palette if values[f"{cell}.{branch}"] == "on")
    if not branches:
        field = f"choices.{cell}.{space.palette[0]}"
        message = f"cell {cell} has no branch; set at least one of {cell}.{{{','.join(space.palette)}}} to on"
        raise Invalid("CELL_EMPTY", message, field=field, violations=[FieldViolation(field, message)])
    skips = tuple(source for source in entries if values.get(f"{cell}.skip.{source}") == "on")
    return Cell(cell, branches, skips)
