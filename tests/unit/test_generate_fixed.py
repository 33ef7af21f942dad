import pytest

from generate_svc import registry
from nasmesh.errors import Invalid
from nasmesh.v1 import space_pb2 as pb
from tests.builders.generating import build, chain, request

VALUES = {"layers": "1", "layer_1.kernel": "3", "layer_1.channels": "8", "layer_1.pool": "on"}


def given() -> pb.Space:
    return pb.Space(fixed=pb.FixedSpace(architecture=build(chain(), pb.ChoiceValues(values=VALUES))))


def test_architecture_is_proposed_as_it_is_once() -> None:
    answer = registry.propose(request("fixed", given()))
    assert [proposal.architecture for proposal in answer.proposals] == [given().fixed.architecture]
    assert answer.done


def test_object_is_proposed_as_it_is() -> None:
    space = pb.Space()
    space.fixed.object.key = "networks/sha256-1.onnx"
    (proposal,) = registry.propose(request("fixed", space)).proposals
    assert proposal.object == space.fixed.object


def test_choices_name_a_network_of_another_space() -> None:
    (proposal,) = registry.propose(request("fixed", chain(), settings={"choices": VALUES})).proposals
    assert dict(proposal.choices.values) == VALUES


def test_repeats_are_spread_over_calls() -> None:
    ids: list[str] = []
    state, done, call = b"", False, 0
    while not done:
        call += 1
        asked = request("fixed", given(), settings={"repeats": 5}, count=2, call=call, state=state)
        answer = registry.propose(asked)
        assert answer == registry.propose(asked)
        ids += [proposal.proposal_id for proposal in answer.proposals]
        state, done = answer.state, answer.done
    assert ids == [f"fixed-{k}" for k in range(1, 6)]
    assert call == 3


@pytest.mark.parametrize(
    ("space", "settings", "reason"),
    [
        (given(), {"choices": VALUES}, "SETTINGS_INVALID"),
        (chain(), {}, "SETTINGS_INVALID"),
        (chain(), {"choices": {"layers": "1"}}, "CHOICE_MISSING"),
        (chain(), {"choices": {"layers": 1}}, "SETTINGS_INVALID"),
        (given(), {"repeats": 0}, "SETTINGS_INVALID"),
    ],
)
def test_network_that_is_not_named_well_is_refused(space: pb.Space, settings: dict[str, object], reason: str) -> None:
    with pytest.raises(Invalid) as caught:
        registry.propose(request("fixed", space, settings=settings))
    assert caught.value.reason == reason


def test_architecture_that_does_not_fit_the_data_is_refused() -> None:
    with pytest.raises(Invalid, match="do not fit"):
        registry.propose(request("fixed", given(), input_dims=(3, 32, 32)))


def test_unreadable_state_is_refused() -> None:
    with pytest.raises(Invalid) as caught:
        registry.propose(request("fixed", given(), state=b'{"proposed":-1,"v":1}'))
    assert caught.value.reason == "STATE_UNREADABLE"
