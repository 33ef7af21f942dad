"""Draws networks of the envelope space so that every valid network is equally likely.

Drawing choice by choice would not do: a small number of cells leaves far fewer networks than a large one. So the
numbers of cells are drawn in proportion to how many networks each leaves, counted exactly with big integers.
"""

from functools import cache
from random import Random

from nasmesh.spaces.envelope import cell_id, most_cells
from nasmesh.spaces.envelope_network import Cell, EnvelopeNetwork, encode, entry_ids
from nasmesh.v1 import space_pb2 as pb


def sample(space: pb.EnvelopeSpace, rng: Random) -> pb.ChoiceValues:
    """Draw one network of a complete, checked space."""
    counts = _draw_counts(space, rng)
    entries = entry_ids(counts)
    stages: list[tuple[Cell, ...]] = []
    for s, (stage, count) in enumerate(zip(space.stages, counts, strict=True), start=1):
        ids = [cell_id(s, k) for k in range(1, count + 1)]
        frozen = not stage.construct
        stages.append(tuple(_draw_cell(space, i, entries, rng, frozen=frozen) for i in ids))
    return encode(space, EnvelopeNetwork(tuple(stages)))


def count_networks(space: pb.EnvelopeSpace) -> int:
    """Return how many valid networks a complete, checked space has."""
    return sum(_weights(space, 0, 1).values())


def _weights(space: pb.EnvelopeSpace, stage: int, before: int) -> dict[int, int]:
    """Return, for each number of cells of `stage` (from 0), how many networks it leaves from there on.

    `before` counts the entries before the stage, the stem included.
    """

    @cache
    def left(index: int, entries: int) -> int:
        if index == len(space.stages):
            return 1
        total = 0
        for cells in range(space.stages[index].initial_cells, most_cells(space.stages[index]) + 1):
            total += own(index, entries, cells) * left(index + 1, entries + cells + 1)
        return total

    def own(index: int, entries: int, cells: int) -> int:
        subsets = (1 << len(space.palette)) - 1 if space.stages[index].construct else 1
        # The cell behind n entries may skip from all of them but the direct predecessor.
        skips = sum(entries + k - 1 for k in range(cells)) if space.skips else 0
        return int(subsets**cells << skips)

    ways = range(space.stages[stage].initial_cells, most_cells(space.stages[stage]) + 1)
    return {cells: own(stage, before, cells) * left(stage + 1, before + cells + 1) for cells in ways}


def _draw_counts(space: pb.EnvelopeSpace, rng: Random) -> list[int]:
    counts: list[int] = []
    before = 1
    for stage in range(len(space.stages)):
        weights = _weights(space, stage, before)
        point = rng.randrange(sum(weights.values()))
        for cells, weight in weights.items():
            point -= weight
            if point < 0:
                counts.append(cells)
                break
        before += counts[-1] + 1
    return counts


def _draw_cell(space: pb.EnvelopeSpace, identifier: str, entries: list[str], rng: Random, *, frozen: bool) -> Cell:
    palette = tuple(space.palette)
    everything = (1 << len(palette)) - 1
    live = everything if frozen else rng.randrange(1, everything + 1)
    branches = tuple(branch for bit, branch in enumerate(palette) if live >> bit & 1)
    sources = entries[: max(entries.index(identifier) - 1, 0)] if space.skips else []
    skips = tuple(source for source in sources if rng.randrange(2))
    return Cell(identifier, branches, skips)
