"""What the scheduler makes of instrumentation plans and of reports on inherited weights."""

import pytest

from nasmesh.errors import Invalid
from nasmesh.v1 import dispatch_service_pb2 as dispatch_pb
from nasmesh.v1 import search_pb2
from nasmesh.v1 import training_pb2 as pb
from scheduler import outcomes
from scheduler.machine.reuse import digest_of
from tests.builders import scheduling as make
from tests.builders.scheduler_play import Play, spec

REPORT = search_pb2.InheritanceReport(taken=3, taken_share=0.75, initialized=["fc.weight"], unused=["fc.weight"])


def _trained(report: search_pb2.InheritanceReport) -> dispatch_pb.AttemptOutcome:
    lease = dispatch_pb.Lease(token=dispatch_pb.AttemptToken(), trial="searches/s/trials/1")
    result = make.train_result(lease)
    result.inheritance.CopyFrom(report)
    return dispatch_pb.AttemptOutcome(token=dispatch_pb.AttemptToken(task="s-t1-train", attempt=1), train=result)


def test_trial_when_its_training_inherited_then_keeps_the_report() -> None:
    play = Play(spec(max_trials=9, parallelism=1))
    play.propose(1)
    outcome = outcomes.check(play.run, play.state.tasks["s-t1-train"], _trained(REPORT))
    play.do("s-t1-train", train=outcome.train)
    assert play.run.trials[0].inheritance == REPORT


@pytest.mark.parametrize(
    ("report", "field"),
    [
        ({"taken": -1}, "train.inheritance"),
        ({"taken_share": 1.5}, "train.inheritance"),
        ({"taken_share": float("nan")}, "train.inheritance"),
        ({"initialized": ["w"] * 1001}, "train.inheritance.initialized"),
        ({"unused": ["w" * 1001]}, "train.inheritance.unused"),
    ],
)
def test_outcome_when_a_report_is_nonsense_then_is_refused_by_its_field(report, field) -> None:
    play = Play(spec(max_trials=9, parallelism=1))
    play.propose(1)
    task = play.state.tasks["s-t1-train"]
    with pytest.raises(Invalid) as caught:
        outcomes.check(play.run, task, _trained(search_pb2.InheritanceReport(**report)))
    assert (caught.value.reason, caught.value.field) == (outcomes.INVALID_REASON, field)


def test_plans_when_search_and_proposal_have_one_then_the_trial_has_both() -> None:
    probe = pb.Probe(tap=pb.TAP_WEIGHT, statistics=[pb.STATISTIC_NORM])
    one = pb.InstrumentationPlan(probes=[probe], proxies=[pb.ZERO_COST_PROXY_SNIP, pb.ZERO_COST_PROXY_SYNFLOW])
    other = pb.InstrumentationPlan(probes=[probe], proxies=[pb.ZERO_COST_PROXY_SNIP], profile=True)
    both = outcomes.both(one, other)
    assert list(both.probes) == [probe]
    assert list(both.proxies) == [pb.ZERO_COST_PROXY_SYNFLOW, pb.ZERO_COST_PROXY_SNIP]
    assert both.profile
    outcomes.training_config.check_instrumentation(both)


@pytest.mark.parametrize(
    "plan", [pb.InstrumentationPlan(proxies=[pb.ZERO_COST_PROXY_SNIP]), pb.InstrumentationPlan(profile=True)]
)
def test_plan_without_probes_when_proposed_then_is_kept_and_tells_measurements_apart(plan) -> None:
    play = Play(spec(max_trials=9, parallelism=2))
    proposed = [{"network": make.make_network("same")}, {"network": make.make_network("same"), "instrumentation": plan}]
    play.do("s-g1", generate=dispatch_pb.GenerateResult(trials=proposed, state=b"1"))
    first, second = play.run.trials
    assert second.instrumentation == plan
    second.train.CopyFrom(first.train)
    assert digest_of(play.run, first) != digest_of(play.run, second)
    second.ClearField("instrumentation")
    assert digest_of(play.run, first) == digest_of(play.run, second)


def test_outcome_when_a_proposal_s_proxy_is_unknown_then_is_refused() -> None:
    play = Play(spec(max_trials=9, parallelism=2))
    plan = pb.InstrumentationPlan(proxies=[77])
    result = dispatch_pb.GenerateResult(
        trials=[{"network": make.make_network("one"), "instrumentation": plan}], state=b"1"
    )
    token = dispatch_pb.AttemptToken(task="s-g1", attempt=1)
    outcome = dispatch_pb.AttemptOutcome(token=token, generate=result)
    with pytest.raises(Invalid, match=r"instrumentation\.proxies\[0\]: 77 is unknown"):
        outcomes.check(play.run, play.state.tasks["s-g1"], outcome)
