"""The cell space: choices, networks as NAS-Bench-201 counts them, and what is left out of them."""

from random import Random

import pytest
import torch

from generate_svc.profile import profile
from nasmesh import spaces
from nasmesh.errors import Invalid
from nasmesh.model.admission import admit_lowered
from nasmesh.model.engine.convert import to_module
from nasmesh.spaces import cell
from nasmesh.v1 import architecture_pb2 as arch
from nasmesh.v1 import space_pb2 as pb

SPACE = pb.Space(cell=pb.CellSpace())
SMALL = pb.Space(cell=pb.CellSpace(nodes=3, cells=[1, 1], width=4))


def _build(space: pb.Space, code: str, dims: tuple[int, ...] = (3, 32, 32), classes: int = 10) -> arch.Architecture:
    """Build by a key of NAS-Bench-201: a digit an edge."""
    choices = spaces.choices(space, input_dims=dims, classes=classes)
    values = {choice.name: cell.OPERATIONS[int(digit)] for choice, digit in zip(choices, code, strict=True)}
    return spaces.build(
        space,
        pb.ChoiceValues(values=values),
        input_dims=dims,
        classes=classes,
        preprocessing=arch.Preprocessing(),
    )


def test_choices_are_the_edges_in_the_benchmarks_order() -> None:
    found = spaces.choices(SPACE, input_dims=(3, 32, 32), classes=10)
    assert [choice.name.removeprefix("edge_") for choice in found] == ["0_1", "0_2", "1_2", "0_3", "1_3", "2_3"]
    assert cell.count_networks(spaces.complete(SPACE).cell) == 15_625


@pytest.mark.parametrize(
    ("code", "parameters"),
    # As published for CIFAR-10: its optimum and, drawn from the table, ones of other sizes.
    [("333132", 1_073_466), ("421211", 129_306), ("111111", 73_306), ("334131", 802_426), ("222222", 241_306)],
)
def test_networks_count_as_published(code: str, parameters: int) -> None:
    assert admit_lowered(_build(SPACE, code)).counts.parameters == parameters


def test_the_optimums_multiply_accumulates_count_as_published() -> None:
    assert admit_lowered(_build(SPACE, "333132")).counts.macs == 153_272_960


def test_edges_that_reach_no_output_are_left_out() -> None:
    # Node 1 gets a convolution, but nothing leads on from it: the network is that of a skip alone.
    assert (
        admit_lowered(_build(SMALL, "310", (1, 8, 8))).digest == admit_lowered(_build(SMALL, "010", (1, 8, 8))).digest
    )
    assert "s1_c1_e0_1" not in {block.id for block in _build(SMALL, "310", (1, 8, 8)).blocks}
    assert "s1_c1_e0_1" in {block.id for block in _build(SMALL, "311", (1, 8, 8)).blocks}


@pytest.mark.parametrize("dims", [(1, 8, 8), (3, 7, 5)])
def test_every_network_of_a_small_space_builds_runs_and_is_estimated_exactly(dims: tuple[int, int, int]) -> None:
    codes = [f"{a}{b}{c}" for a in range(5) for b in range(5) for c in range(5)]
    for code in codes[::4] if dims == (1, 8, 8) else codes[::17]:
        built = _build(SMALL, code, dims)
        admitted = admit_lowered(built)
        estimate = profile(built)
        counted = admitted.counts.parameters, admitted.counts.macs
        assert (estimate.parameters, estimate.macs) == counted, code
        if code[0] == code[1]:  # some of them through the engine, too
            logits = to_module(admitted.model, seed=1).eval()(torch.rand(2, *dims))
            assert logits.shape == (2, 10)
            assert torch.isfinite(logits).all()


def test_sample_draws_every_value_and_only_valid_ones() -> None:
    rng = Random(3)
    seen = {tuple(sorted(spaces.sample(SMALL, rng).values.items())) for _ in range(1500)}
    assert len(seen) == 125
    partial = pb.Space(cell=pb.CellSpace(nodes=2, operations=["skip_connect", "nor_conv_3x3"], cells=[2], width=8))
    assert {spaces.sample(partial, rng).values["edge_0_1"] for _ in range(50)} == {"skip_connect", "nor_conv_3x3"}


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"nodes": 1}, "nodes"),
        ({"nodes": 7}, "nodes"),
        ({"width": -1}, "width"),
        ({"width": 4096}, "width"),
        ({"cells": [1, 0]}, "cells"),
        ({"cells": [1] * 9}, "cells"),
        ({"operations": ["conv"]}, "operations[0]"),
        ({"operations": ["none", "none"]}, "operations[1]"),
    ],
)
def test_check_names_the_field_that_is_out_of_bounds(fields: dict[str, object], field: str) -> None:
    with pytest.raises(Invalid) as caught:
        spaces.check(pb.Space(cell=pb.CellSpace(**fields)))  # type: ignore[arg-type]
    assert caught.value.violations[0].field == f"space.cell.{field}"
