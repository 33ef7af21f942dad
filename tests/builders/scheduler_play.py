"""Plays facts to the scheduler's pure machine and checks the invariants after each."""

from collections.abc import Callable

from nasmesh.v1 import dispatch_service_pb2 as dispatch_pb
from nasmesh.v1 import search_pb2 as pb
from scheduler import invariants
from scheduler.domain import SearchState, State
from scheduler.effects import Effect
from scheduler.facts import (
    RULES,
    AttemptLeased,
    AttemptLost,
    Booted,
    Change,
    Event,
    OutcomeReported,
    SearchCancelled,
    SearchCreated,
)
from scheduler.machine import apply
from scheduler.outcomes import complete_train
from scheduler.wishes import SearchPaused, SearchResumed
from tests.builders import scheduling as make


class Play:
    """Feeds facts to the machine and checks the invariants after each."""

    def __init__(self, spec: pb.SearchSpec | None = None) -> None:
        self.state = State()
        self.time_us = 0
        self.uptime_s = 0.0
        self.tell(Booted(1, RULES))
        if spec is not None:
            self.tell(SearchCreated("s", spec))

    def tell(self, change: Change) -> list[Effect]:
        self.time_us += 1
        before, epoch = invariants.remember(self.state), self.state.epoch
        effects = apply(self.state, Event(self.time_us, self.uptime_s, change))
        invariants.check(self.state)
        invariants.check_step(before, epoch, self.state)
        return effects

    def report(self, task: str, **result: object) -> list[Effect]:
        attempt = self.state.tasks[task].current()
        token = dispatch_pb.AttemptToken(task=task, attempt=attempt.number, epoch=attempt.epoch)
        outcome = dispatch_pb.AttemptOutcome(token=token, **result)  # type: ignore[arg-type]
        return self.tell(OutcomeReported(outcome, b"digest"))

    def do(self, task: str, **result: object) -> list[Effect]:
        self.tell(AttemptLeased(task, "agents/a"))
        return self.report(task, **result)

    def propose(self, count: int, call: int = 1, **more: object) -> list[Effect]:
        result = dispatch_pb.GenerateResult(state=str(call).encode(), **more)  # type: ignore[arg-type]
        for index in range(count):
            result.trials.add(network=make.make_network(f"{call} {index}"))
        return self.do(f"s-g{call}", generate=result)

    def score(self, number: int, accuracy: float) -> list[Effect]:
        token = dispatch_pb.AttemptToken()
        lease = dispatch_pb.Lease(token=token, trial=f"searches/s/trials/{number}")
        self.do(f"s-t{number}-train", train=make.train_result(lease))
        trial = self.run.trials[number - 1]
        lease.evaluate.config.CopyFrom(trial.evaluate)
        return self.do(f"s-t{number}-evaluate", evaluate=make.evaluate_result(lease, accuracy))

    @property
    def run(self):  # type: ignore[no-untyped-def]
        return self.state.searches["s"]


def interrupt(play: Play, kind: str, done: Callable[[], object], reason: str) -> None:
    """Hold a search, let it go on, lose its first trial's work, do it, fail the second trial's, and cancel all."""
    play.tell(SearchPaused("s"))
    play.tell(SearchResumed("s"))
    play.tell(AttemptLeased(f"s-t1-{kind}", "agents/a"))
    play.tell(AttemptLost(f"s-t1-{kind}", 1, failure(counted=False)))
    done()
    play.do(f"s-t2-{kind}", failure=pb.Failure(reason=reason, message="why"))
    assert play.run.trials[1].outcome == pb.TRIAL_OUTCOME_FAILED
    play.tell(SearchCancelled("s"))


def spec(**more: object) -> pb.SearchSpec:
    result = make.make_spec(**more)  # type: ignore[arg-type]
    result.train.CopyFrom(complete_train(result.train))
    result.evaluate.split = 2
    if result.HasField("final"):
        result.final.evaluate.split = 3
    return result


def failure(*, retryable: bool = True, counted: bool = True) -> pb.Failure:
    return pb.Failure(reason="CHILD_CRASHED", message="why", retryable=retryable, counted=counted)


def spoil_two_outcomes(state: State) -> None:
    state.searches["s"].results.append(1)


def spoil_open_attempt(state: State) -> None:
    state.tasks["s-t1-train"].attempts[0].ended = True


def spoil_counts(state: State) -> None:
    state.searches["s"].active += 1


def spoil_quarantine(state: State) -> None:
    state.tasks["s-t1-train"].counted = 3


def spoil_epoch(state: State) -> None:
    state.tasks["s-t1-train"].attempts[0].epoch = 9


def spoil_parent(state: State) -> None:
    state.searches["s"].trials[0].parents.append("searches/s/trials/5")


def spoil_end(state: State) -> None:
    state.searches["s"].state = SearchState.FAILED


def spoil_idle(state: State) -> None:
    state.searches["s"].open_tasks.clear()
