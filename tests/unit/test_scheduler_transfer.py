"""A search that takes a network over from another: whose it is, and its weights."""

import pytest

from nasmesh.errors import Invalid, NotFound
from nasmesh.rpc.identity import LOCAL, Identity, Role
from nasmesh.v1 import dispatch_service_pb2 as dispatch_pb
from nasmesh.v1 import search_pb2 as pb
from scheduler.facts import SearchCreated
from scheduler.origin import complete_transfer
from tests.builders import scheduling as make
from tests.builders.scheduler_play import Play, spec

SOURCE = "searches/s/trials/1"
STRANGER = Identity("clients/somebody", frozenset({Role.CLIENT_WRITE}))


def found(*, scored: bool = True, owner: str = "") -> Play:
    """A search "s" with one network, trained and scored or not yet."""
    play = Play(spec(max_trials=2))
    play.run.owner = owner
    proposed = dispatch_pb.ProposedTrial(network=make.make_network("net"))
    proposed.train.CopyFrom(play.run.spec.train)
    play.do("s-g1", generate=dispatch_pb.GenerateResult(trials=[proposed]))
    if scored:
        play.score(1, 0.75)
    return play


def taking(**transfer: object) -> pb.SearchSpec:
    wanted = spec(max_trials=1, final=True)
    wanted.transfer.CopyFrom(pb.Transfer(**{"trial": SOURCE, **transfer}))  # type: ignore[arg-type]
    return wanted


def test_a_taken_over_network_is_recorded_and_its_weights_begin_every_training() -> None:
    play = found()
    wanted = taking(inherit_weights=True)
    complete_transfer(wanted, play.state, LOCAL)
    source = play.run.trials[0]
    assert (wanted.transfer.network, wanted.transfer.weights) == (source.network.name, source.checkpoint)
    again = pb.SearchSpec.FromString(wanted.SerializeToString())
    complete_transfer(again, play.state, LOCAL)  # a specification as it is shown may be sent again
    assert again == wanted
    play.tell(SearchCreated("t", wanted))
    proposed = dispatch_pb.ProposedTrial(network=make.make_network("wider"))
    proposed.train.CopyFrom(wanted.train)
    play.do("t-g1", generate=dispatch_pb.GenerateResult(trials=[proposed]))
    assert play.state.searches["t"].trials[0].initial_weights == source.checkpoint


def test_without_inherit_weights_only_the_lineage_is_kept() -> None:
    play = found()
    wanted = taking()
    complete_transfer(wanted, play.state, LOCAL)
    assert wanted.transfer.network == play.run.trials[0].network.name
    assert not wanted.transfer.HasField("weights")
    play.tell(SearchCreated("t", wanted))
    proposed = dispatch_pb.ProposedTrial(network=make.make_network("wider"))
    play.do("t-g1", generate=dispatch_pb.GenerateResult(trials=[proposed]))
    assert not play.state.searches["t"].trials[0].HasField("initial_weights")


@pytest.mark.parametrize("name", ["searches/none/trials/1", "searches/s/trials/9"])
def test_a_trial_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(NotFound, match=name) as caught:
        complete_transfer(taking(trial=name), found().state, LOCAL)
    assert (caught.value.reason, caught.value.field) == ("TRIAL_UNKNOWN", "spec.transfer.trial")


def test_another_owners_trial_is_as_if_it_were_not_there() -> None:
    with pytest.raises(NotFound):
        complete_transfer(taking(), found(owner="clients/me").state, STRANGER)


@pytest.mark.parametrize(
    ("transfer", "field"),
    [
        ({"inherit_weights": True}, "inherit_weights"),
        ({"network": "networks/other"}, "network"),
        ({"weights": make.make_ref("mine", "checkpoints")}, "weights"),
    ],
)
def test_what_does_not_fit_the_trial_is_refused_with_its_field(transfer: dict[str, object], field: str) -> None:
    with pytest.raises(Invalid) as caught:
        complete_transfer(taking(**transfer), found(scored=False).state, LOCAL)
    assert (caught.value.reason, caught.value.field) == ("SPEC_INVALID", f"spec.transfer.{field}")
