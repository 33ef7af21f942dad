"""Early stopping in the pure machine: who is held, promoted, stopped, and that no search waits for ever."""

import pytest

from nasmesh import evaluate_config
from nasmesh.client.best import best_trial
from nasmesh.v1 import dispatch_service_pb2 as dispatch_pb
from nasmesh.v1 import evaluation_pb2
from nasmesh.v1 import search_pb2 as pb
from scheduler import convert
from scheduler.domain import SearchState, TaskState
from scheduler.early_stopping import stopping_faults
from scheduler.effects import Effect
from scheduler.facts import AttemptLeased, SearchCancelled, SearchExpired
from scheduler.journal import codec
from scheduler.ladder import ladder_of
from scheduler.wishes import SearchPaused, SearchResumed, SearchUpdated
from tests.builders import scheduling as make
from tests.builders.scheduler_play import Play, spec


def stopping_spec(kind: str = "asynchronous_halving", **more: int) -> pb.SearchSpec:
    """Return a specification with a rule; its training has 90 updates, so the rungs of halving are at 10 and 30."""
    settings = {name: more.pop(name) for name in list(more) if name not in ("max_trials", "parallelism")}
    result = spec(**{"max_trials": 9, "parallelism": 3, **more})
    result.train.steps = 90
    getattr(result.early_stopping, kind).SetInParent()
    for name, value in settings.items():
        setattr(getattr(result.early_stopping, kind), name, value)
    assert list(stopping_faults(result, 1000)) == []
    return result


class Rungs(Play):
    """Plays trainings part by part; a trial is as good as its number says, unless told otherwise."""

    def __init__(self, wanted: pb.SearchSpec | None = None) -> None:
        """Begin; `evaluations` is what each evaluation was asked to measure."""
        self.evaluations: list[evaluation_pb2.EvaluateConfig] = []
        super().__init__(wanted)

    def propose(self, count: int, call: int = 1, **more: object) -> list[Effect]:
        result = dispatch_pb.GenerateResult(state=str(call).encode(), **more)  # type: ignore[arg-type]
        for index in range(count):
            result.trials.add(network=make.make_network(f"{call} {index}"), train=self.run.spec.train)
        return self.do(f"s-g{call}", generate=result)

    def part(self, number: int, value: float | None = None, **more: float) -> None:
        trial = self.run.trials[number - 1]
        rung = len(trial.rungs)
        suffix = f"-r{rung}" if rung else ""
        until = self.run.ladder.until_step(trial)
        token = make.pb.AttemptToken()
        lease = make.pb.Lease(token=token, trial=trial.name)
        result = make.train_result(lease)
        result.steps = until or 90
        self.do(f"s-t{number}-train{suffix}", train=result)
        lease.evaluate.config.CopyFrom(trial.evaluate)
        accuracy = number / 100 if value is None else value
        scores = make.evaluate_result(lease, accuracy)
        for metric, found in more.items():
            scores.measurements.append(make.make_measurement(metric, found, 0))
        task = f"s-t{number}-evaluate{suffix}"
        self.tell(AttemptLeased(task, "agents/a"))
        self.evaluations.append(convert.lease_message(self.state, self.state.tasks[task]).evaluate.config)
        self.report(task, evaluate=scores)

    def held(self) -> list[int]:
        return sorted(self.run.ladder.held)

    def steps(self, number: int) -> list[int]:
        return [rung.step for rung in self.run.trials[number - 1].rungs]

    def open(self) -> list[str]:
        return sorted(self.run.open_tasks)


def test_asha_when_a_third_is_better_then_it_goes_on_from_its_checkpoint_and_the_others_are_held() -> None:
    play = Rungs(stopping_spec())
    play.propose(3)
    play.part(1)
    play.part(2)
    assert play.held() == [1, 2]
    assert [trial.rungs[0].reason for trial in list(play.run.trials)[:2]] == ["1st of 1 so far", "1st of 2 so far"]
    assert play.run.in_work == 1
    play.part(3)
    assert play.held() == [1, 2]
    assert "s-t3-train-r1" in play.open()
    trial = play.run.trials[2]
    assert play.state.tasks["s-t3-train-r1"].checkpoint == trial.checkpoint
    assert play.run.ladder.until_step(trial) == 30
    assert trial.rungs[0].decision == pb.RUNG_DECISION_PROMOTED
    assert trial.rungs[0].reason == "1st of 3, the best one goes on"


def test_asha_when_no_more_trials_come_then_the_best_goes_to_its_end_and_the_rest_are_stopped() -> None:
    play = Rungs(stopping_spec(max_trials=3))
    play.propose(3)
    for number in (1, 2, 3):
        play.part(number)
    play.part(3)
    assert play.open() == ["s-t3-train-r2"]
    assert "nobody else can come" in play.run.trials[2].rungs[1].reason
    play.part(3)
    run = play.run
    assert run.state is SearchState.SUCCEEDED
    assert [trial.outcome for trial in run.trials] == [
        pb.TRIAL_OUTCOME_STOPPED,
        pb.TRIAL_OUTCOME_STOPPED,
        pb.TRIAL_OUTCOME_SUCCEEDED,
    ]
    assert play.steps(3) == [10, 30]
    assert play.steps(1) == [10]
    assert run.trials[0].failure.reason == "EARLY_STOPPED"
    assert run.trials[0].failure.message.startswith("at rung 0, after 10 updates: 3rd of 3, the best one goes on")
    assert run.results == [3, 1, 2]
    assert run.trials[2].device_time_s == pytest.approx(3 * 1.75)


def test_asha_when_the_generator_waits_for_every_result_then_the_best_so_far_go_to_their_end() -> None:
    play = Rungs(stopping_spec(max_trials=3, parallelism=1))
    play.propose(1, next_call={"after_results": 1})
    for _ in range(3):
        play.part(1)
    assert play.run.trials[0].outcome == pb.TRIAL_OUTCOME_SUCCEEDED
    play.propose(1, call=2, next_call={"after_results": 1})
    play.part(2, 0.0)
    assert play.run.trials[1].outcome == pb.TRIAL_OUTCOME_STOPPED
    assert play.run.trials[1].rungs[0].reason.startswith("2nd of 2, the best one goes on")
    play.propose(1, call=3)
    play.part(3, 0.5)
    assert play.open() == ["s-t3-train-r1"]


def test_held_trial_when_there_is_room_then_the_generator_is_asked_beside_it() -> None:
    play = Rungs(stopping_spec(max_trials=9, parallelism=1))
    play.propose(1, next_call={"in_flight_below": 1})
    play.part(1)
    assert play.held() == [1]
    assert play.open() == ["s-g2"]
    assert play.state.tasks["s-g2"].ask.count == 1
    assert play.state.tasks["s-g2"].ask.in_flight == 1


def test_held_trials_when_the_search_is_cancelled_then_they_end_as_stopped() -> None:
    play = Rungs(stopping_spec())
    play.propose(3)
    play.part(1)
    play.part(2)
    play.tell(SearchCancelled("s"))
    assert play.run.ladder is None
    assert [trial.outcome for trial in play.run.trials] == [pb.TRIAL_OUTCOME_STOPPED] * 3
    assert play.run.trials[0].rungs[0].decision == pb.RUNG_DECISION_STOPPED
    assert play.run.trials[0].failure.reason == "SEARCH_CANCELLED"


def test_promotion_when_the_search_is_paused_then_it_is_leased_only_after_the_pause() -> None:
    play = Rungs(stopping_spec())
    play.propose(3)
    play.part(1)
    play.part(2)
    play.do("s-t3-train", train=make.train_result(make.pb.Lease(trial="searches/s/trials/3")))
    lease = make.pb.Lease(trial="searches/s/trials/3")
    lease.evaluate.config.split = 2
    play.tell(AttemptLeased("s-t3-evaluate", "agents/a"))
    play.tell(SearchPaused("s"))
    play.report("s-t3-evaluate", evaluate=make.evaluate_result(lease, 0.9))
    assert play.open() == ["s-t3-train-r1"]
    assert play.state.tasks["s-t3-train-r1"].state is TaskState.QUEUED
    play.tell(SearchResumed("s"))
    play.part(3)


def test_promoted_trial_when_it_fails_then_it_is_compared_no_more_and_the_next_best_goes_on() -> None:
    play = Rungs(stopping_spec(max_trials=3))
    play.propose(3)
    for number in (1, 2, 3):
        play.part(number)
    failure = pb.Failure(reason="NETWORK_DIVERGED", message="at step 12")
    play.do("s-t3-train-r1", failure=failure)
    assert play.run.trials[2].outcome == pb.TRIAL_OUTCOME_FAILED
    assert play.open() == ["s-t2-train-r1"]
    assert play.run.trials[1].rungs[0].reason.startswith("1st of 2, the best one goes on; nobody else")


def test_parallelism_when_it_is_raised_then_no_more_than_the_best_share_goes_on() -> None:
    play = Rungs(stopping_spec(max_trials=20, parallelism=3))
    play.propose(3)
    for number in (1, 2, 3):
        play.part(number)
    more = pb.SearchSpec()
    more.CopyFrom(play.run.spec)
    more.parallelism = 5
    play.tell(SearchUpdated("s", more))
    assert play.held() == [1, 2]
    assert "s-t3-train-r1" in play.open()


def test_search_when_its_time_is_up_before_any_training_ends_then_the_best_at_a_rung_is_its_best() -> None:
    play = Rungs(stopping_spec())
    play.propose(3)
    play.part(1, 0.7)
    play.part(2, 0.5)
    play.tell(SearchExpired("s"))
    run = play.run
    assert run.state is SearchState.SUCCEEDED
    assert [number for _, number in run.leaders] == [1]
    assert run.reason.endswith("no trial was trained to its end; best at a rung is trial 1 with accuracy 0.7")
    shown = convert.search_message(run)
    assert shown.best_trial == "searches/s/trials/1"
    assert best_trial(shown, list(run.trials)).name == shown.best_trial


def test_search_when_its_time_is_up_then_what_is_outside_a_constraint_or_was_never_scored_is_not_its_best() -> None:
    asked = stopping_spec()
    asked.constraints.add(metric="accuracy", min=0.9)
    play = Rungs(asked)
    play.propose(3)
    play.part(1, 0.7)
    play.part(2, 0.95)
    play.do("s-t3-train", failure=pb.Failure(reason="NETWORK_DIVERGED", message="why"))
    play.tell(SearchExpired("s"))
    assert [number for _, number in play.run.leaders] == [2]
    alone = Rungs(asked)
    alone.propose(3)
    alone.part(1, 0.7)
    alone.tell(SearchExpired("s"))
    assert alone.run.state is SearchState.FAILED
    assert "no trial succeeded" in alone.run.reason


def test_final_phase_when_no_training_has_ended_then_it_trains_the_best_at_a_rung() -> None:
    asked = stopping_spec()
    asked.final.top_k = 2
    asked.final.train.CopyFrom(asked.train)
    asked.final.evaluate.CopyFrom(asked.evaluate)
    play = Rungs(asked)
    play.propose(3)
    play.part(1, 0.7)
    play.part(2, 0.5)
    play.tell(SearchExpired("s"))
    assert play.run.state is SearchState.FINALIZING
    assert play.run.final_sources() == [1, 2]
    play.run.spec.final.pick = pb.FINAL_PICK_LAST
    assert play.run.final_sources() == [2, 1]
    result = dispatch_pb.GenerateResult()
    for name in ("one", "two"):
        result.trials.add(network=make.make_network(name))
    play.do("s-final", generate=result)
    assert play.open() == ["s-t4-train", "s-t5-train"]
    play.score(4, 0.8)
    play.score(5, 0.6)
    assert play.run.state is SearchState.SUCCEEDED


def test_snapshot_when_read_back_then_rungs_are_as_they_were() -> None:
    play = Rungs(stopping_spec())
    play.propose(3)
    for number in (1, 2, 3):
        play.part(number)
    rows = {key: codec.encode_row(play.state, key) for key in [*play.state.dirty, "state"]}
    again = codec.decode_rows(rows.items())
    assert again == play.state
    assert again.searches["s"].ladder == ladder_of(play.run.spec, play.run.trials)
    assert again.tasks["s-t3-evaluate"].state is TaskState.SUCCEEDED


def test_rung_when_scored_then_what_is_decided_by_is_measured_and_at_the_end_all_that_was_asked_for() -> None:
    asked = stopping_spec(max_trials=3)
    asked.evaluate.CopyFrom(evaluate_config.complete(evaluation_pb2.EvaluateConfig(memory=True)))
    asked.evaluate.throughput_batch_sizes.extend([1, 64])
    asked.evaluate.metrics.append("f1_macro")
    asked.constraints.add(metric="throughput_b1", min=1.0)
    play = Rungs(asked)
    play.propose(3)
    for number in (1, 2, 3, 3, 3):
        play.part(number, throughput_b1=2.0)
    *at_rungs, at_the_end = play.evaluations
    assert len(at_rungs) == 4
    for config in at_rungs:
        assert (config.latency, config.memory) == (False, False)
        assert list(config.throughput_batch_sizes) == [1, 64], "one of them bounds the search"
        assert list(config.metrics) == ["f1_macro"]
        assert config.split == asked.evaluate.split
    assert at_the_end == asked.evaluate
