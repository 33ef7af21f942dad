"""`nasmesh admin` on real journals: what it finds, what it tells, and that it never harms what it reads."""

import json
import sqlite3
from functools import partial
from pathlib import Path

import pytest

from nasmesh.errors import NotFound
from nasmesh.limits import LEASE_S
from nasmesh.settings import read_settings
from nasmesh.store.keys import ObjectKind
from nasmesh.store.memory import MemoryStore
from nasmesh.v1 import dispatch_service_pb2 as pb
from nasmesh.v1 import journal_pb2
from scheduler.admin.checking import check
from scheduler.admin.compacting import compact
from scheduler.admin.explaining import explain
from scheduler.admin.places import existing, store_beside
from tests.builders import journals
from tests.builders import scheduling as make
from tests.builders.admin_runs import Run, runner
from tests.builders.journals import Past, recovered


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run the program as `nasmesh admin` does."""
    monkeypatch.setenv("NASMESH_HOME", str(tmp_path / "home"))
    return runner(capsys)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


# --- check ----------------------------------------------------------------------------------------------------------


def test_check_when_a_scheduler_is_at_work_then_sound_and_nothing_touched(path: Path, run: Run) -> None:
    past = Past(path)
    past.create("s", max_trials=6)
    past.work("s", until=5)
    before = past.engine.state.epoch, path.read_bytes()
    code, out, _ = run("check", "--journal", f"sqlite:{path}", "--json")
    found = json.loads(out)
    assert (code, found["violations"]) == (0, [])
    assert (found["epoch"], found["lastEvent"]) == (1, past.engine.state.sequence)
    assert found["searches"] == {"RUNNING": 1}
    assert before == (past.engine.state.epoch, path.read_bytes())
    past.work("s")  # the lock and the epoch are still the scheduler's
    past.close()
    code, out, _ = run("check", "--journal", path)
    assert code == 0
    assert "violations: none" in out
    assert not path.with_name("journal.db-wal").exists(), "a file at rest is read without leaving a log beside it"


def test_check_when_snapshot_and_events_disagree_then_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scheduler.engine.SNAPSHOT_EVENTS", 10)
    journals.ended(path)
    assert check(path).violations == []
    with sqlite3.connect(path) as db:
        body = db.execute("SELECT body FROM snapshot WHERE key = 'search/s'").fetchone()[0]
    record = journal_pb2.SearchRecord.FromString(body)
    record.device_time_s += 1.0
    journals.edit_row(path, "search/s", record.SerializeToString())
    found = check(path).violations
    assert [violation.invariant for violation in found] == ["I11"]
    assert "state.searches[s].device_time_s is" in found[0].what


def test_check_when_a_task_breaks_a_promise_then_its_story_is_told(path: Path, run: Run) -> None:
    past = Past(path)
    past.create("s", max_trials=2)
    past.work("s")
    past.close()
    for sequence, body in journals.events_of(path).items():
        event = journal_pb2.JournalEvent.FromString(body)
        if event.outcome_reported.outcome.HasField("train"):
            event.outcome_reported.digest = b""  # succeeded without a recorded outcome
            journals.edit_event(path, sequence, event.SerializeToString())
    code, out, _ = run("check", "--journal", path)
    assert code == 1
    assert "VIOLATION I2: succeeded without its last attempt's outcome: task s-t1-train (TRAIN) is SUCCEEDED" in out
    assert "violations: 2" in out


def test_check_when_an_event_is_flipped_then_file_damage(path: Path) -> None:
    journals.ended(path)
    with sqlite3.connect(path) as db:
        db.execute("UPDATE event SET body = zeroblob(length(body)) WHERE sequence = 4")
    report = check(path)
    assert [violation.invariant for violation in report.violations] == ["FILE"]
    assert "event 4 does not have its checksum" in report.violations[0].what


def test_check_when_a_store_is_given_then_every_object_is_read(path: Path) -> None:
    store = MemoryStore()
    kinds = {"networks": ObjectKind.NETWORK, "checkpoints": ObjectKind.CHECKPOINT}

    def stored(lease: pb.Lease) -> pb.AttemptOutcome:
        outcome = make.make_outcome(lease)
        for trial in outcome.generate.trials:
            trial.network.object.CopyFrom(store.put(kinds["networks"], trial.network.name.encode()))
        if outcome.HasField("train"):
            for part in (outcome.train.checkpoint, outcome.train.model):
                part.CopyFrom(store.put(kinds["checkpoints"], part.key.encode()))
        return outcome

    past = Past(path)
    past.create("s", max_trials=3)
    past.work("s", stored)
    trial = past.engine.state.searches["s"].trials[1]
    past.close()
    report = check(path, store)
    assert (report.violations, report.objects) == ([], 9)
    store._objects[trial.checkpoint.key] = b"something else"
    del store._objects[trial.model.key]
    found = check(path, store).violations
    assert [violation.invariant for violation in found] == ["I9", "I9"]
    assert all("searches/s/trials/2" in violation.what for violation in found)


def test_check_when_there_is_no_journal_then_not_found(path: Path, run: Run) -> None:
    code, out, err = run("check", "--journal", path, "--json")
    assert (code, json.loads(out)["error"]["reason"]) == (4, "JOURNAL_MISSING")
    assert err.startswith("error: journal: there is no file")
    assert run("check", "--journal", "memory:")[0] == 2
    journals.ended(path)
    store = path.with_name("no-store")
    code, out, _ = run("check", "--journal", path, "--store", f"dir:{store}", "--json")
    assert (code, json.loads(out)["error"]["reason"], store.exists()) == (4, "STORE_MISSING", False)


# --- explain --------------------------------------------------------------------------------------------------------


def test_explain_when_a_trial_had_a_hard_life_then_all_of_it_is_told(path: Path, run: Run) -> None:
    past = Past(path)
    past.create("s", max_trials=1, parallelism=1)
    past.work("s", until=1)
    (lease,) = past.leases()
    beat = pb.AgentHeartbeat()
    beat.attempts.add(token=lease.token, checkpoint=make.make_ref("kept", "checkpoints"))
    past.do(partial(past.desk.heartbeat, past.entry, beat))
    past.report(make.make_failure(lease))
    past.clock.advance(10.0)
    past.do()
    assert past.leases()
    past.clock.advance(100.0)  # the lease runs out
    past.do()
    past.clock.advance(100.0)
    past.work("s")
    past.close()
    story = explain(path, "s-t1-train")
    told = [line.what for line in story.lines]
    assert told == ["created", "leased", "checkpoint stored", "failed", "leased", "lost", "leased", "trained"]
    assert story.lines[0].details["proposal_id"] == "1-0"
    assert story.lines[0].details["by"] == "the outcome of s-g1, attempt 1"
    assert story.lines[3].details["reason"] == "CHILD_CRASHED"
    assert story.lines[3].followed == ("queued s-t1-train after 1 failures",)
    assert story.lines[5].details["reason"] == "LEASE_EXPIRED"
    assert story.lines[7].followed == ("queued s-t1-evaluate",)
    whole = explain(path, "searches/s/trials/1")
    assert [line.what for line in whole.lines][-2:] == ["leased", "scored"]
    assert "trial 1 is SUCCEEDED" in whole.lines[-1].followed
    code, out, _ = run("explain", "searches/s/trials/1", "--journal", path)
    assert code == 0
    assert "leased: agent agents/past, attempt 3, epoch 1" in out
    assert json.loads(run("explain", "s-t1-train", "--journal", path, "--json")[1])["lines"][1]["what"] == "leased"


def test_explain_when_no_device_gave_what_a_training_needs_then_both_numbers_are_told(path: Path, run: Run) -> None:
    past = Past(path)
    past.create("s", max_trials=1, parallelism=1)
    past.work("s", until=1)
    (lease,) = past.leases()
    past.report(make.make_infeasible(lease, given=100, needed=300))
    past.clock.advance(LEASE_S)
    past.do()
    past.close()
    told = explain(path, "s-t1-train").lines[-2:]
    assert [line.what for line in told] == ["found infeasible", "given by no device what it needs"]
    assert told[0].details["needed_memory_bytes"] == 300
    assert told[0].followed == ("queued s-t1-train",)
    assert told[1].details == {"largest_bytes": 0}
    assert "trial 1 is INFEASIBLE" in told[1].followed
    assert run("check", "--journal", path)[0] == 0


def test_explain_when_nobody_knows_it_then_not_found(path: Path, run: Run) -> None:
    journals.ended(path)
    for subject in ("s-t99-train", "searches/s/trials/99", "searches/none/trials/1"):
        with pytest.raises(NotFound):
            explain(path, subject)
    assert run("explain", "../etc", "--journal", path)[0] == 2


def test_flags_when_wrong_then_one_sentence_and_the_error_object(path: Path, run: Run) -> None:
    for wrong in (("chekc",), ("check", "--journl", path), ("explain",), ("check", "--jour", path)):
        code, out, err = run(*wrong, "--json")
        assert (code, json.loads(out)["error"]["reason"]) == (2, "USAGE")
        assert err.startswith("error: ")
        assert err.endswith("see nasmesh admin --help\n") or err.endswith(f"see nasmesh admin {wrong[0]} --help\n")
        assert err.count("\n") == 1


def test_store_when_none_is_given_then_ours_where_it_is_there(tmp_path: Path) -> None:
    settings = read_settings({"NASMESH_HOME": str(tmp_path)})
    assert store_beside("", settings) == ""
    (tmp_path / "objects").mkdir()
    assert store_beside("", settings) == existing(str(tmp_path / "objects")) == f"dir:{tmp_path / 'objects'}"
    with pytest.raises(NotFound, match="there is no directory"):
        store_beside(str(tmp_path / "none"), settings)


# --- compact --------------------------------------------------------------------------------------------------------


def test_compact_when_a_search_is_open_then_its_events_stay_and_the_state_is_the_same(path: Path) -> None:
    past = Past(path)
    past.create("old", max_trials=40)
    past.work("old")
    past.create("open", max_trials=4)
    past.work("open", until=3)
    past.close()
    before = recovered(path)
    before.journal.close()
    done = compact(path)
    assert done.open_searches == ("searches/open",)
    kept = sorted(journals.events_of(path))
    last = before.state.sequence + 1  # compaction took the journal over, as a boot does
    assert (len(kept), kept[-1]) == (done.kept, last)
    report = check(path)
    assert (report.violations, report.origin, report.snapshot_at) == ([], done.dropped, last)
    assert compact(path).dropped == 0, "a second time finds nothing to do"
    past = Past(path)
    past.work("open")
    assert past.engine.state.searches["open"].state.name == "SUCCEEDED"
    assert past.engine.state.searches["old"] == before.state.searches["old"]
    past.close()
    assert check(path).violations == []
    assert explain(path, "open-t1-train").lines[0].what == "created"


def test_compact_when_all_have_ended_then_no_event_is_left_and_what_needs_them_says_so(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduler.engine.SNAPSHOT_EVENTS", 10)
    journals.ended(path, max_trials=60)
    before = recovered(path)
    before.journal.close()
    done = compact(path)
    assert (done.kept, done.open_searches) == (0, ())
    assert done.bytes_after < done.bytes_before
    assert journals.events_of(path) == {}
    story = explain(path, "s-t1-train")
    assert (story.lines, story.compacted) == ([], before.state.sequence + 1)
    assert "succeeded" in story.stands[0].lower()
    past = Past(path)
    assert past.engine.state.searches == before.state.searches
    past.create("later", max_trials=20)
    past.work("later")
    past.close()
    report = check(path)
    assert (report.violations, report.origin) == ([], before.state.sequence + 1), "later ones replay from there"
    assert report.snapshot_at > report.origin
    assert compact(path).dropped > 0
    assert check(path).violations == []


def test_compact_when_a_scheduler_is_at_work_then_refused(path: Path, run: Run) -> None:
    past = Past(path)
    code, _, err = run("compact", "--journal", path)
    assert code == 3
    assert "stop that one first" in err
    past.close()
