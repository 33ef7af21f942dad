"""The nac generator through its two-call contract: whole searches, outcomes, untrusted results, state."""

import itertools
import json
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from generate_svc.nac import NacGenerator
from nasmesh import spaces
from nasmesh.errors import Invalid
from nasmesh.model.architecture import shapes
from nasmesh.spaces.envelope_network import EnvelopeNetwork, decode
from nasmesh.v1 import generate_service_pb2 as pb
from nasmesh.v1 import search_pb2, space_pb2, training_pb2
from tests.builders.generating import build, envelope, observe, request

TINY = ((1, 2, True), (1, 1, False))


def propose(given_request: pb.ProposeRequest) -> pb.ProposeResponse:
    """Ask twice, through bytes and with a generator of its own each time, as after a kill."""
    raw = given_request.SerializeToString()
    first = NacGenerator().propose(pb.ProposeRequest.FromString(raw))
    second = NacGenerator().propose(pb.ProposeRequest.FromString(raw))
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)
    return first


def play(
    space: space_pb2.Space, *, seed: int = 1, constant: bool = False, **config: object
) -> Iterator[pb.ProposeResponse]:
    """Yield the answers of a search in which every network is measured; `constant` measures the same each time."""
    answer = propose(request("nac", space, settings=config))
    yield answer
    call = 1
    while not answer.done:
        call += 1
        (proposal,) = answer.proposals
        result = observe(proposal, build(space, proposal.choices), seed if constant else 100 * seed + call, call - 1)
        answer = propose(request("nac", space, settings=config, call=call, state=answer.state, results=[result]))
        yield answer


def networks(space: space_pb2.Space, answers: list[pb.ProposeResponse]) -> list[EnvelopeNetwork]:
    full = spaces.complete(space).envelope
    return [decode(full, proposal.choices) for answer in answers for proposal in answer.proposals]


def test_default_search_is_five_restructurings_one_network_at_a_time() -> None:
    space = envelope()
    answers = list(play(space))
    assert [len(answer.proposals) for answer in answers] == [1, 1, 1, 1, 1, 1, 0]
    assert answers[-1].done
    assert answers[-1].note.startswith("ITERATIONS")
    assert not any(answer.done for answer in answers[:-1])
    sizes = [[len(stage) for stage in network.stages] for network in networks(space, answers)]
    assert sizes == [[2, 2, 2], [3, 3, 2], [4, 4, 2], [5, 5, 2], [6, 6, 2], [7, 7, 2]]
    proposals = [answer.proposals[0] for answer in answers[:-1]]
    assert [proposal.proposal_id for proposal in proposals] == [f"nac-{k}" for k in range(6)]
    assert [list(proposal.parents) for proposal in proposals] == [
        [],
        *([f"searches/s/trials/{k}"] for k in range(1, 6)),
    ]
    assert not any(proposal.inherit_from for proposal in proposals)
    assert proposals[1].note.startswith("pruned s")
    assert "added s1_c3, s2_c3" in proposals[1].note
    assert all(len(answer.state) < 16_000 for answer in answers)


def test_start_asks_for_the_statistics_of_every_branch_and_skip() -> None:
    proposal = next(play(envelope())).proposals[0]
    branches, scalars = proposal.instrumentation.probes
    assert branches.tap == training_pb2.TAP_ACTIVATION
    assert len(branches.elements) == 36
    assert set(branches.statistics) == {
        training_pb2.STATISTIC_MEAN,
        training_pb2.STATISTIC_VARIANCE,
        training_pb2.STATISTIC_MEAN_SQUARE,
    }
    assert (branches.every_steps, branches.from_step, branches.window_steps) == (1, 0, 0)
    assert scalars.tap == training_pb2.TAP_EDGE_SCALE
    assert list(scalars.elements) == ["s2_c1_skip", "s2_c2_skip", "s3_c1_skip", "s3_c2_skip"]


def test_observation_settings_reach_the_plan() -> None:
    config = {"tap": "output", "observe_every_steps": 5, "observe_from_step": 100, "observe_window_steps": 50}
    probe = next(play(envelope(*TINY), **config)).proposals[0].instrumentation.probes[0]
    assert (probe.tap, probe.every_steps, probe.from_step, probe.window_steps) == (training_pb2.TAP_OUTPUT, 5, 100, 50)


def test_weights_may_be_inherited_from_the_parent() -> None:
    answers = list(play(envelope(*TINY), weights="inherit", iterations=1))
    assert answers[0].proposals[0].inherit_from == ""
    assert answers[1].proposals[0].inherit_from == "searches/s/trials/1"


def first_pruned(**config: object) -> str:
    return list(play(envelope(*TINY), max_filter_prune=1, iterations=1, **config))[1].proposals[0].note.split()[1]


def test_worst_case_and_statistic_choose_other_branches() -> None:
    space = envelope(*TINY)
    start = next(play(space)).proposals[0]
    result = observe(start, build(space, start.choices), 102, 1)
    measured = {
        metric: {m.element: m.value for m in result.measurements if m.metric == metric and m.element.startswith("s1")}
        for metric in ("mean_square", "variance", "mean")
    }
    for metric, values in measured.items():
        assert first_pruned(statistic=metric).rstrip(";") == min(values, key=values.__getitem__)
    worst = measured["mean_square"]
    assert first_pruned(order="descending").rstrip(";") == max(worst, key=worst.__getitem__)


def test_zero_iterations_is_one_network() -> None:
    assert [len(answer.proposals) for answer in play(envelope(*TINY), iterations=0)] == [1, 0]


def test_search_ends_when_every_stage_is_at_its_length() -> None:
    answers = list(play(envelope(*TINY), iterations=50, stable_after=0))
    assert answers[-1].note.startswith("STAGES_FULL")
    assert len(answers) == 1 + 2 + 1


def test_search_ends_when_nothing_is_prunable() -> None:
    answers = list(play(envelope((2, 5, True), palette=["3x3"])))
    assert answers[-1].done
    assert answers[-1].note.startswith("NOTHING_PRUNABLE")


@pytest.mark.parametrize(("after", "networks_tried"), [(1, 2), (2, 3), (3, 4), (0, 7)])
def test_search_ends_when_the_ranking_is_stable(after: int, networks_tried: int) -> None:
    space = envelope((2, 20, True))
    answers = list(play(space, constant=True, iterations=6, stable_after=after))
    assert sum(len(answer.proposals) for answer in answers) == networks_tried
    assert answers[-1].note.startswith("RANKING_STABLE" if after else "ITERATIONS")


def started(**config: object) -> tuple[space_pb2.Space, pb.ProposeResponse]:
    space = envelope(*TINY)
    return space, propose(request("nac", space, settings=config))


def follow(
    answer: pb.ProposeResponse, results: list[pb.Result], in_flight: int = 0, **config: object
) -> pb.ProposeResponse:
    return propose(
        request(
            "nac",
            envelope(*TINY),
            settings=config,
            call=2,
            state=answer.state,
            results=results,
            trials_in_flight=in_flight,
        )
    )


def ended(answer: pb.ProposeResponse, outcome: "search_pb2.TrialOutcome.ValueType") -> pb.Result:
    result = pb.Result(trial="searches/s/trials/1", proposal_id=answer.proposals[0].proposal_id, outcome=outcome)
    result.failure.reason = "NETWORK_DIVERGED"
    return result


@pytest.mark.parametrize(
    "outcome",
    [search_pb2.TRIAL_OUTCOME_FAILED, search_pb2.TRIAL_OUTCOME_LOST, search_pb2.TRIAL_OUTCOME_STOPPED],
)
def test_network_without_statistics_is_tried_again_and_then_given_up(
    outcome: "search_pb2.TrialOutcome.ValueType",
) -> None:
    _, first = started()
    again = follow(first, [ended(first, outcome)])
    assert again.proposals[0].choices == first.proposals[0].choices
    assert again.proposals[0].proposal_id == "nac-0-retry-1"
    assert "NETWORK_DIVERGED" in again.proposals[0].note
    last = follow(again, [ended(again, outcome)])
    assert last.done
    assert last.note.startswith("FAILED")
    assert not last.proposals


def test_retried_network_goes_on_as_the_first_would_have() -> None:
    space, first = started()
    again = follow(first, [ended(first, search_pb2.TRIAL_OUTCOME_FAILED)])
    proposal = again.proposals[0]
    following = follow(again, [observe(proposal, build(space, proposal.choices), 1, 2)])
    assert following.proposals[0].proposal_id == "nac-1"
    assert list(following.proposals[0].parents) == ["searches/s/trials/2"]


def test_no_retries_when_none_are_wanted() -> None:
    _, first = started(retries=0)
    assert follow(first, [ended(first, search_pb2.TRIAL_OUTCOME_LOST)], retries=0).done


def test_infeasible_network_ends_the_search_with_the_bound() -> None:
    _, first = started()
    result = ended(first, search_pb2.TRIAL_OUTCOME_INFEASIBLE)
    result.violation.constraint.metric = "parameters"
    result.violation.value = 12345
    last = follow(first, [result])
    assert last.done
    assert last.note.startswith("INFEASIBLE")
    assert "parameters is 12345" in last.note


def test_waits_while_the_network_is_in_flight_and_for_results_of_others() -> None:
    _, first = started()
    stranger = pb.Result(trial="searches/s/trials/9", outcome=search_pb2.TRIAL_OUTCOME_SUCCEEDED)
    waiting = follow(first, [stranger], in_flight=1)
    assert not waiting.proposals
    assert not waiting.done
    assert waiting.state == first.state
    assert follow(first, [stranger], in_flight=0).proposals[0].proposal_id == "nac-0-retry-1"


def measured() -> tuple[pb.ProposeResponse, pb.Result]:
    space, first = started()
    return first, observe(first.proposals[0], build(space, first.proposals[0].choices), 1, 1)


def test_stopped_network_with_statistics_counts() -> None:
    first, result = measured()
    result.outcome = search_pb2.TRIAL_OUTCOME_STOPPED
    assert follow(first, [result]).proposals[0].proposal_id == "nac-1"


def test_order_of_measurements_and_strangers_among_them_do_not_matter() -> None:
    first, result = measured()
    expected = follow(first, [result])
    shuffled = pb.Result()
    shuffled.CopyFrom(result)
    del shuffled.measurements[:]
    shuffled.measurements.extend(reversed(result.measurements))
    shuffled.measurements.add(metric="mean_square", element="s9_c9_b1x1", value=-1, step=100)
    shuffled.measurements.add(metric="mean_square", element="s1_c1_b1x1", value=1e9, step=50)
    assert follow(first, [shuffled]) == expected


def test_last_reading_counts() -> None:
    first, result = measured()
    result.measurements.add(metric="mean_square", element="s1_c1_b5x5", value=0.0, step=200)
    assert "s1_c1_b5x5" in follow(first, [result], max_filter_prune=1).proposals[0].note


@pytest.mark.parametrize(
    ("element", "value", "reason"),
    [
        ("s1_c1_b5x5", None, "STATISTICS_MISSING"),
        ("s1_c1_b5x5", float("nan"), "STATISTICS_INVALID"),
        ("s1_c1_b5x5", float("inf"), "STATISTICS_INVALID"),
        ("s1_c1_b5x5", -1.0, "STATISTICS_INVALID"),
        ("s2_c1_skip.scale.s1_c1_cat", None, "STATISTICS_MISSING"),
        ("s2_c1_skip.scale.s1_c1_cat", float("nan"), "STATISTICS_INVALID"),
    ],
)
def test_untrusted_statistics_are_refused_by_element(element: str, value: float | None, reason: str) -> None:
    first, result = measured()
    kept = [m for m in result.measurements if m.element != element]
    assert len(kept) < len(result.measurements)
    del result.measurements[:]
    result.measurements.extend(kept)
    if value is not None:
        for metric in ("mean_square", "value"):
            result.measurements.add(element=element, metric=metric, value=value, step=100)
    with pytest.raises(Invalid) as caught:
        follow(first, [result])
    assert caught.value.reason == reason
    assert element in caught.value.message


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b"junk",
        lambda _: b"\xff\xfe",
        lambda _: b"[]",
        lambda _: b"[" * 100_000,
        lambda state: json.dumps({**json.loads(state), "v": 99}).encode(),
        lambda state: json.dumps({**json.loads(state), "iteration": -1}).encode(),
        lambda state: json.dumps({**json.loads(state), "pending": 3}).encode(),
        lambda state: json.dumps({**json.loads(state), "network": []}).encode(),
        lambda state: json.dumps({**json.loads(state), "network": [[{"id": "s1_c1"}], []]}).encode(),
        lambda state: state.replace(b"s1_c1", b"s1_c9"),
        lambda state: state.replace(b"7x7sep", b"9x9sep"),
        lambda _: b"x" * (2 << 20),
    ],
)
def test_unreadable_state_is_refused(damage: object) -> None:
    _, first = started()
    assert callable(damage)
    with pytest.raises(Invalid) as caught:
        propose(request("nac", envelope(*TINY), call=2, state=damage(first.state)))
    assert caught.value.reason == "STATE_UNREADABLE"
    assert caught.value.field == "state"


def test_state_of_another_space_is_refused() -> None:
    _, first = started()
    with pytest.raises(Invalid) as caught:
        propose(request("nac", envelope(), call=2, state=first.state))
    assert caught.value.reason == "STATE_UNREADABLE"


space_shapes = st.lists(
    st.tuples(st.integers(1, 3), st.integers(0, 3), st.booleans()).map(lambda t: (t[0], t[0] + t[1], t[2])),
    min_size=1,
    max_size=3,
)
configs = st.fixed_dictionaries(
    {
        "max_filter_prune": st.integers(1, 7),
        "prune_fraction": st.floats(0.01, 1.0),
        "statistic": st.sampled_from(["mean_square", "variance", "mean"]),
        "order": st.sampled_from(["ascending", "descending"]),
        "skip_ranking": st.sampled_from(["signed", "absolute", "l2"]),
        "iterations": st.integers(0, 4),
    }
)


@settings(max_examples=25, deadline=None)
@given(
    stages=space_shapes,
    palette=st.sets(st.sampled_from(["1x1", "3x3", "3x3sep", "5x5", "7x7sep"]), min_size=1),
    skips=st.booleans(),
    config=configs,
    seed=st.integers(1, 10_000),
)
def test_every_proposal_is_valid_and_ids_are_stable(
    stages: list[tuple[int, int, bool]], palette: set[str], skips: bool, config: dict[str, object], seed: int
) -> None:
    space = envelope(*stages, palette=sorted(palette), skips=skips)
    answers = list(play(space, seed=seed, **config))
    assert answers[-1].done
    found = networks(space, answers)
    for answer in answers[:-1]:
        architecture = build(space, answer.proposals[0].choices)
        assert shapes(architecture)[architecture.output] == (10,)
    for before, after in itertools.pairwise(found):
        old = {cell.id: cell for cell in before.cells()}
        new = {cell.id: cell for cell in after.cells()}
        assert set(old) < set(new)
        for identifier, cell in old.items():
            # Branches only ever go, never to the last, and what is left keeps its id.
            assert set(new[identifier].branches) <= set(cell.branches)
            assert new[identifier].branches
        assert all(new[identifier].branches == tuple(sorted(palette)) for identifier in set(new) - set(old))
        for index, (_, _, construct) in enumerate(stages):
            if not construct:
                assert [c.branches for c in after.stages[index]] == [c.branches for c in before.stages[index]]
