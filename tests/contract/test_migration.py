"""`nasmesh admin` over journals in PostgreSQL, and `migrate` between both kinds: the same journal, or nothing."""

import json
import os
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from nasmesh.clock import ManualClock
from nasmesh.errors import Conflict, Invalid, NotFound, Unavailable
from scheduler.admin.checking import check
from scheduler.admin.compacting import compact
from scheduler.admin.copying import EPOCH_STEP, backup, restore
from scheduler.admin.explaining import explain
from scheduler.admin.migrating import migrate
from scheduler.engine import Engine
from scheduler.journal.contents import digest
from scheduler.journal.places import Place, journal_of, place_of, reader_of
from scheduler.journal.postgres_url import PostgresPlace
from tests.builders import journals
from tests.builders.admin_runs import runner
from tests.e2e.mesh import ROOT


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A journal of SQLite at rest: a search that ended, one at work."""
    path = tmp_path / "journal.db"
    journals.one_of_each(path)
    return path


@pytest.fixture
def place(database: str) -> PostgresPlace:
    found = place_of(database)
    assert isinstance(found, PostgresPlace)
    return found


def sha256(at: Place) -> str:
    with closing(reader_of(at)) as reader:
        reader.open()
        return digest(reader).sha256


def state(at: Place) -> tuple[object, ...]:
    """Return what a scheduler that starts there has, and end it."""
    engine = Engine(journal_of(at), ManualClock(), seed=1)
    engine.recover()
    found = engine.state
    told = dict(found.searches), list(found.tasks.items()), list(found.networks.items())
    engine.journal.close()
    return told


def test_journal_when_migrated_there_and_back_then_the_same_but_for_the_epoch(
    file: Path, place: PostgresPlace, tmp_path: Path
) -> None:
    before = file.read_bytes()
    there = migrate(file, place)
    assert file.read_bytes() == before, "the source stays as it was"
    assert there.sha256 == sha256(file) == sha256(place)
    assert (there.events, there.rows > 0, there.answers) == (check(file).last_event, True, 2)
    assert check(place).violations == []
    assert (check(place).epoch, there.epoch) == (1 + EPOCH_STEP, 1 + EPOCH_STEP)
    back = migrate(place, tmp_path / "back.db")
    assert back.sha256 == there.sha256
    assert sorted(path.name for path in tmp_path.glob("back.db*")) == ["back.db", "back.db.lock"]
    assert state(file) == state(place) == state(tmp_path / "back.db")


def test_migrate_when_a_search_is_open_then_it_goes_on_at_the_target(file: Path, place: PostgresPlace) -> None:
    migrate(file, place)
    past = journals.Past(journal_of(place))
    past.work("open")
    assert past.engine.state.searches["open"].state.name == "SUCCEEDED"
    past.close()
    report = check(place)
    assert (report.violations, report.searches) == ([], {"SUCCEEDED": 2})


def test_migrate_when_there_is_one_already_or_half_of_one_then_refused(
    file: Path, place: PostgresPlace, database: str, tmp_path: Path
) -> None:
    migrate(file, place)
    for source, target in ((file, place), (place, file)):
        with pytest.raises(Conflict) as caught:
            migrate(source, target)
        assert caught.value.reason == "JOURNAL_EXISTS"
    with psycopg.connect(database, autocommit=True) as db:
        db.execute("DROP TABLE nasmesh.snapshot")
    for act in (lambda: migrate(file, place), lambda: migrate(place, tmp_path / "other.db")):
        with pytest.raises(Invalid, match="DROP SCHEMA nasmesh CASCADE") as refused:
            act()
        assert refused.value.reason == "JOURNAL_INCOMPLETE"
    assert not (tmp_path / "other.db").exists()


def test_migrate_when_source_is_missing_in_use_or_damaged_then_refused_and_nothing_made(
    file: Path, place: PostgresPlace, tmp_path: Path
) -> None:
    with pytest.raises(NotFound):
        migrate(tmp_path / "none.db", place)
    assert list(tmp_path.glob("none*")) == []
    journal = journal_of(file)
    journal.open()
    with closing(journal), pytest.raises(Unavailable, match="stop that one"):
        migrate(file, place)
    lock = file.with_name("journal.db.lock")
    lock.unlink()
    lock.mkdir()
    with pytest.raises(Unavailable, match="check path, owner and space") as unlocked:
        migrate(file, place)
    assert unlocked.value.reason == "JOURNAL_IO"
    lock.rmdir()
    journals.edit_event(file, 7, b"\xff")
    with pytest.raises(Invalid):
        migrate(file, place)
    with closing(reader_of(place)) as reader, pytest.raises(NotFound):
        reader.open()


@pytest.mark.parametrize("moment", ["COPY nasmesh.event", "UPDATE nasmesh.epoch", "digest"])
def test_migrate_when_killed_then_nothing_is_there_and_again_all_of_it(
    file: Path, place: PostgresPlace, database: str, moment: str
) -> None:
    """`kill -9` at some statement of it, or as all is written and being read back."""
    script = f"""
import os, signal, sys
import psycopg
from scheduler.admin import migrating
from scheduler.journal.places import place_of
def dies(*args, **kwargs): os.kill(os.getpid(), signal.SIGKILL)
if {moment!r} == "digest":
    migrating._compare = dies
else:
    for kind, name in ((psycopg.Connection, "execute"), (psycopg.Cursor, "copy")):
        def wrapped(self, query, *args, _before=getattr(kind, name), **kwargs):
            text = query if isinstance(query, str) else query.as_string(None).replace('"', "")
            return dies() if text.startswith({moment!r}) else _before(self, query, *args, **kwargs)
        setattr(kind, name, wrapped)
migrating.migrate(place_of(sys.argv[1]), place_of(sys.argv[2]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(file), database], cwd=ROOT, capture_output=True, timeout=60, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    with closing(reader_of(place)) as reader, pytest.raises(NotFound):
        reader.open()
    assert migrate(file, place).sha256 == sha256(file)


def test_admin_when_the_journal_is_a_database_then_every_command_does_as_with_a_file(
    file: Path, place: PostgresPlace, database: str, tmp_path: Path
) -> None:
    migrate(file, place)
    assert check(place).violations == check(file).violations == []
    assert explain(place, "ended-t1-train").lines == explain(file, "ended-t1-train").lines
    copied = backup(place, tmp_path / "copy.db")
    assert sha256(tmp_path / "copy.db") == sha256(place)
    done = compact(place)
    assert (done.dropped > 0, done.open_searches) == (True, ("searches/open",))
    report = check(place)
    assert (report.violations, report.origin, report.first_event) == ([], done.dropped, done.dropped + 1)
    compacted = sha256(place)
    again = migrate(place, tmp_path / "compacted.db")
    assert again.sha256 == compacted
    assert check(tmp_path / "compacted.db").violations == []
    with pytest.raises(Conflict):
        restore(tmp_path / "copy.db", place)
    restored = restore(tmp_path / "copy.db", place, force=True)
    assert (restored.last_event, restored.aside) == (copied.last_event, "schema nasmesh_before_1")
    assert restored.epoch == report.epoch + EPOCH_STEP
    assert sha256(place) == sha256(tmp_path / "copy.db")
    with psycopg.connect(database, autocommit=True) as db:
        db.execute("DROP SCHEMA nasmesh CASCADE")
    assert migrate(file, place).sha256 == sha256(file), "the one kept aside is nobody else's"


def test_command_when_run_then_one_object_and_no_secret(
    file: Path, database: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NASMESH_HOME", str(tmp_path / "home"))
    run = runner(capsys)
    code, out, err = run("migrate", "--from", f"sqlite:{file}", "--to", database, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["sha256"] == sha256(file)
    assert "passfile" not in out
    code, out, err = run("migrate", "--from", f"sqlite:{file}", "--to", database)
    assert (code, "exists" in err) == (5, True)
    code, out, _ = run("check", "--journal", database)
    assert (code, "violations: none" in out, "passfile" in out) == (0, True, False)
    assert run("migrate", "--from", "memory:", "--to", database)[0] == 2
    assert os.environ.get("NASMESH_JOURNAL") is None
