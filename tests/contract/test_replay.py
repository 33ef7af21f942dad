"""Replay of searches that persons interfered with, in this process: the real generator and driver, no sockets."""

import sqlite3
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import pytest

from generate_svc.algorithm import Algorithm
from generate_svc.registry import GENERATORS
from generate_svc.service import GenerateServicer
from nasmesh import spaces
from nasmesh.agent.attempt import Attempt
from nasmesh.agent.drivers.generate import GenerateDriver
from nasmesh.agent.piped import OverlayStore
from nasmesh.agent.piped import run as run_attempt
from nasmesh.agent.spool import Spool
from nasmesh.agent.targets import LocalTarget
from nasmesh.client import parse_spec
from nasmesh.clock import seeded_random
from nasmesh.errors import Compacted, NotFound, Unavailable
from nasmesh.store.base import ObjectStore
from nasmesh.store.memory import MemoryStore
from nasmesh.v1 import dispatch_service_pb2 as pb
from nasmesh.v1 import journal_pb2, search_pb2
from nasmesh.v1 import scheduler_service_pb2 as api
from scheduler.admin.checking import check
from scheduler.admin.compacting import compact
from scheduler.admin.rederiving import replay
from scheduler.lifecycle import Lifecycle
from scheduler.piped import PipedGenerator
from tests.builders import scheduling as make
from tests.builders.journals import Past, edit_event, edit_row, events_of

SPEC = """
data: { dataset: datasets/digits }
generator: { generator: generators/random }
space: { chain: { minLayers: 1, maxLayers: 2, kernels: [1, 3], channels: [2, 4, 8], pooling: true } }
objectives: [{ metric: accuracy, goal: GOAL_MAXIMIZE }]
constraints: [{ metric: parameters, max: 400 }]
budget: { maxTrials: 8 }
parallelism: 3
train: { epochs: 1 }
final: { scaleUp: { widthMultiplier: 2 }, topK: 2, train: { epochs: 2 } }
seed: 2
"""


class LocalGenerator(PipedGenerator):
    """The agent at the other end of the pipe, without the pipe."""

    def __init__(self, folder: Path, store: ObjectStore, served: Mapping[str, Algorithm] = GENERATORS) -> None:
        super().__init__()
        self._driver = GenerateDriver(LocalTarget(GenerateServicer(served)), store)
        self._spool = Spool(folder)
        self.server = self._driver.describe()

    def ask(self, lease: pb.Lease) -> pb.AttemptOutcome:
        outcome = run_attempt(self._driver, Attempt(lease, spool=self._spool, reported=lambda: None))
        outcome.token.CopyFrom(lease.token)
        return outcome


class Life:
    """A search with a real generator and hashed results."""

    def __init__(self, tmp_path: Path) -> None:
        self.path = tmp_path / "journal.db"
        self.store = MemoryStore()
        self.generator = LocalGenerator(tmp_path / "spool", self.store)
        self.boot()

    def boot(self) -> None:
        self.past = Past(self.path, server=self.generator.server)
        self.lifecycle = Lifecycle(self.past.engine, self.past.searches)

    def answer(self, lease: pb.Lease) -> pb.AttemptOutcome:
        if lease.HasField("train") or lease.HasField("evaluate"):
            return make.make_outcome(lease)
        return self.generator.ask(lease)

    def work(self, search: str = "s", *, until: int = 10_000) -> None:
        self.past.work(search, self.answer, until=until)

    def do(self, act: Callable[..., object], request: object) -> None:
        self.past.do(partial(act, request))


@pytest.fixture
def life(tmp_path: Path) -> Life:
    return Life(tmp_path)


def test_replay_when_persons_interfered_then_no_decision_differs(life: Life, tmp_path: Path) -> None:
    name = "searches/s"
    life.past.create("s", spec=parse_spec(SPEC))
    life.past.create("beside", spec=parse_spec(SPEC, ["seed=7", "budget.maxTrials=4"]))
    life.work(until=5)
    life.do(life.lifecycle.pause, api.PauseSearchRequest(name=name))
    life.past.close()
    life.boot()
    life.do(life.lifecycle.resume, api.ResumeSearchRequest(name=name))
    update = api.UpdateSearchRequest(search=api.GetSearchResponse().search)
    update.search.name = name
    update.search.spec.parallelism = 2
    update.search.spec.budget.max_trials = 12
    update.update_mask.paths.extend(["spec.parallelism", "spec.budget.max_trials"])
    life.do(life.lifecycle.update, update)
    life.work(until=9)
    space = life.past.engine.state.searches["s"].spec.space
    added = api.EnqueueTrialRequest(parent=name)
    added.proposal.choices.CopyFrom(spaces.sample(space, seeded_random(1)))
    life.do(life.lifecycle.enqueue, added)
    life.work()
    life.work("beside")
    run = life.past.engine.state.searches["s"]
    assert run.state.name == "SUCCEEDED", run.reason
    assert any(trial.enqueued for trial in run.trials)
    life.past.close()
    fresh = LocalGenerator(tmp_path / "fresh", OverlayStore(MemoryStore()))
    for search in ("s", "searches/beside"):
        found = replay(life.path, search, fresh)
        assert found.differences == [], found
        assert found.stored_trials == found.trials
    assert check(life.path, None).violations == []


def test_replay_when_generator_refused_then_the_refusal_comes_again(life: Life) -> None:
    text = SPEC.replace("generators/random }", "generators/random, settings: { reference: { choices: { x: y } } } }")
    life.past.create("s", spec=parse_spec(text))
    life.work()
    assert life.past.engine.state.searches["s"].state.name == "FAILED"
    life.past.close()
    found = replay(life.path, "s", life.generator)
    assert (found.differences, found.refusals, found.calls, found.state) == ([], 1, 0, "FAILED")


@pytest.fixture
def ended(life: Life) -> Life:
    """A search that has ended, its journal at rest."""
    life.past.create("s", spec=parse_spec(SPEC))
    life.work()
    life.past.close()
    return life


def first_of(life: Life) -> str:
    found = replay(life.path, "s", life.generator)
    return found.differences[0].where if found.differences else ""


@pytest.mark.parametrize(
    ("spoil", "where"),
    [
        (lambda result: setattr(result.trials[0].network, "macs", 1), "trials[0].network.macs"),
        (lambda result: setattr(result.trials[0].train, "epochs", 7.0), "trials[0].train.epochs"),
        (lambda result: setattr(result.trials[0], "proposal_id", "mine"), "trials[0].proposal_id"),
        (lambda result: setattr(result, "state", result.state[:-1] + b" }"), ".state"),
        (lambda result: setattr(result.next_call, "in_flight_below", 99), ".next_call.in_flight_below"),
        (lambda result: setattr(result, "done", True), ".done"),
    ],
)
def test_replay_when_an_answer_was_edited_then_found_and_named(
    ended: Life, spoil: Callable[[pb.GenerateResult], None], where: str
) -> None:
    answers = {
        sequence: event
        for sequence, body in events_of(ended.path).items()
        if (event := journal_pb2.JournalEvent.FromString(body)).outcome_reported.outcome.generate.trials
    }
    sequence = sorted(answers)[1]
    event = answers[sequence]
    outcome = event.outcome_reported.outcome
    spoil(outcome.generate)
    edit_event(ended.path, sequence, event.SerializeToString())
    found = replay(ended.path, "s", ended.generator)
    assert found.event == sequence
    assert found.differences[0].where.startswith(f"{outcome.token.task}, attempt 1")
    assert found.differences[0].where.endswith(where)


def test_replay_when_a_result_was_edited_then_the_stored_trial_differs(ended: Life) -> None:
    """What the generator does not look at is compared with the row that was stored as the trial ended."""
    for sequence, body in events_of(ended.path).items():
        event = journal_pb2.JournalEvent.FromString(body)
        if event.outcome_reported.outcome.token.task == "s-t3-train":
            event.outcome_reported.outcome.train.device_time_s += 1.0
            edit_event(ended.path, sequence, event.SerializeToString())
    assert first_of(ended) == "searches/s/trials/3.device_time_s"


def test_replay_when_a_stored_trial_is_not_what_follows_then_named(ended: Life) -> None:
    with sqlite3.connect(ended.path) as db:
        body = db.execute("SELECT body FROM snapshot WHERE key = 'ended/s/000000005'").fetchone()[0]
    row = journal_pb2.EndedRecord.FromString(body)
    trial = search_pb2.Trial.FromString(row.trial)
    trial.train.seed += 1
    row.trial = trial.SerializeToString()
    edit_row(ended.path, "ended/s/000000005", row.SerializeToString())
    assert first_of(ended) == "searches/s/trials/5.train.seed"


def test_replay_when_the_generator_gives_no_answer_then_that_is_no_difference(life: Life, tmp_path: Path) -> None:
    class Away(LocalGenerator):
        def ask(self, lease: pb.Lease) -> pb.AttemptOutcome:
            return make.make_failure(lease, "SERVER_UNREACHABLE", counted=False)

    life.past.create("s", spec=parse_spec(SPEC, ["budget.maxTrials=2"]))
    life.work()
    life.past.close()
    with pytest.raises(Unavailable, match="s-g1 could not be asked again") as caught:
        replay(life.path, "s", Away(tmp_path / "away", MemoryStore()))
    assert caught.value.reason == "SERVER_UNREACHABLE"


def test_replay_when_the_generator_is_not_served_here_then_said_and_no_difference(life: Life, tmp_path: Path) -> None:
    life.past.create("s", spec=parse_spec(SPEC, ["budget.maxTrials=2"]))
    life.work()
    life.past.close()
    other = LocalGenerator(tmp_path / "other", MemoryStore(), {"fixed": GENERATORS["fixed"]})
    with pytest.raises(Unavailable, match=r"a server that has generators/random with --target") as caught:
        replay(life.path, "s", other)
    assert caught.value.reason == "GENERATOR_ABSENT"


def test_replay_when_a_search_was_deleted_then_its_decisions_are_still_derived(life: Life) -> None:
    life.past.create("s", spec=parse_spec(SPEC, ["budget.maxTrials=3"]))
    life.work()
    request = api.DeleteSearchRequest(name="searches/s", apply=True)
    life.past.do(partial(life.lifecycle.delete, request, api.DeleteSearchResponse()))
    life.past.close()
    found = replay(life.path, "s", life.generator)
    assert (found.differences, found.state) == ([], "SUCCEEDED, deleted")
    assert found.proposals >= 3


def test_replay_when_events_are_gone_then_compacted_and_later_searches_replay(life: Life) -> None:
    life.past.create("early", spec=parse_spec(SPEC, ["budget.maxTrials=3"]))
    life.work("early")
    life.past.close()
    compact(life.path)
    life.boot()
    # The same networks again: their measurements are taken over from a search whose events are gone.
    life.past.create("later", spec=parse_spec(SPEC, ["budget.maxTrials=4"]))
    life.work("later")
    assert any(trial.reused_from for trial in life.past.engine.state.searches["later"].trials)
    life.past.close()
    found = replay(life.path, "later", life.generator)
    assert (found.differences, found.stored_trials) == ([], found.trials)
    with pytest.raises(Compacted, match="dropped by nasmesh admin compact"):
        replay(life.path, "early", life.generator)
    with pytest.raises(NotFound):
        replay(life.path, "none", life.generator)
