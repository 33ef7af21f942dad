"""The planner of pools: properties over any pools, servers and work, and the cases that people would name."""

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.deployers.planner import BURST, Phase, Plan, Pool, Server, Spare, Work, plan
from scheduler.deployers.rules import GENERATE, TRAIN, PoolRules

NOW = 10_000.0
OWNERS = ("", "clients/ada", "clients/bob")
DIGITS, CIFAR = "datasets/digits", "datasets/cifar10"


def rules(name: str = "train", **more: object) -> PoolRules:
    return PoolRules(**{"name": name, "kind": TRAIN, "most": 4, **more})  # type: ignore[arg-type]


def server(name: str, phase: Phase, *, age: float = 0.0, attempts: int = 0, **more: bool) -> Server:
    return Server(name, phase, NOW - age, attempts, **more)


def one(pool: Pool, *works: Work, spares: Sequence[Spare] = (), outage: bool = False) -> Plan:
    return plan([pool], works, spares, NOW, outage=outage)[pool.rules.name]


def work(tasks: int, *, need: str = DIGITS, servers: int = 1, owner: str = "", kind: int = TRAIN) -> Work:
    return Work(kind, need, servers, owner, tasks)


@st.composite
def pools(draw: st.DrawFn, name: str) -> Pool:
    most = draw(st.integers(0, 6))
    made = PoolRules(
        name,
        TRAIN,
        most,
        least=draw(st.integers(0, most)),
        slots=draw(st.integers(1, 3)),
        cool_down_s=draw(st.sampled_from([0.0, 30.0])),
        start_timeout_s=60.0,
        takes_gangs=draw(st.booleans()),
        owner_limit=draw(st.integers(0, 3)),
        owner_limits=draw(st.dictionaries(st.sampled_from(OWNERS), st.integers(0, 3), max_size=2)),
    )
    servers = []
    for index in range(draw(st.integers(0, 8))):
        phase = draw(st.sampled_from(Phase))
        holds = phase in (Phase.BUSY, Phase.DRAINING, Phase.STARTING)
        attempts = draw(st.integers(1 if phase is Phase.BUSY else 0, 3)) if holds else 0
        age = draw(st.sampled_from([0.0, 10.0, 59.0, 61.0, 400.0]))
        was_here, leaves = draw(st.booleans()), draw(st.booleans())
        servers.append(Server(f"{name}-{index:06x}", phase, NOW - age, attempts, was_here, leaves))
    serves = draw(st.sampled_from([None, frozenset({DIGITS}), frozenset({CIFAR}), frozenset[str]()]))
    away = draw(st.sampled_from([False, False, True]))
    may_start, known = draw(st.sampled_from([0, 1, BURST])), draw(st.booleans())
    return Pool(made, tuple(servers), serves, may_start, known, away, draw(st.sampled_from([0, 4, 8])))


WORKS = st.lists(
    st.builds(
        Work,
        st.sampled_from([TRAIN, GENERATE]),
        st.sampled_from([DIGITS, CIFAR, ""]),
        st.integers(1, 5),
        st.sampled_from(OWNERS),
        st.integers(0, 9),
        st.sampled_from([0, 0, 4, 9]),
    ),
    max_size=6,
)
SPARES = st.lists(st.builds(Spare, st.just(TRAIN), st.integers(0, 3), gives_bytes=st.sampled_from([0, 4])), max_size=3)
WORLDS = st.tuples(pools("a"), pools("b"))


@settings(max_examples=150, deadline=None)
@given(WORLDS, WORKS, SPARES, st.booleans())
def test_whatever_there_is_no_rule_is_broken(
    world: tuple[Pool, Pool], works: list[Work], spares: list[Spare], outage: bool
) -> None:
    plans = plan(world, works, spares, NOW, outage=outage)
    for pool in world:
        found, by_name = plans[pool.rules.name], {s.name: s for s in pool.servers}
        told = [*found.undrain, *found.drain, *found.stop]
        assert len(set(told)) == len(told), "two orders for one server"
        assert set(told) <= set(by_name)
        # Nothing that holds work is ever stopped.
        assert all(not by_name[name].attempts for name in found.stop)
        # Only the idle are drained, unless the pool was made smaller than it is.
        live = [s for s in pool.servers if s.phase in (Phase.BUSY, Phase.IDLE, Phase.STARTING, Phase.PENDING)]
        if len(live) <= pool.rules.most:
            assert all(by_name[name].phase is Phase.IDLE for name in found.drain)
            assert all(NOW - by_name[name].since >= pool.rules.cool_down_s for name in found.drain)
        # Never above the bound, and never below the least on purpose.
        assert pool.rules.least <= found.wanted <= pool.rules.most
        if found.start:
            assert len(pool.servers) + found.start <= pool.rules.most
        assert found.start <= pool.may_start
        assert not (outage and found.start)
        staying = [s for s in live if s.name not in {*found.drain, *found.stop}]
        lost = [s for s in pool.servers if s.phase is Phase.STARTING and NOW - s.since > pool.rules.start_timeout_s]
        assert len(staying) + len(lost) >= min(len(live), found.wanted)
        if pool.away:
            assert found == Plan(found.wanted), "nothing is done where the engine gives no answer"
            continue
        # What is missing is started, as far as that may be.
        useful = len([s for s in live if s not in lost or s.attempts]) + len(found.undrain)
        room = pool.rules.most - len(pool.servers)
        if not outage:
            assert found.start == max(0, min(found.wanted - useful, room, pool.may_start))


@settings(max_examples=60, deadline=None)
@given(pools("a"), WORKS)
def test_an_owner_never_makes_a_pool_larger_than_its_limit(pool: Pool, works: list[Work]) -> None:
    for owner in OWNERS:
        own = [w for w in works if w.owner == owner]
        assert one(pool, *own).wanted <= max(pool.rules.least, pool.rules.most_for(owner))


@settings(max_examples=60, deadline=None)
@given(pools("a"), WORKS)
def test_work_that_does_not_fit_starts_nothing(pool: Pool, works: list[Work]) -> None:
    unfit = [w for w in works if not pool.fits(w)]
    assert one(pool, *unfit) == one(pool)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 4), st.integers(1, 40), st.integers(1, 10))
def test_a_pool_is_as_large_as_its_work_takes(slots: int, tasks: int, most: int) -> None:
    found = one(Pool(rules(most=most, slots=slots)), work(tasks))
    assert found.wanted == min(most, -(-tasks // slots))


def test_to_zero_and_back() -> None:
    idle = Pool(rules(), (server("train-1", Phase.IDLE, age=61.0), server("train-2", Phase.IDLE, age=59.0)))
    assert one(idle) == Plan(0, drain=("train-1",))
    drained = Pool(rules(), (server("train-1", Phase.DRAINING),))
    assert one(drained) == Plan(0, stop=("train-1",))
    assert one(Pool(rules())) == Plan(0)
    assert one(Pool(rules()), work(2)) == Plan(2, start=2)


def test_a_busy_server_that_drains_is_waited_for() -> None:
    assert one(Pool(rules(), (server("train-1", Phase.DRAINING, attempts=1),))) == Plan(0)


def test_a_draining_server_is_called_back_before_another_is_started() -> None:
    drained = (server("train-1", Phase.DRAINING, attempts=1), server("train-2", Phase.DRAINING))
    assert one(Pool(rules(), drained), work(1)) == Plan(1, undrain=("train-1",), stop=("train-2",))


def test_a_server_that_somebody_else_drained_is_left_to_go() -> None:
    gone = server("train-1", Phase.DRAINING, leaves=True)
    assert one(Pool(rules(), (gone,)), work(1)) == Plan(1, start=1, stop=("train-1",))


def test_below_its_least_a_pool_is_filled_without_work() -> None:
    assert one(Pool(rules(least=2), (server("train-1", Phase.BUSY, attempts=1),))) == Plan(2, start=1)


def test_gangs_count_as_many_servers_as_they_take() -> None:
    gang = work(1, servers=3)
    assert one(Pool(rules(takes_gangs=True, slots=4)), gang).start == 3
    assert one(Pool(rules(takes_gangs=True, slots=4)), work(2, servers=3)).start == 3  # two places on each
    assert one(Pool(rules(takes_gangs=True)), work(2, servers=2)).start == 4
    assert one(Pool(rules(takes_gangs=False)), gang).start == 0
    assert one(Pool(rules(takes_gangs=True, most=2)), gang).start == 0
    assert one(Pool(rules(takes_gangs=True, owner_limit=2)), gang).start == 0


def test_work_that_needs_memory_starts_servers_that_give_it_and_no_others() -> None:
    small, large, unknown = (
        Pool(rules(name), gives_bytes=gives) for name, gives in (("small", 4), ("large", 8), ("unknown", 0))
    )
    needing = Work(TRAIN, DIGITS, 1, "", 2, 6)
    plans = plan([small, unknown, large], [needing], [], NOW)
    assert {name: found.start for name, found in plans.items()} == {"small": 0, "unknown": 0, "large": 2}
    for spare, started in ((Spare(TRAIN, 2, gives_bytes=4), 2), (Spare(TRAIN, 2, gives_bytes=6), 0)):
        assert one(large, needing, spares=[spare]).start == started


def test_a_training_over_several_processes_has_as_many_slots_of_one_server() -> None:
    wide = Work(TRAIN, DIGITS, 1, "", 3, slots=2)
    assert one(Pool(rules()), wide).wanted == 0
    assert one(Pool(rules(slots=2)), wide).start == 3
    assert one(Pool(rules(slots=5)), wide).start == 2
    assert one(Pool(rules(slots=2)), wide, spares=[Spare(TRAIN, 1), Spare(TRAIN, 4)]).start == 1
    assert one(Pool(rules(slots=3)), wide, work(2)).start == 3  # one slot of each is left for those
    assert one(Pool(rules(slots=2, owner_limit=1)), wide).start == 1


def test_servers_of_nobodys_pool_are_used_first() -> None:
    spare = Spare(TRAIN, 2, frozenset({DIGITS}))
    assert one(Pool(rules()), work(3), spares=[spare]).start == 1
    assert one(Pool(rules()), work(3, need=CIFAR), spares=[spare]).start == 3


def test_work_goes_to_servers_that_are_there_before_a_preferred_pool_grows() -> None:
    first, second = Pool(rules("first")), Pool(rules("second"), (server("second-1", Phase.BUSY, attempts=1),))
    plans = plan([first, second], [work(1)], [], NOW)
    assert (plans["first"].start, plans["second"].wanted) == (0, 1)
    plans = plan([first, second], [work(6)], [], NOW)
    assert (plans["first"].start, plans["second"].wanted) == (4, 2)


def test_a_pool_whose_engine_is_away_keeps_what_its_servers_do_and_leaves_the_rest_to_others() -> None:
    busy = (server("first-1", Phase.BUSY, attempts=1), server("first-2", Phase.IDLE, age=1000.0))
    first, second = Pool(rules("first"), busy, away=True), Pool(rules("second"))
    assert plan([first, second], [work(6)], [], NOW) == {"first": Plan(2), "second": Plan(4, start=4)}
    assert plan([first, second], [work(1)], [], NOW) == {"first": Plan(1), "second": Plan(0)}


def test_two_owners_share_a_pool_within_their_limits() -> None:
    pool = Pool(rules(most=10, owner_limit=2, owner_limits={"clients/bob": 5}))
    assert one(pool, work(9, owner="clients/ada"), work(9, owner="clients/bob")).start == 7


def test_a_server_that_does_not_come_is_replaced_and_counts_as_failed() -> None:
    late = server("train-1", Phase.STARTING, age=121.0)
    assert one(Pool(rules(), (late,)), work(1)) == Plan(1, start=1, stop=("train-1",), late=("train-1",))
    lost = server("train-1", Phase.STARTING, age=121.0, was_here=True)
    assert one(Pool(rules(), (lost,)), work(1)) == Plan(1, start=1, stop=("train-1",))
    holds = server("train-1", Phase.STARTING, age=121.0, attempts=1, was_here=True)
    assert one(Pool(rules(), (holds,)), work(1)) == Plan(1)


def test_what_waits_at_its_engine_is_withdrawn_when_nobody_wants_it_any_more() -> None:
    waits = (server("train-1", Phase.PENDING, age=300.0), server("train-2", Phase.PENDING, age=70.0))
    assert one(Pool(rules(), waits)) == Plan(0, stop=("train-2", "train-1"))
    assert one(Pool(rules(), waits), work(1)) == Plan(1, stop=("train-2",))
    assert one(Pool(rules(), (server("train-1", Phase.PENDING, age=5.0),))) == Plan(0)


def test_a_pool_that_was_made_smaller_lets_the_least_busy_go_when_they_are_done() -> None:
    busy = (server("train-1", Phase.BUSY, attempts=2), server("train-2", Phase.BUSY, attempts=1))
    assert one(Pool(rules(most=1, slots=2), busy), work(3)) == Plan(1, drain=("train-2",))
    assert set(one(Pool(rules(most=0), busy), work(3)).drain) == {"train-1", "train-2"}


def test_a_generate_pool_is_known_once_before_it_may_go_to_none() -> None:
    generate = rules("gen", kind=GENERATE)
    assert one(Pool(generate, known=False)) == Plan(1, start=1)
    assert one(Pool(generate, known=True)) == Plan(0)
    assert one(Pool(rules(), known=False)) == Plan(0)


def test_while_the_store_is_down_nothing_grows() -> None:
    assert one(Pool(rules()), work(3), outage=True) == Plan(3)


def test_an_external_pool_is_only_told() -> None:
    assert one(Pool(rules(external=True, most=3)), work(9)) == Plan(3)


def test_one_of_an_external_generate_pool_is_asked_for_until_it_is_known_what_it_offers() -> None:
    offers = rules(kind=GENERATE, external=True, most=3)
    assert one(Pool(offers, known=False)) == Plan(1)
    assert one(Pool(offers)) == Plan(0)
