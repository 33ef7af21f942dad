"""The restructuring rule alone: golden vectors of NAC, and small cases worked out by hand."""

from fractions import Fraction

import pytest

from generate_svc.nac_rules import Rules, growing_stages, rank_branches, restructure, select_pruned, skips_kept
from nasmesh import spaces
from nasmesh.spaces.envelope_network import Cell, EnvelopeNetwork, branch_block, initial_network
from nasmesh.v1 import space_pb2 as pb
from tests.builders.generating import CONSTRUCTION, envelope, reading

RULES = Rules(max_filter_prune=6, prune_fraction=Fraction(1, 3), descending=False, skip_ranking="signed")


def random_statistics(network: EnvelopeNetwork, seed: int) -> dict[str, float]:
    blocks = [branch_block(cell.id, branch) for cell in network.cells() for branch in cell.branches]
    return {block: reading(seed, block, "mean_square") for block in blocks}


def random_scalars(network: EnvelopeNetwork, seed: int) -> dict[tuple[str, str], float]:
    return {
        (cell.id, source): reading(seed, cell.id, source) - 0.5 for cell in network.cells() for source in cell.skips
    }


def play(space: pb.Space, iterations: int, seed: int) -> list[EnvelopeNetwork]:
    full = spaces.complete(space).envelope
    networks = [initial_network(full)]
    for iteration in range(iterations):
        last = networks[-1]
        step = 1000 * seed + iteration
        networks.append(
            restructure(full, last, random_statistics(last, step), random_scalars(last, step), RULES).network
        )
    return networks


def growth(networks: list[EnvelopeNetwork], stage: int) -> list[tuple[int, int]]:
    return [(len(n.stages[stage]), sum(len(c.branches) for c in n.stages[stage])) for n in networks]


GROWING = [(2, 12), (3, 14), (4, 16), (5, 17), (6, 18), (7, 18)]
SMALL = [(1, 6), (2, 10), (3, 13), (4, 15)]
WIDE = ((10, 15, True), (1, 5, True), (1, 3, True), (1, 3, True))


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(
    ("stages", "stage", "golden"),
    [
        (CONSTRUCTION, 0, GROWING),
        (CONSTRUCTION, 1, GROWING),
        (CONSTRUCTION, 2, [(2, 12)] * 6),
        (WIDE, 0, [(10, 60), (11, 60), (12, 60), (13, 60), (14, 60), (15, 60)]),
        (WIDE, 1, [*SMALL, (5, 16), (6, 17)]),
        (WIDE, 2, [*SMALL, (4, 15), (4, 15)]),
        (WIDE, 3, [*SMALL, (4, 15), (4, 15)]),
    ],
)
def test_cells_and_branches_follow_the_golden_vectors(
    stages: tuple[tuple[int, int, bool], ...], stage: int, golden: list[tuple[int, int]], seed: int
) -> None:
    assert growth(play(envelope(*stages), 5, seed), stage) == golden


@pytest.mark.parametrize(("number", "kept"), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (6, 3), (13, 7)])
def test_skips_kept(number: int, kept: int) -> None:
    assert skips_kept(number) == kept


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_default_search_ends_with_the_55_skips_of_the_published_network(seed: int) -> None:
    final = play(envelope(), 5, seed)[-1]
    per_cell = [[len(cell.skips) for cell in stage] for stage in final.stages]
    assert per_cell == [[0, 0, 1, 1, 1, 2, 5], [2, 3, 3, 3, 4, 7, 13], [5, 5]]
    assert sum(map(sum, per_cell)) == 55


def test_start_has_dense_skips_but_from_stem_and_predecessor() -> None:
    cells = {cell.id: cell.skips for cell in initial_network(spaces.complete(envelope()).envelope).cells()}
    assert cells == {
        "s1_c1": (),
        "s1_c2": (),
        "s2_c1": ("s1_c1", "s1_c2"),
        "s2_c2": ("s1_c1", "s1_c2", "w1"),
        "s3_c1": ("s1_c1", "s1_c2", "w1", "s2_c1", "s2_c2"),
        "s3_c2": ("s1_c1", "s1_c2", "w1", "s2_c1", "s2_c2", "w2"),
    }


TWO = (Cell("s1_c1", ("1x1", "3x3")), Cell("s1_c2", ("1x1", "3x3", "5x5")))
VALUES = {"s1_c1_b1x1": 1.0, "s1_c1_b3x3": 2.0, "s1_c2_b1x1": 3.0, "s1_c2_b3x3": 4.0, "s1_c2_b5x5": 5.0}


def rules(most: int, fraction: Fraction) -> Rules:
    return Rules(most, fraction, descending=False, skip_ranking="signed")


def test_ranking_is_ascending_and_descending_is_the_worst_case() -> None:
    assert rank_branches(TWO, VALUES, descending=False) == sorted(VALUES, key=VALUES.__getitem__)
    assert rank_branches(TWO, VALUES, descending=True) == sorted(VALUES, key=VALUES.__getitem__, reverse=True)


def test_equal_statistics_keep_network_order() -> None:
    same = dict.fromkeys(VALUES, 1.0)
    assert rank_branches(TWO, same, descending=True) == rank_branches(TWO, same, descending=False) == list(VALUES)


def test_walk_skips_a_cells_last_branch_and_goes_on() -> None:
    ranking = rank_branches(TWO, VALUES, descending=False)
    assert select_pruned(TWO, ranking, rules(6, Fraction(1))) == ["s1_c1_b1x1", "s1_c2_b1x1", "s1_c2_b3x3"]


@pytest.mark.parametrize(
    ("most", "fraction", "pruned"),
    [(6, Fraction(1, 3), 1), (6, Fraction(2, 5), 2), (1, Fraction(1), 1), (6, Fraction(1, 100), 1)],
)
def test_budget_is_the_smaller_bound_and_at_least_one(most: int, fraction: Fraction, pruned: int) -> None:
    ranking = rank_branches(TWO, VALUES, descending=False)
    assert len(select_pruned(TWO, ranking, rules(most, fraction))) == pruned


def test_nothing_prunable_leaves_the_network_as_it_is() -> None:
    space = spaces.complete(envelope((2, 5, True), (1, 1, False), palette=["3x3"])).envelope
    network = initial_network(space)
    done = restructure(space, network, random_statistics(network, 1), random_scalars(network, 1), RULES)
    assert (done.network, done.pruned, done.added) == (network, (), ())


def test_stage_may_end_one_cell_above_its_limit() -> None:
    space = spaces.complete(envelope((1, 2, True))).envelope
    networks = play(envelope((1, 2, True)), 3, 1)
    assert [len(network.stages[0]) for network in networks] == [1, 2, 3, 3]
    assert growing_stages(space, networks[-1]) == []


@pytest.mark.parametrize(
    ("ranking", "kept"), [("signed", {"s1_c1", "w1"}), ("absolute", {"s1_c1", "s1_c2"}), ("l2", {"s1_c1", "s1_c2"})]
)
def test_old_cell_keeps_its_strongest_skips_and_gains_the_new_cells_before_it(ranking: str, kept: set[str]) -> None:
    space = spaces.complete(envelope((2, 5, True), (2, 2, False))).envelope
    network = initial_network(space)
    scalars = dict(random_scalars(network, 1))
    scalars |= {("s2_c2", "s1_c1"): 0.9, ("s2_c2", "s1_c2"): -0.8, ("s2_c2", "w1"): 0.1}
    chosen = Rules(6, Fraction(1, 3), descending=False, skip_ranking=ranking)
    done = restructure(space, network, random_statistics(network, 1), scalars, chosen)
    after = {cell.id: cell.skips for cell in done.network.cells()}
    assert set(after["s2_c2"]) == {*kept, "s1_c3"}
    assert after["s1_c1"] == after["s1_c2"] == ()
    assert after["s1_c3"] == ("s1_c1",)


def test_new_cell_does_not_skip_into_cells_before_it() -> None:
    space = spaces.complete(envelope((3, 3, False), (1, 3, True))).envelope
    network = initial_network(space)
    done = restructure(space, network, random_statistics(network, 1), random_scalars(network, 1), RULES)
    before = {cell.id: cell.skips for cell in network.cells()}
    after = {cell.id: cell.skips for cell in done.network.cells()}
    assert after["s1_c3"] == before["s1_c3"] == ("s1_c1",)
    assert len(after["s2_c1"]) == skips_kept(len(before["s2_c1"]))
    assert after["s2_c2"] == ("s1_c1", "s1_c2", "s1_c3", "w1")
