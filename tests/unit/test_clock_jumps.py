"""Wall clocks that are wrong by ten years: nothing that decides anything reads them."""

from functools import partial
from pathlib import Path

import pytest

from nasmesh import limits
from nasmesh.clock import ManualClock
from nasmesh.errors import Conflict
from nasmesh.v1 import dispatch_service_pb2 as pb
from nasmesh.v1 import scheduler_service_pb2 as api
from scheduler import invariants
from scheduler.admin.checking import check
from scheduler.admin.explaining import explain
from scheduler.domain import SearchState
from tests.builders import scheduling as make
from tests.builders.journals import Past

YEARS = 10 * 365.25 * 86400.0
NOW = 1_700_000_000.0
JUMPS = [(YEARS, -YEARS), (-YEARS, YEARS), (YEARS, 2 * YEARS)]


def at(path: Path, wall: float, monotonic: float) -> Past:
    """Boot on a machine whose clocks say this; a reboot starts the monotonic one anew."""
    return Past(path, ManualClock(monotonic=monotonic, wall=wall))


@pytest.mark.parametrize("jumps", JUMPS)
def test_budget_when_clocks_jump_between_and_during_runs_then_uptime_counts(
    tmp_path: Path, jumps: tuple[float, float]
) -> None:
    path = tmp_path / "journal.db"
    past = at(path, NOW, 1000.0)
    spec = make.make_spec(max_trials=1000)
    spec.budget.max_wall_time_s = 100.0
    past.create("s", spec=spec)
    past.clock.advance(60.0)
    past.create("fact-1")  # the last fact carries the uptime into the journal
    past.close()
    past = at(path, NOW + jumps[0], 3.0)
    past.clock.advance(20.0)
    past.clock.set_wall(NOW + jumps[1])
    past.create("fact-2")
    past.close()
    past = at(path, NOW + jumps[0], 1e9)
    run = past.engine.state.searches["s"]
    past.clock.advance(19.0)
    past.do()
    assert run.state is SearchState.RUNNING
    assert run.stop_reason == ""
    past.clock.set_wall(NOW + jumps[1])
    past.clock.advance(1.5)
    past.do()
    assert run.stop_reason.startswith("max_wall_time_s reached: 100.5 of 100.0 s")
    invariants.check(past.engine.state)
    past.close()
    assert check(path).violations == []


@pytest.mark.parametrize("jumps", JUMPS)
def test_lease_when_the_wall_clock_jumps_then_neither_lost_nor_prolonged(
    tmp_path: Path, jumps: tuple[float, float]
) -> None:
    path = tmp_path / "journal.db"
    past = at(path, NOW, 50.0)
    past.create("s", max_trials=4)
    (lease,) = past.leases()
    task = past.engine.state.tasks[lease.token.task]
    for jump in jumps:
        past.clock.set_wall(NOW + jump)
        past.clock.advance(limits.LEASE_S / 3)
        past.do()
        assert (task.state.name, len(task.attempts)) == ("RUNNING", 1)
    past.clock.advance(limits.LEASE_S / 3 + 0.1)
    past.do()
    assert task.attempts[0].failure is not None
    assert task.attempts[0].failure.reason == "LEASE_EXPIRED"
    past.close()
    assert [line.what for line in explain(path, "s-g1").lines] == ["created", "leased", "lost"]


@pytest.mark.parametrize("jump", [YEARS, -YEARS])
def test_request_id_when_the_clock_jumped_over_a_restart_then_still_known(tmp_path: Path, jump: float) -> None:
    path = tmp_path / "journal.db"
    past = at(path, NOW, 5.0)
    request = api.CreateSearchRequest(search_id="s", spec=make.make_spec(), request_id="once")
    first = past.do(partial(past.searches.create, request))
    past.close()
    past = at(path, NOW + jump, 5.0)
    past.clock.advance(limits.REQUEST_KEEP_S / 2)
    past.do()
    again = past.do(partial(past.searches.create, request))
    assert again == first
    assert list(past.engine.state.searches) == ["s"]
    other = api.CreateSearchRequest(search_id="t", spec=make.make_spec(), request_id="once")
    with pytest.raises(Conflict, match="it was used for another request") as caught:
        past.do(partial(past.searches.create, other))
    assert caught.value.reason == "REQUEST_ID_REUSED"
    cancel = api.CancelSearchRequest(name="searches/s", request_id="once")
    with pytest.raises(Conflict):
        past.do(partial(past.searches.cancel, cancel))
    assert past.engine.state.searches["s"].state is SearchState.RUNNING
    past.close()


def test_request_id_when_schedulers_were_up_for_longer_than_it_is_kept_then_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    past = at(path, NOW, 5.0)
    past.create("s")
    past.clock.advance(limits.REQUEST_KEEP_S + 100.0)
    past.create("later")  # facts carry the uptime into the journal
    past.close()
    past = at(path, NOW, 5.0)
    assert past.engine.answered("create-s") is None
    assert past.engine.answered("create-later") is not None
    past.close()


def test_outcome_when_it_comes_after_a_jump_then_recorded_once(tmp_path: Path) -> None:
    past = at(tmp_path / "journal.db", NOW, 5.0)
    past.create("s", max_trials=2)
    (lease,) = past.leases()
    past.clock.set_wall(NOW - YEARS)
    outcome = make.make_outcome(lease)
    for disposition in (pb.OUTCOME_DISPOSITION_RECORDED, pb.OUTCOME_DISPOSITION_DUPLICATE):
        past.session.sent.clear()
        past.report(outcome)
        replies = [m.outcome_reply for m in past.session.sent if m.HasField("outcome_reply")]
        assert [reply.disposition for reply in replies] == [disposition]
    past.work("s")
    past.close()
    assert check(tmp_path / "journal.db").violations == []
