"""Placement, timers, watchers, failpoints, pages: the small parts by themselves."""

import asyncio

import pytest

from nasmesh.clock import ManualClock
from nasmesh.errors import Busy, Compacted, Invalid
from nasmesh.v1 import job_pb2, search_pb2
from nasmesh.v1 import scheduler_service_pb2 as pb
from scheduler import pages, watch
from scheduler.agents import AgentEntry, Agents
from scheduler.domain import TaskKind
from scheduler.failpoints import Failpoints
from scheduler.placement import Placement, Waiting
from scheduler.timers import Alarms, Leases, backoff_s
from tests.builders import scheduling as make

GENERATE, TRAIN = TaskKind.GENERATE, TaskKind.TRAIN


def agent(agents: Agents, name: str, *, slots: int = 1, datasets: tuple[str, ...] = ()) -> AgentEntry:
    server = job_pb2.Server(generators=[make.make_generator()])
    for dataset in datasets:
        server.datasets.add(name=dataset, available=True)
    entry = AgentEntry(name, {TRAIN: slots, GENERATE: slots}, server, {}, make.Recorder(), 0)
    entry.free = {TRAIN: slots, GENERATE: slots}
    agents.put(entry, 0.0)
    return entry


def matched(agents: Agents, placement: Placement, kind: TaskKind = TRAIN) -> list[tuple[str, str]]:
    leased: list[tuple[str, str]] = []

    def lease(task: str, found: list[AgentEntry]) -> None:
        (entry,) = found
        leased.append((task, entry.name))
        agents.grant(entry.name, task, kind)
        placement.started(task, kind, task)

    placement.match(lambda _: True, lease, most=1000)
    return leased


def test_placement_when_priorities_differ_then_higher_first_then_older() -> None:
    agents, placement = Agents(), Placement()
    for task, priority, order in (("old", 0, 1), ("new", 0, 2), ("urgent", 5, 3), ("later", -5, 0)):
        placement.add(Waiting(task, task, TRAIN, "datasets/d", priority, order))
    placement.offer(agent(agents, "a", slots=3))
    assert [task for task, _ in matched(agents, placement)] == ["urgent", "old", "new"]


def test_placement_when_no_agent_is_free_then_leases_wait_where_they_are_wanted() -> None:
    agents, placement = Agents(), Placement()
    busy, idle = agent(agents, "busy"), agent(agents, "idle")
    for order in range(5):
        placement.add(Waiting(f"t{order}", f"t{order}", TRAIN, "datasets/d", 0, order))
    busy.most_ahead, busy.ahead, busy.free[TRAIN] = {TRAIN: 2}, {TRAIN: 8}, 0
    agents.grant("busy", "t", TRAIN)
    placement.offer(busy)
    placement.offer(idle)
    assert [name for _, name in matched(agents, placement)] == ["idle", "busy", "busy"]
    assert busy.room_ahead(TRAIN) == 0, "its slot and two ahead"
    agents.release("busy", "t")
    busy.drained = True
    placement.offer(busy)
    assert matched(agents, placement) == []


def test_placement_when_there_is_more_than_a_step_takes_then_that_is_said() -> None:
    agents, placement = Agents(), Placement()
    placement.offer(agent(agents, "a", slots=5))
    for order in range(3):
        placement.add(Waiting(f"t{order}", f"t{order}", TRAIN, "datasets/d", 0, order))
    leased: list[str] = []

    def lease(task: str, _: list[AgentEntry]) -> None:
        leased.append(task)
        placement.started(task, TRAIN, task)

    assert placement.match(lambda _: True, lease, most=2)
    assert leased == ["t0", "t1"]
    assert not placement.match(lambda _: True, lease, most=2)
    assert leased == ["t0", "t1", "t2"]


def test_agent_when_a_lease_is_taken_back_then_it_has_the_same_room_again() -> None:
    entry = agent(Agents(), "a")
    entry.most_ahead, entry.ahead = {TRAIN: 1}, {TRAIN: 1}
    assert [entry.given(TRAIN), entry.given(TRAIN)] == [False, True]
    assert (entry.free[TRAIN], entry.ahead[TRAIN]) == (0, 0)
    entry.taken_back(TRAIN, ahead=True)
    entry.taken_back(TRAIN, ahead=False)
    assert (entry.free[TRAIN], entry.ahead[TRAIN]) == (1, 1)


def test_placement_when_several_agents_are_free_then_work_spreads() -> None:
    agents, placement = Agents(), Placement()
    for name in ("a", "b", "c"):
        placement.offer(agent(agents, name, slots=2))
    for order in range(5):
        placement.add(Waiting(f"t{order}", f"t{order}", TRAIN, "datasets/d", 0, order))
    assert [name for _, name in matched(agents, placement)] == ["a", "b", "c", "a", "b"]


def test_placement_when_only_some_have_the_data_or_generator_then_those() -> None:
    agents, placement = Agents(), Placement()
    placement.offer(agent(agents, "a", datasets=("datasets/x",)))
    placement.offer(agent(agents, "b", datasets=("datasets/y",)))
    placement.add(Waiting("t1", "t1", TRAIN, "datasets/y", 0, 1))
    placement.add(Waiting("t2", "t2", TRAIN, "datasets/z", 9, 2))
    assert matched(agents, placement) == [("t1", "b")]
    placement.add(Waiting("g1", "g1", GENERATE, "generators/other", 0, 3))
    placement.add(Waiting("g2", "g2", GENERATE, make.GENERATOR, 0, 4))
    placement.add(Waiting("f", "f", GENERATE, "", 0, 5))
    assert matched(agents, placement, GENERATE) == [("g2", "a"), ("f", "b")]


def test_placement_when_agent_is_draining_or_gone_then_nothing() -> None:
    agents, placement = Agents(), Placement()
    first, second = agent(agents, "a"), agent(agents, "b")
    placement.offer(first)
    placement.offer(second)
    first.draining = True
    second.session = None
    placement.add(Waiting("t", "t", TRAIN, "datasets/d", 0, 1))
    assert matched(agents, placement) == []


def test_leases_when_beaten_then_expire_later_in_order() -> None:
    clock, leases = ManualClock(monotonic=0.0), Leases(30.0)
    for task in ("a", "b", "c"):
        leases.arm(task, "agents/a", 1, clock.monotonic())
        clock.advance(1.0)
    leases.beat("a", "agents/a", 1, clock.monotonic())
    assert (leases.was_beaten("a", "agents/a"), leases.was_beaten("b", "agents/a")) == (True, False)
    assert leases.next_deadline() == 31.0
    assert leases.expired(32.0) == [("b", "agents/a"), ("c", "agents/a")]
    leases.disarm("b", "agents/a")
    assert leases.expired(100.0) == [("c", "agents/a"), ("a", "agents/a")]


def test_backoff_when_failures_grow_then_jittered_below_the_doubling_cap() -> None:
    assert backoff_s(1, "t", 0) == 0.0
    for failures in range(1, 12):
        waits = [backoff_s(seed, "t", failures) for seed in range(200)]
        highest = min(60.0, 2.0 ** (failures - 1))
        assert 0 <= min(waits) < 0.1 * highest
        assert 0.9 * highest < max(waits) <= highest


def test_alarms_when_due_then_each_once() -> None:
    alarms = Alarms()
    alarms.set("late", 5.0)
    alarms.set("early", 1.0)
    assert alarms.next_deadline() == 1.0
    assert alarms.due(5.0) == ["early", "late"]
    assert alarms.due(9.0) == []


def change(sequence: int) -> watch.Change:
    return watch.Change(sequence, 0, 1, b"")


def test_watcher_when_it_does_not_read_then_dropped_and_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "QUEUE", 8)

    async def body() -> None:
        hub = watch.WatchHub()
        slow, quick = (hub.subscribe("s", 0, 0, ended=False) for _ in range(2))
        for sequence in range(1, 20):
            hub.publish("s", [change(sequence)], ended=False)
            assert pb.WatchSearchResponse.FromString(await quick.next() or b"") == change(sequence).message()
        with pytest.raises(Busy) as caught:
            await slow.next()
        assert caught.value.reason == "WATCHER_SLOW"

    asyncio.run(body())


def test_watcher_when_it_lags_then_progress_is_skipped_but_changes_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "QUEUE", 8)

    async def body() -> None:
        hub = watch.WatchHub()
        watcher = hub.subscribe("s", 0, 0, ended=False)
        for sequence in range(1, 6):
            hub.publish("s", [change(sequence)], ended=False)
            hub.publish_progress("s", pb.WatchSearchResponse(sequence=sequence, progress={}))
        hub.publish("s", [change(6)], ended=True)
        got = []
        while (encoded := await watcher.next()) is not None:
            got.append(pb.WatchSearchResponse.FromString(encoded))
        assert [m.sequence for m in got if not m.HasField("progress")] == [1, 2, 3, 4, 5, 6]
        assert sum(m.HasField("progress") for m in got) < 5

    asyncio.run(body())


def test_watcher_when_it_accepts_batches_then_what_waits_comes_as_few_messages_in_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watch, "BATCH", 4)
    monkeypatch.setattr(watch, "BATCH_BYTES", 400)
    bodies = [
        search_pb2.Trial(environment={"size": "x" * size}).SerializeToString()
        for size in (1, 9, 1, 1, 1, 500, 150, 150, 1)
    ]
    changes = [watch.Change(number, 7, number, body) for number, body in enumerate(bodies, 1)]

    async def messages(*, accepts_batches: bool) -> list[list[pb.WatchSearchResponse]]:
        hub = watch.WatchHub()
        watcher = hub.subscribe("s", 0, 0, ended=False, accepts_batches=accepts_batches)
        hub.publish("s", changes, ended=True)
        got = []
        while (encoded := await watcher.next()) is not None:
            message = pb.WatchSearchResponse.FromString(encoded)
            got.append(list(message.batch.changes) or [message])
        return got

    expected = [change.message() for change in changes]
    singles = asyncio.run(messages(accepts_batches=False))
    assert singles == [[message] for message in expected]
    batches = asyncio.run(messages(accepts_batches=True))
    assert [message for batch in batches for message in batch] == expected
    # By number, then by size: that of 500 bytes is more than a batch has; two of 150 and what follows fit again.
    assert [len(batch) for batch in batches] == [4, 1, 1, 3]


def test_history_when_full_then_older_is_compacted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "HISTORY", 3)
    hub = watch.WatchHub()
    for sequence in range(1, 7):
        hub.publish("s", [change(sequence)], ended=False)
    with pytest.raises(Compacted):
        hub.subscribe("s", 2, 6, ended=False)
    hub.subscribe("s", 3, 6, ended=False)
    with pytest.raises(Invalid):
        hub.subscribe("s", 7, 6, ended=False)


def test_failpoint_when_malformed_then_refused_and_unarmed_ones_do_nothing() -> None:
    for text in ("after_commit", "after_commit:explode", "somewhere:kill", "after_commit:kill:x"):
        with pytest.raises(Invalid):
            Failpoints(text)
    Failpoints().hit("after_commit")
    Failpoints("after_commit:kill:2").hit("after_commit")
    Failpoints("before_commit:kill").hit("after_commit")


def test_page_when_items_are_large_then_it_ends_before_a_message_would() -> None:
    items = [pb.WatchSearchResponse(trial={"note": "x" * 1_000_000}) for _ in range(8)]
    rows = [(str(index), lambda item=item: item) for index, item in enumerate(items)]
    taken, token = pages.take("k", 8, rows)
    assert len(taken) == 3
    assert pages.start_after("k", token) == "2"
    with pytest.raises(Invalid):
        pages.start_after("other", token)
