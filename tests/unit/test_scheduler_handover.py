"""Who stands for a measurement when the search that had it first is deleted: another that measured the same."""

import pytest

from nasmesh.clock import seeded_random
from nasmesh.v1 import dispatch_service_pb2 as dispatch_pb
from nasmesh.v1 import search_pb2 as pb
from scheduler import invariants
from scheduler.domain import State
from scheduler.facts import RULES, Booted, Change, Event, SearchCreated
from scheduler.journal import codec
from scheduler.machine import apply
from scheduler.wishes import SearchDeleted
from tests.builders import scheduling as make
from tests.builders.scheduler_play import Play, spec

STEPS = 60
NETWORKS = 3
AS_BEFORE = 0


class Story(Play):
    """Play that keeps a snapshot and all facts, and reads both back after each fact."""

    def __init__(self, rules: int = RULES) -> None:
        self.rows: dict[str, bytes] = {}
        self.facts: list[bytes] = []
        super().__init__()
        if rules != RULES:
            self.tell(Booted(2, rules))

    def tell(self, change: Change) -> list[object]:  # type: ignore[override]
        self.facts.append(codec.encode_event(Event(self.time_us + 1, self.uptime_s, change)))
        effects = super().tell(change)
        for key in (*self.state.dirty, "state"):
            self.rows[key] = codec.encode_row(self.state, key)
        self.state.dirty.clear()
        return list(effects)

    def check(self) -> None:
        read = codec.decode_rows([(key, body) for key, body in self.rows.items() if body])
        invariants.check(read)
        assert read == self.state
        replayed = State()
        for number, body in enumerate(self.facts, 1):
            apply(replayed, codec.decode_event(number, body))
        assert replayed == self.state

    def measure(self, search: str, *networks: str, repeat: bool = False, accuracy: float = 0.5) -> list[pb.Trial]:
        """Have a search with these networks run to its end; returns its trials."""
        wanted = spec(max_trials=len(networks), parallelism=1)
        wanted.train.seed = 5
        wanted.cache = pb.CACHE_MODE_REPEAT if repeat else pb.CACHE_MODE_REUSE
        self.tell(SearchCreated(search, wanted))
        run = self.state.searches[search]
        for number, network in enumerate(networks, 1):
            proposed = dispatch_pb.ProposedTrial(network=make.make_network(network), train=wanted.train)
            self.do(f"{search}-g{number}", generate=dispatch_pb.GenerateResult(trials=[proposed]))
            trial = run.trials[number - 1]
            if not trial.outcome:
                lease = dispatch_pb.Lease(token=dispatch_pb.AttemptToken(), trial=trial.name)
                self.do(f"{search}-t{number}-train", train=make.train_result(lease))
                lease.evaluate.config.CopyFrom(trial.evaluate)
                self.do(f"{search}-t{number}-evaluate", evaluate=make.evaluate_result(lease, accuracy))
        return list(run.trials)

    def source(self, search: str, network: str) -> str:
        """Return where a new search takes a network's measurements from; empty: it trains."""
        return self.measure(search, network)[0].reused_from


def test_first_when_deleted_then_who_measured_the_same_stands_and_after_it_nobody() -> None:
    story = Story()
    story.measure("a", "net")
    story.measure("c", "other", "net", repeat=True, accuracy=0.7)
    story.measure("b", "net", "net", repeat=True, accuracy=0.6)
    assert story.source("before", "net") == "searches/a/trials/1"
    for search in ("before", "a"):
        story.tell(SearchDeleted(search))
    story.check()
    (taken,) = story.measure("d", "net")
    assert (taken.reused_from, taken.measurements[-1].value) == ("searches/b/trials/1", 0.6)
    story.tell(SearchDeleted("d"))
    story.tell(SearchDeleted("b"))
    assert story.source("e", "net") == "searches/c/trials/2"
    story.tell(SearchDeleted("e"))
    story.tell(SearchDeleted("c"))
    story.check()
    assert (story.state.measured, story.state.repeats) == ({}, {})
    assert story.source("f", "net") == ""


def test_repeat_when_its_own_search_is_deleted_first_then_nothing_is_left_of_it() -> None:
    story = Story()
    story.measure("a", "net")
    story.measure("b", "net", repeat=True)
    story.tell(SearchDeleted("b"))
    story.check()
    story.tell(SearchDeleted("a"))
    assert (story.state.measured, story.state.repeats, story.state.searches) == ({}, {}, {})


def test_facts_when_recorded_under_the_first_rules_then_they_lead_to_what_they_led_to() -> None:
    story = Story(AS_BEFORE)
    story.measure("a", "net")
    story.measure("b", "net", repeat=True)
    story.tell(SearchDeleted("a"))
    story.check()
    assert story.source("c", "net") == "", "an old journal goes on with this training"
    story.tell(Booted(3, RULES))
    story.measure("d", "net", repeat=True)
    story.tell(SearchDeleted("c"))
    assert story.source("e", "net") == "searches/d/trials/1"
    story.check()


def test_repeats_when_an_older_program_goes_on_then_they_hand_nothing_over_and_leave_no_trace() -> None:
    story = Story()
    story.measure("a", "net", "other")
    story.measure("b", "net", "other", repeat=True)
    story.tell(Booted(2, AS_BEFORE))
    story.tell(SearchDeleted("a"))
    assert (story.state.measured, story.state.repeats) == ({}, {})
    story.check()


@pytest.mark.parametrize("seed", range(12))
def test_random_stories_when_searches_come_and_go_then_nothing_held_is_trained_again(seed: int) -> None:
    rng = seeded_random(seed)
    story, holders, taken = Story(), dict[str, set[str]](), dict[str, str]()
    for step in range(STEPS):
        search = f"s{rng.randrange(10**6)}-{step}"
        gone = [name for name in story.state.searches if name not in taken.values()]
        if len(story.state.searches) > 4 and gone:
            deleted = rng.choice(gone)
            story.tell(SearchDeleted(deleted))
            taken.pop(deleted, None)
            for networks in holders.values():
                networks.discard(deleted)
        else:
            network = f"net {rng.randrange(NETWORKS)}"
            held = holders.setdefault(network, set())
            repeat = rng.random() < 0.5
            (trial,) = story.measure(search, network, repeat=repeat)
            source = trial.reused_from.split("/")[1] if trial.reused_from else ""
            assert bool(source) == (bool(held) and not repeat), f"seed {seed}, step {step}: {held} have {network}"
            if source:
                assert source in held
                taken[search] = source
            else:
                held.add(search)
    story.check()
