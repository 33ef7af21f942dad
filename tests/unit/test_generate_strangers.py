"""Networks that people add to a search: every built-in generator sees their results, and goes on as without them."""

import pytest

from generate_svc.registry import GENERATORS
from nasmesh.v1 import generate_service_pb2 as pb
from nasmesh.v1 import search_pb2, space_pb2
from tests.builders.generating import build, chain, envelope, observe, request

OUTCOMES = [number for number in search_pb2.TrialOutcome.values() if number]
CASES: dict[str, tuple[space_pb2.Space, dict[str, object]]] = {
    "nac": (envelope((1, 2, True), (1, 1, False)), {}),
    "random": (chain(), {}),
    "fixed": (chain(), {"repeats": 5, "choices": {}}),
}


def stranger(number: int, outcome: int) -> pb.Result:
    """Return the result of a trial that no generator proposed."""
    result = pb.Result(
        trial=f"searches/s/trials/{900 + number}",
        network=f"networks/{number:064x}",
        outcome=search_pb2.TrialOutcome.ValueType(outcome),
    )
    result.measurements.add(metric="accuracy", value=0.99)
    result.measurements.add(metric="mean_square", element="s1_c1_b3x3", value=0.5)
    result.failure.reason = "NETWORK_DIVERGED"
    return result


def settings_of(name: str) -> tuple[space_pb2.Space, dict[str, object]]:
    space, settings = CASES[name]
    if name == "fixed":
        (drawn,) = GENERATORS["random"].propose(request("random", space)).proposals
        settings = {**settings, "choices": dict(drawn.choices.values)}
    return space, settings


def test_every_built_in_generator_has_a_case() -> None:
    assert set(CASES) == set(GENERATORS)


@pytest.mark.parametrize("name", CASES)
def test_generator_when_others_add_networks_then_it_proposes_the_same(name: str) -> None:
    space, settings = settings_of(name)
    algorithm = GENERATORS[name]
    first = algorithm.propose(request(name, space, settings=settings))
    (proposal,) = first.proposals
    own = observe(proposal, build(space, proposal.choices), 1, 1)
    strangers = [stranger(number, outcome) for number, outcome in enumerate(OUTCOMES)]
    answers = [
        algorithm.propose(request(name, space, settings=settings, call=2, state=first.state, results=results))
        for results in ([own], [own, *strangers], [*strangers, own])
    ]
    assert answers[0].proposals or answers[0].done
    assert answers[1] == answers[0]
    assert answers[2] == answers[0]


def test_nac_when_called_for_the_result_of_another_then_it_asks_to_be_called_with_the_next() -> None:
    space, settings = settings_of("nac")
    first = GENERATORS["nac"].propose(request("nac", space, settings=settings))
    assert first.next_call.after_results == 1
    called = request(
        "nac", space, settings=settings, call=2, state=first.state, results=[stranger(1, 1)], trials_in_flight=1
    )
    waiting = GENERATORS["nac"].propose(called)
    assert (list(waiting.proposals), waiting.state, waiting.done) == ([], first.state, False)
    assert waiting.next_call.after_results == 1
