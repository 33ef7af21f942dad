"""The restructuring rule of NAC, without statistics' origin, state or messages (Kamath et al. 2018, algorithm 1).

Everything is addressed by stable id: a branch by its block id, a skip by (cell id, source entry id).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from nasmesh.spaces.envelope import cell_id
from nasmesh.spaces.envelope_network import Cell, EnvelopeNetwork, branch_block, dense_sources
from nasmesh.v1 import space_pb2 as space_pb


@dataclass(frozen=True, slots=True)
class Rules:
    """How much is pruned, and from which end. `prune_fraction` is of a stage's branches, rounded down."""

    max_filter_prune: int
    prune_fraction: Fraction
    descending: bool
    skip_ranking: str


@dataclass(frozen=True, slots=True)
class Restructuring:
    """A restructured network and what was done: block ids pruned, cell ids added, (cell, source) skips dropped."""

    network: EnvelopeNetwork
    pruned: tuple[str, ...]
    added: tuple[str, ...]
    skips_dropped: tuple[tuple[str, str], ...]


def growing_stages(space: space_pb.EnvelopeSpace, network: EnvelopeNetwork) -> list[int]:
    """Return the indices from 0 of the stages that may be restructured: not frozen, and not beyond their length."""
    return [
        index
        for index, (rule, cells) in enumerate(zip(space.stages, network.stages, strict=True))
        if rule.construct and len(cells) <= rule.max_cells
    ]


def rank_branches(cells: Sequence[Cell], statistics: Mapping[str, float], *, descending: bool) -> list[str]:
    """Return the stage's branch block ids, first to prune first; equal statistics keep network order."""
    branches = [branch_block(cell.id, branch) for cell in cells for branch in cell.branches]
    return sorted(branches, key=lambda branch: -statistics[branch] if descending else statistics[branch])


def select_pruned(cells: Sequence[Cell], ranking: Sequence[str], rules: Rules) -> list[str]:
    """Return the branch block ids to prune: at least one where possible, and no cell's last branch."""
    owner = {branch_block(cell.id, branch): cell.id for cell in cells for branch in cell.branches}
    live = {cell.id: len(cell.branches) for cell in cells}
    budget = max(1, min(rules.max_filter_prune, int(len(owner) * rules.prune_fraction)))
    pruned: list[str] = []
    for branch in ranking:
        if len(pruned) == budget:
            break
        if live[owner[branch]] > 1:
            live[owner[branch]] -= 1
            pruned.append(branch)
    return pruned


def skips_kept(number: int) -> int:
    """Return how many of an old cell's skips survive an iteration."""
    return number - number // 2


def restructure(
    space: space_pb.EnvelopeSpace,
    network: EnvelopeNetwork,
    statistics: Mapping[str, float],
    scalars: Mapping[tuple[str, str], float],
    rules: Rules,
) -> Restructuring:
    """Return the next network: growing stages lose their weakest branches and gain one full cell at their end.

    `statistics` by branch block id must cover the growing stages; `scalars` by (cell, source) must cover cells with
    several skips. A stage without a prunable branch stays as it is. `space` must be complete.
    """
    stages = [list(stage) for stage in network.stages]
    pruned: list[str] = []
    added: list[str] = []
    for index in growing_stages(space, network):
        ranking = rank_branches(stages[index], statistics, descending=rules.descending)
        weakest = select_pruned(stages[index], ranking, rules)
        if not weakest:
            continue
        new = cell_id(index + 1, len(stages[index]) + 1)
        stages[index] = [_without(cell, weakest) for cell in stages[index]]
        stages[index].append(Cell(new, tuple(space.palette)))
        pruned += weakest
        added.append(new)
    grown = EnvelopeNetwork(tuple(tuple(stage) for stage in stages))
    if not space.skips:
        return Restructuring(grown, tuple(pruned), tuple(added), ())
    rewired = _rewire(grown, added, scalars, rules.skip_ranking)
    before = {(cell.id, source) for cell in network.cells() for source in cell.skips}
    after = {(cell.id, source) for cell in rewired.cells() for source in cell.skips}
    return Restructuring(rewired, tuple(pruned), tuple(added), tuple(sorted(before - after)))


def _without(cell: Cell, pruned: Sequence[str]) -> Cell:
    live = tuple(branch for branch in cell.branches if branch_block(cell.id, branch) not in pruned)
    return Cell(cell.id, live, cell.skips)


def _rewire(
    network: EnvelopeNetwork, added: Sequence[str], scalars: Mapping[tuple[str, str], float], ranking: str
) -> EnvelopeNetwork:
    """Give new cells dense skips, halve the others' and link those to the new cells before them; all stages."""
    if not added:
        return network
    entries = network.entries()
    place = {entry: index for index, entry in enumerate(entries)}

    def rewired(cell: Cell) -> Cell:
        if cell.id in added:
            return Cell(cell.id, cell.branches, dense_sources(entries, cell.id))
        if not cell.skips:
            return cell
        best = sorted(cell.skips, key=lambda source: -_strength(cell, source, scalars, ranking))
        kept = best[: skips_kept(len(cell.skips))]
        gained = [new for new in added if place[new] < place[cell.id]]
        return Cell(cell.id, cell.branches, tuple(sorted([*kept, *gained], key=lambda source: place[source])))

    return EnvelopeNetwork(tuple(tuple(rewired(cell) for cell in stage) for stage in network.stages))


def _strength(cell: Cell, source: str, scalars: Mapping[tuple[str, str], float], ranking: str) -> float:
    """Return what skips are ranked by. "l2" is the squared L2 norm of the scalar, so it ranks as "absolute" does."""
    if len(cell.skips) == 1:
        # The only one is kept whatever it weighs.
        return 0.0
    value = scalars[cell.id, source]
    return {"signed": value, "absolute": abs(value), "l2": value * value}[ranking]
