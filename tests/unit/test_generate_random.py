"""The random generator: distinct, reproducible, within bounds, and matched to a reference."""

import pytest
from google.protobuf import json_format

from generate_svc import registry
from generate_svc.profile import palette_of, profile
from nasmesh import spaces
from nasmesh.errors import Invalid
from nasmesh.model.counting import count
from nasmesh.model.digest import structural_digest
from nasmesh.model.lower import lower
from nasmesh.spaces import chain as chain_space
from nasmesh.v1 import generate_service_pb2 as pb
from nasmesh.v1 import space_pb2
from tests.builders.generating import DIGITS, build, chain, envelope, request

SMALL = ((1, 2, True), (1, 2, True))


def propose(asked: pb.ProposeRequest) -> pb.ProposeResponse:
    first = registry.propose(asked)
    again = registry.propose(pb.ProposeRequest.FromString(asked.SerializeToString()))
    assert first.SerializeToString(deterministic=True) == again.SerializeToString(deterministic=True)
    return first


def small() -> space_pb2.Space:
    return envelope(*SMALL, width=16, palette=["1x1", "3x3", "3x3sep"])


def test_networks_are_distinct_over_calls_and_reproducible() -> None:
    space = small()
    state, digests = b"", []
    for call in (1, 2, 3):
        answer = propose(request("random", space, count=4, call=call, state=state))
        state = answer.state
        digests += [structural_digest(lower(build(space, p.choices))) for p in answer.proposals]
    assert len(digests) == len(set(digests)) == 12


def test_seed_and_call_decide() -> None:
    space = small()
    answers = [propose(request("random", space, seed=seed, call=call)) for seed, call in ((1, 1), (1, 2), (2, 1))]
    assert len({answer.proposals[0].choices.SerializeToString(deterministic=True) for answer in answers}) == 3


def test_small_space_is_proposed_whole_and_then_exhausted() -> None:
    space = chain(max_layers=1, kernels=[1, 3], channels=[4, 8], pooling=False)
    answer = propose(request("random", space, count=50))
    assert len(answer.proposals) == chain_space.count_networks(space.chain) == 4
    assert answer.done
    assert answer.note.startswith("EXHAUSTED")


def test_number_of_networks_is_kept_to() -> None:
    first = propose(request("random", small(), count=2, settings={"networks": 3}))
    assert not first.done
    second = propose(request("random", small(), count=2, call=2, state=first.state, settings={"networks": 3}))
    assert len(second.proposals) == 1
    assert second.done
    assert second.note.startswith("NETWORKS")


def test_asks_to_be_called_while_slots_are_free() -> None:
    answer = propose(request("random", small(), count=2, trials_in_flight=3))
    assert answer.next_call.in_flight_below == 5


def test_static_constraints_are_kept() -> None:
    space = small()
    asked = request("random", space, count=5)
    asked.constraints.add(metric="parameters", max=60_000, min=30_000)
    asked.constraints.add(metric="accuracy", min=0.99)
    answer = propose(asked)
    found = [count(lower(build(space, p.choices))).parameters for p in answer.proposals]
    assert len(found) == 5
    assert all(30_000 <= parameters <= 60_000 for parameters in found)


def test_constraint_that_nothing_meets_ends_the_search() -> None:
    asked = request("random", small(), settings={"draws": 5})
    asked.constraints.add(metric="macs", max=1)
    answer = propose(asked)
    assert answer.done
    assert not answer.proposals


def reference() -> tuple[space_pb2.Space, space_pb2.ChoiceValues]:
    space = envelope((2, 3, True), (2, 2, False), width=24)
    values = registry.propose(request("nac", space)).proposals[0].choices
    for off in ("s1_c1.5x5", "s1_c2.1x1", "s1_c2.7x7sep"):
        values.values[off] = "off"
    return space, values


@pytest.mark.parametrize("by", ["choices", "architecture"])
def test_matched_networks_cost_what_the_reference_costs_and_differ(by: str) -> None:
    space, values = reference()
    wanted = build(space, values)
    given: dict[str, object] = {"choices": dict(values.values)}
    if by == "architecture":
        given = {"architecture": json_format.MessageToDict(wanted)}
    ask = propose if by == "choices" else registry.propose
    answer = ask(request("random", space, count=2, settings={"reference": given, "tolerance": 0.05}))
    assert len(answer.proposals) == 2
    cost = count(lower(wanted))
    digests = {structural_digest(lower(wanted))}
    for proposal in answer.proposals:
        built = build(space, proposal.choices)
        lowered = lower(built)
        found = count(lowered)
        assert abs(found.parameters / cost.parameters - 1) <= 0.05
        assert abs(found.macs / cost.macs - 1) <= 0.05
        assert palette_of(built) == palette_of(wanted)
        digests.add(structural_digest(lowered))
    assert len(digests) == 3


def test_reference_out_of_reach_ends_the_search() -> None:
    space = chain(max_layers=1, kernels=[3], channels=[4], pooling=False)
    big = build(envelope(), registry.propose(request("nac", envelope())).proposals[0].choices)
    given = {"reference": {"architecture": json_format.MessageToDict(big)}, "draws": 1}
    answer = propose(request("random", space, settings=given))
    assert answer.done
    assert answer.note.startswith("EXHAUSTED")


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"choices": {"stage_1.cells": "1"}}, "settings.reference.choices"),
        ({"architecture": {"blokcs": []}}, "settings.reference.architecture"),
        ({"architecture": {}}, "settings.reference.architecture"),
        ({}, "settings.reference"),
        ({"onnx": {}}, "settings.reference"),
    ],
)
def test_wrong_reference_is_named(given: dict[str, object], field: str) -> None:
    with pytest.raises(Invalid) as caught:
        registry.propose(request("random", small(), settings={"reference": given}))
    assert caught.value.reason == "SETTINGS_INVALID"
    assert caught.value.field == field


def test_fixed_space_has_nothing_to_draw() -> None:
    space = space_pb2.Space()
    space.fixed.object.key = "networks/x"
    with pytest.raises(Invalid) as caught:
        registry.propose(request("random", space))
    assert caught.value.reason == "SPACE_UNSUPPORTED"


@pytest.mark.parametrize("state", [b"{}", b'{"seen":3,"v":1}', b'{"seen":[1],"v":1}', b'{"seen":"ab","v":1}'])
def test_unreadable_state_is_refused(state: bytes) -> None:
    with pytest.raises(Invalid) as caught:
        registry.propose(request("random", small(), state=state))
    assert caught.value.reason == "STATE_UNREADABLE"


@pytest.mark.parametrize("space", [small(), chain(), envelope(*SMALL, branch_norm_affine=True)])
def test_estimate_of_costs_equals_the_count_of_the_network(space: space_pb2.Space) -> None:
    for proposal in registry.propose(request("random", space, count=3)).proposals:
        built = build(space, proposal.choices)
        counted = count(lower(built))
        estimate = profile(built)
        assert (estimate.parameters, estimate.macs) == (counted.parameters, counted.macs)
    assert spaces.choices(space, input_dims=DIGITS, classes=10)
