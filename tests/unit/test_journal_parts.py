"""Parts of the journal by themselves: rows of a snapshot, one transaction, what a write-ahead log says of itself."""

import itertools
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from nasmesh.v1 import generate_service_pb2, journal_pb2, search_pb2
from scheduler.domain import State
from scheduler.early_stopping import stopping_faults
from scheduler.facts import AttemptLeased, AttemptLost, SearchCancelled, SearchCreated
from scheduler.journal import codec, ended
from scheduler.journal.logfile import LogFile, read_log
from scheduler.journal.schema import event_crc, row_crc
from scheduler.journal.transaction import Transaction
from scheduler.wishes import TrialEnqueued
from tests.builders.scheduler_play import Play, spec

COMMITS = 6
HEADER, FRAME = 32, 24


def rows_of(state: State) -> list[tuple[str, bytes]]:
    return [(key, body) for key in sorted({*state.dirty, "state"}) if (body := codec.encode_row(state, key))]


def test_rows_when_an_enqueued_network_waits_for_its_admission_then_what_was_enqueued_is_kept() -> None:
    play = Play(spec())
    proposal = generate_service_pb2.Proposal(note="mine", train=play.run.spec.train)
    play.tell(TrialEnqueued("s", proposal))
    found = codec.decode_rows(rows_of(play.state))
    assert found == play.state
    assert found.tasks["s-t1-admit"].proposal == proposal


def test_rows_when_read_by_key_then_searches_come_in_the_order_of_their_creation() -> None:
    play = Play()
    for search in ("z", "m", "a"):
        play.tell(SearchCreated(search, spec()))
    assert list(codec.decode_rows(rows_of(play.state)).searches) == ["z", "m", "a"]


def test_rows_when_networks_before_others_are_gone_then_later_ones_keep_their_places() -> None:
    play = Play(spec(max_trials=3))
    play.propose(3)
    names = list(play.state.network_names)
    for index in (0, 2):
        del play.state.networks[names[index]]
    play.state.network_names[:] = ["", names[1]]  # as the deletion of another search leaves them
    found = codec.decode_rows([row for row in rows_of(play.state) if not row[0].startswith(("trial/", "ended/"))])
    assert found.network_names == ["", names[1]]
    assert found.networks == play.state.networks


def test_tasks_when_a_trial_has_ended_then_all_that_it_can_have_had_are_named() -> None:
    alone = ("s-t7-admit", "s-t7-profile", "s-t7-train", "s-t7-evaluate")
    assert ended.task_ids("s", 7) == alone
    assert ended.task_ids("s", 7, 2) == (
        *alone,
        *("s-t7-train-r1", "s-t7-evaluate-r1", "s-t7-train-r2", "s-t7-evaluate-r2"),
    )


def test_rows_when_a_search_compares_at_rungs_then_only_one_that_runs_has_its_ladder_back() -> None:
    wanted = spec(max_trials=2)
    wanted.early_stopping.asynchronous_halving.reduction = 2
    assert list(stopping_faults(wanted, 1000)) == []  # fills in the rungs
    play = Play(wanted)
    play.propose(2)
    assert codec.decode_rows(rows_of(play.state)).searches["s"].ladder is not None
    play.tell(SearchCancelled("s"))
    assert codec.decode_rows(rows_of(play.state)).searches["s"].ladder is None


def test_rows_when_read_then_it_is_known_which_stand_alone_and_which_are_of_a_later_moment() -> None:
    play = Play(spec(max_trials=2, parallelism=2))
    play.propose(2)
    rows = rows_of(play.state)
    later = ended.encode(play.state.sequence + 1, search_pb2.TRIAL_OUTCOME_SUCCEEDED, b"not looked at", b"")
    found = codec.read_rows([*rows, (ended.row_key("s", 1), later)])
    assert found.state == play.state
    assert found.later == {ended.row_key("s", 1)}
    assert found.alone == {"trial/s/1", "trial/s/2", "task/s-t1-train", "task/s-t2-train"}


def test_rows_when_attempts_failed_and_were_lost_then_both_are_counted_on() -> None:
    play = Play(spec(max_trials=1))
    play.propose(1)
    for counted in (True, False, False):
        play.tell(AttemptLeased("s-t1-train", "agents/a"))
        attempt = play.state.tasks["s-t1-train"].current().number
        failure = search_pb2.Failure(reason="GONE", retryable=True, counted=counted)
        play.tell(AttemptLost("s-t1-train", attempt, failure))
    found = codec.decode_rows(rows_of(play.state)).tasks["s-t1-train"]
    assert (found.counted, found.losses) == (1, 2)
    assert found == play.state.tasks["s-t1-train"]


def test_rows_when_results_stood_in_the_searchs_row_then_they_get_rows_of_their_own() -> None:
    play = Play(spec(max_trials=2))
    play.propose(2)
    play.score(1, 0.5)
    rows = dict(rows_of(play.state))
    old = journal_pb2.SearchRecord.FromString(rows["search/s"])
    old.results.extend(play.run.results)
    rows["search/s"] = old.SerializeToString()
    del rows["results/s/0"]
    found = codec.decode_rows(rows.items())
    assert found.searches["s"].results == [1]
    assert [key for key in found.dirty if key.startswith("results/")] == ["results/s/0"]


def database(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA wal_autocheckpoint = 0")
    db.execute("PRAGMA foreign_keys = ON")
    db.execute("CREATE TABLE one (id INTEGER PRIMARY KEY, other INTEGER REFERENCES one DEFERRABLE INITIALLY DEFERRED)")
    return db


def add_and_fail(db: sqlite3.Connection) -> None:
    with Transaction(db):
        db.execute("INSERT INTO one VALUES (1, NULL)")
        raise ValueError("half way")


def add_what_cannot_be_committed(db: sqlite3.Connection) -> None:
    with Transaction(db):
        db.execute("INSERT INTO one VALUES (1, 99)")


def test_transaction_when_its_block_or_its_commit_fails_then_undone_and_the_next_one_begins(tmp_path: Path) -> None:
    with closing(database(tmp_path / "a.db")) as db:
        with pytest.raises(ValueError, match="half way"):
            add_and_fail(db)
        assert not db.in_transaction
        with pytest.raises(sqlite3.IntegrityError):
            add_what_cannot_be_committed(db)
        assert not db.in_transaction
        with Transaction(db):
            db.execute("INSERT INTO one VALUES (2, NULL)")
        assert db.execute("SELECT id FROM one").fetchall() == [(2,)]


def log_of(folder: Path) -> Path:
    """Return a copy of the log of a database after some transactions, one of which takes several frames."""
    with closing(database(folder / "a.db")) as db:
        for number in range(COMMITS):
            with Transaction(db):
                count = 2000 if number == 2 else 1
                db.executemany("INSERT INTO one VALUES (NULL, NULL)", [()] * count)
        return Path(shutil.copy(folder / "a.db-wal", folder / "copy"))


def test_log_when_sound_then_each_transaction_is_counted_once(tmp_path: Path) -> None:
    commits = read_log(log_of(tmp_path)).commits
    assert len(commits) >= COMMITS
    assert list(commits) == sorted(set(commits))
    page = (tmp_path / "copy").stat().st_size - HEADER
    assert page % commits[-1] == 0, "the last frame ends a transaction"
    assert any(after - before > 1 for before, after in itertools.pairwise(commits))


def test_log_when_transactions_stand_behind_what_sqlite_takes_then_damaged_but_for_a_torn_last_one(
    tmp_path: Path,
) -> None:
    log = read_log(log_of(tmp_path))
    assert log.damage(log.commits[-1]) == ""
    assert log.damage(log.commits[-2]) == "", "a power cut tears the last one"
    assert "with 2 transactions behind the damage" in log.damage(log.commits[-3])
    assert f"with {len(log.commits)} transactions" in log.damage(0)


def test_log_when_missing_empty_short_or_reset_then_nothing_is_in_it(tmp_path: Path) -> None:
    for content in (None, b"", b"short", bytes(HEADER), bytes(5000)):
        path = tmp_path / "log"
        if content is not None:
            path.write_bytes(content)
        assert read_log(path) == LogFile()


@pytest.mark.parametrize("place", [0, 8, 16, 24, 31])
def test_log_when_a_byte_of_its_header_is_changed_then_damaged(tmp_path: Path, place: int) -> None:
    path = log_of(tmp_path)
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    log = read_log(path)
    assert log.broken
    assert "header" in log.damage(10**9)


def test_log_when_a_generation_is_over_then_its_frames_do_not_count(tmp_path: Path) -> None:
    path = log_of(tmp_path)
    content = bytearray(path.read_bytes())
    commits = read_log(path).commits
    frame = (len(content) - HEADER) // commits[-1]
    begin = HEADER + (commits[-1] - 1) * frame
    content[begin + 8] ^= 1  # the salt of another generation
    path.write_bytes(content)
    assert read_log(path).commits == commits[:-1]


def test_log_when_its_header_is_damaged_then_only_if_a_frame_is_behind_it(tmp_path: Path) -> None:
    path = log_of(tmp_path)
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    for size, is_broken in ((HEADER, False), (HEADER + FRAME, False), (HEADER + FRAME + 1, True)):
        path.write_bytes(content[:size])
        assert read_log(path).broken == is_broken, size


def test_checksums_when_computed_then_those_of_journals_that_are_out_there() -> None:
    assert event_crc(7, b"body") == 1182741259
    assert event_crc(7 + 2**32, b"body") == event_crc(7, b"body")
    assert row_crc("state", b"body") == 292638913
