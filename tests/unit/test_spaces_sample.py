"""Random draws: valid, reproducible, and uniform over networks, compared with exhaustive enumeration."""

import itertools
from collections import Counter
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from nasmesh import spaces
from nasmesh.errors import Invalid
from nasmesh.model.architecture import shapes
from nasmesh.spaces import chain as chain_space
from nasmesh.spaces import envelope_sample
from nasmesh.v1 import architecture_pb2 as arch
from nasmesh.v1 import space_pb2 as pb
from tests.builders.generating import DIGITS, build, chain, envelope


def enumerate_networks(space: pb.Space) -> set[tuple[tuple[str, str], ...]]:
    """Try every combination of values of every subset of choices; keep what builds."""
    choices = spaces.choices(space, input_dims=DIGITS, classes=10)
    domains: list[list[str | None]] = []
    for choice in choices:
        values = list(choice.categorical.values) or [str(n) for n in range(choice.integer.min, choice.integer.max + 1)]
        domains.append([*values, None] if choice.conditions else [*values])
    found = set()
    for combination in itertools.product(*domains):
        chosen = {c.name: v for c, v in zip(choices, combination, strict=True) if v is not None}
        try:
            build(space, pb.ChoiceValues(values=chosen))
        except Invalid:
            continue
        found.add(tuple(sorted(chosen.items())))
    return found


def check_uniform(space: pb.Space, draws: int) -> None:
    networks = enumerate_networks(space)
    rng = Random(1)
    seen = Counter(tuple(sorted(spaces.sample(space, rng).values.items())) for _ in range(draws))
    assert set(seen) == networks
    expected = draws / len(networks)
    # Chi-squared with n - 1 degrees of freedom has mean n - 1 and variance 2 (n - 1); five deviations.
    statistic = sum((count - expected) ** 2 / expected for count in seen.values())
    freedom = len(networks) - 1
    assert statistic < freedom + 5 * (2 * freedom) ** 0.5


def test_envelope_draws_are_uniform_over_all_networks() -> None:
    space = envelope((1, 1, True), (1, 1, False), palette=["1x1", "3x3"], width=8)
    full = spaces.complete(space).envelope
    assert envelope_sample.count_networks(full) == len(enumerate_networks(space))
    check_uniform(space, 6000)


def test_chain_draws_are_uniform_over_all_networks() -> None:
    space = chain(max_layers=2, kernels=[1, 3], channels=[4])
    assert chain_space.count_networks(space.chain) == len(enumerate_networks(space)) == 4 + 16
    check_uniform(space, 4000)


stages = st.lists(
    st.tuples(st.integers(1, 3), st.integers(0, 2), st.booleans()).map(lambda t: (t[0], t[0] + t[1], t[2])),
    min_size=1,
    max_size=4,
)


@settings(max_examples=60, deadline=None)
@given(
    stages=stages,
    palette=st.sets(st.sampled_from(["1x1", "3x3", "3x3sep", "5x5", "5x5sep", "7x7", "7x7sep"]), min_size=1),
    skips=st.booleans(),
    limit=st.booleans(),
    seed=st.integers(0, 2**63 - 1),
    side=st.integers(1, 33),
)
def test_every_envelope_draw_builds(
    stages: list[tuple[int, int, bool]], palette: set[str], skips: bool, limit: bool, seed: int, side: int
) -> None:
    space = envelope(*stages, palette=sorted(palette), skips=skips, limit_parameters=limit)
    values = spaces.sample(space, Random(seed))
    assert values == spaces.sample(space, Random(seed))
    architecture = build(space, values, (3, side, side + 1))
    assert shapes(architecture)[architecture.output] == (10,)
    # One branch at least in every cell; ids appear once.
    names = [block.id for block in architecture.blocks]
    assert len(names) == len(set(names))
    cells = [group.id for group in architecture.groups if group.kind == arch.GROUP_KIND_CELL]
    assert all(any(name.startswith(f"{cell}_b") for name in names) for cell in cells)


def test_fixed_has_nothing_to_draw() -> None:
    space = pb.Space()
    space.fixed.object.key = "networks/x"
    assert spaces.sample(space, Random(1)) == pb.ChoiceValues()
