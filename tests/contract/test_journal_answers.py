"""Kept answers to request ids that were spoilt: never given out, never a half start, told in a sentence."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from nasmesh.errors import Conflict, Invalid
from scheduler.admin.checking import check
from scheduler.admin.compacting import compact
from scheduler.admin.copying import backup, restore
from scheduler.admin.migrating import migrate
from scheduler.journal.answers import answer_crc
from scheduler.journal.base import Answer, Batch
from scheduler.journal.contents import digest
from scheduler.journal.places import Place, journal_of, reader_of
from scheduler.journal.postgres_url import PostgresPlace, parse
from tests.builders import journals

ANSWER = Answer(b"digest of body", b"the reply", 12.5)
WORDS = "the answer to request id {!r} does not have its checksum"
# What is done to the row of "r", and the request id that it has then.
SPOILS = {
    "request_id": ("request_id = 's'", "s"),
    "request_id emptied": ("request_id = ''", ""),
    "body_digest": ("body_digest = {bytes}646967657374206f6620626f6478'", "r"),
    "reply": ("reply = {bytes}7468652072657071'", "r"),
    "reply emptied": ("reply = {bytes}'", "r"),
    "time_s": ("time_s = 12.25", "r"),
    "time_s long ago": ("time_s = 0", "r"),
    "crc": ("crc = crc # 1", "r"),
    "a byte from one column to the next": (
        "body_digest = {bytes}646967657374206f6620626f647974', reply = {bytes}6865207265706c79'",
        "r",
    ),
}


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "postgres":
        return parse(request.getfixturevalue("database"))
    return tmp_path / "journal.db"


def by_hand(place: Place, statement: str) -> None:
    """Do something to a journal past everything of ours; # is exclusive or, {bytes}…' a literal, '…' a text."""
    if isinstance(place, PostgresPlace):
        with psycopg.connect(**place.parameters, autocommit=True) as db:  # type: ignore[arg-type]
            done = db.execute(statement.format(bytes=r"'\x").replace("nasmesh_", "nasmesh.").encode())
            assert done.rowcount == 1
        return
    with closing(sqlite3.connect(place)) as file, file:
        statement = statement.replace("nasmesh_", "").replace("crc # 1", "(crc | 1) - (crc & 1)")
        assert file.execute(statement.format(bytes="x'")).rowcount == 1


def written(place: Place) -> None:
    """Write a journal at rest with three answers."""
    with closing(journal_of(place)) as journal:
        journal.open()
        others = {"a": Answer(b"d", b"first", 1.0), "z": Answer(b"d", b"last", 2.0)}
        journal.append(Batch(1, (b"event",), {**others, "r": ANSWER}))


def epoch(place: Place) -> int:
    with closing(reader_of(place)) as reader:
        return reader.open()


def refusal(act: Callable[[], object]) -> str:
    """Return the words of a refusal for damage."""
    with pytest.raises(Invalid, match="restore") as caught:
        act()
    assert caught.value.reason == "JOURNAL_CORRUPT"
    assert caught.value.field == "journal"
    return caught.value.message


def digested(place: Place) -> str:
    with closing(reader_of(place)) as reader:
        reader.open()
        return digest(reader).sha256


@pytest.mark.parametrize("name", SPOILS)
def test_answer_when_a_column_is_spoilt_then_told_wherever_it_is_met(place: Place, tmp_path: Path, name: str) -> None:
    change, request_id = SPOILS[name]
    words = WORDS.format(request_id)
    written(place)
    with closing(journal_of(place)) as journal:
        before = journal.open()
        assert journal.answer("r") == ANSWER
        by_hand(place, f"UPDATE nasmesh_answer SET {change} WHERE request_id = 'r'")
        assert words in refusal(lambda: journal.answer(request_id))
        if request_id != "r":
            assert journal.answer("r") is None
        assert journal.answer("a") == Answer(b"d", b"first", 1.0), "the others are given all the same"
        journal.append(Batch(2, (b"event",), {"new": Answer(b"d", b"new", 3.0)}))
    for _ in range(2):
        with closing(journal_of(place)) as refused:
            assert words in refusal(refused.open)
    assert epoch(place) == before, "it was no start"
    assert words in refusal(lambda: digested(place))
    assert words in refusal(lambda: backup(place, tmp_path / "backup.db"))
    target = tmp_path / "other.db"
    assert words in refusal(lambda: migrate(place, target))
    assert sorted(path.name for path in tmp_path.glob("*.db")) == (["journal.db"] if isinstance(place, Path) else [])


def test_answer_when_spoilt_and_asked_for_at_a_scheduler_then_neither_given_nor_acted_on_and_work_goes_on(
    place: Place,
) -> None:
    past = journals.Past(journal_of(place))
    past.create("s", max_trials=2)
    past.create("other", max_trials=2)
    past.create("s", max_trials=2)
    with pytest.raises(Conflict, match="used for another request"):
        past.create("s", max_trials=3)
    by_hand(place, "UPDATE nasmesh_answer SET body_digest = {bytes}00' WHERE request_id = 'create-s'")
    for trials in (2, 3):
        assert WORDS.format("create-s") in refusal(lambda n=trials: past.create("s", max_trials=n))  # type: ignore[misc]
    past.create("other", max_trials=2)
    past.create("third", max_trials=2)
    past.work("s")
    assert past.engine.state.searches["s"].state.name == "SUCCEEDED"
    assert sorted(past.engine.state.searches) == ["other", "s", "third"]
    past.close()
    report = check(place)
    assert [(found.invariant, WORDS.format("create-s") in found.what) for found in report.violations] == [
        ("FILE", True)
    ]
    assert WORDS.format("create-s") in refusal(lambda: journals.Past(journal_of(place)))
    assert WORDS.format("create-s") in refusal(lambda: compact(place))
    by_hand(place, "DELETE FROM nasmesh_answer WHERE request_id = 'create-s'")
    assert check(place).violations == []
    past = journals.Past(journal_of(place))
    past.create("other", max_trials=2)
    past.close()


def test_answer_when_a_backup_of_a_file_has_a_spoilt_one_then_not_restored(place: Place, tmp_path: Path) -> None:
    source = tmp_path / "source.db"
    journals.one_of_each(source)
    by_hand(source, "UPDATE answer SET time_s = 3.5 WHERE request_id = 'create-open'")
    assert WORDS.format("create-open") in refusal(lambda: restore(source, place))
    with closing(reader_of(place)) as reader, pytest.raises(Exception, match="there is no"):
        reader.open()


@pytest.mark.parametrize(
    "change",
    [
        "body_digest = CAST(body_digest AS TEXT)",
        "reply = 7",
        "reply = CAST(x'ff00' AS TEXT)",
        "time_s = 'then'",
        "time_s = x'00'",
        "crc = 'none'",
        "request_id = CAST(request_id AS BLOB)",
        "request_id = CAST(x'ff' AS TEXT)",
    ],
)
def test_answer_when_a_value_has_another_type_then_damaged_and_no_other_error(tmp_path: Path, change: str) -> None:
    path = tmp_path / "journal.db"
    written(path)
    by_hand(path, f"UPDATE answer SET {change} WHERE request_id = 'r'")
    refusal(journal_of(path).open)
    assert check(path).violations[0].invariant == "FILE"


def test_answer_when_a_value_cannot_be_read_then_the_log_does_not_show_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "journal.db"
    written(path)
    by_hand(path, "UPDATE answer SET reply = CAST('private' || x'ff' AS TEXT) WHERE request_id = 'r'")
    assert "a value in it cannot be read" in refusal(journal_of(path).open)
    told = capsys.readouterr().err
    assert "journal_error" in told
    assert "private" not in told


def test_answer_when_a_request_id_in_the_database_is_no_text_then_damaged(database: str) -> None:
    place = parse(database)
    written(place)
    by_hand(place, "UPDATE nasmesh_answer SET request_id = {bytes}ff' WHERE request_id = 'r'")
    assert "is no text" in refusal(journal_of(place).open)
    assert "is no text" in check(place).violations[0].what


def test_answers_when_many_are_written_at_once_then_each_has_its_checksum(place: Place) -> None:
    kept = {f"{n} ☃": Answer(bytes([n]) * n, b"r" * (n * 7), -0.0 if n == 5 else n / 3) for n in range(140)}
    with closing(journal_of(place)) as journal:
        journal.open()
        journal.append(Batch(1, (b"event",), kept))
    with closing(journal_of(place)) as journal:
        journal.open()
        assert {key: journal.answer(key) for key in kept} == kept
    with closing(reader_of(place)) as reader:
        reader.open()
        assert dict(reader.answers()) == kept


def test_checksum_when_computed_then_that_of_journals_that_are_out_there() -> None:
    assert answer_crc("r", ANSWER) == 448926511
    assert answer_crc("r", Answer(b"", b"", -0.0)) == answer_crc("r", Answer(b"", b"", 0.0))
    found = {
        answer_crc(request_id, answer)
        for request_id, answer in (
            ("r", ANSWER),
            ("s", ANSWER),
            ("rd", Answer(b"igest of body", b"the reply", 12.5)),
            ("r", Answer(b"digest of bodyt", b"he reply", 12.5)),
            ("r", Answer(b"digest of body", b"the replz", 12.5)),
            ("r", Answer(b"digest of body", b"the reply", 12.500000000000002)),
        )
    }
    assert len(found) == 6
