"""`admin migrate`: a whole journal from one place to another, SQLite to PostgreSQL and back; all of it or nothing."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from nasmesh.errors import Conflict, Unavailable
from scheduler.admin.copying import EPOCH_STEP, PART, examine, faults, locked_file, publish
from scheduler.journal import codec
from scheduler.journal.base import Reader
from scheduler.journal.contents import Digest, digest, write_file
from scheduler.journal.places import Place, reader_of
from scheduler.journal.reading import JournalReader


@dataclass(frozen=True, slots=True)
class Migrated:
    """What was moved. The digest is over every row of both, which are equal but for the epoch."""

    source: str
    target: str
    events: int
    rows: int
    answers: int
    sha256: str
    epoch: int


def migrate(source: Place, target: Place) -> Migrated:
    """Copy a journal that no scheduler uses to a place where there is none; the source stays as it was.

    The new epoch is far above the old: agents that have met a scheduler at the target refuse one at the source. Raises
    NotFound (JOURNAL_MISSING), Conflict (JOURNAL_EXISTS), Unavailable (JOURNAL_LOCKED, JOURNAL_IO), Invalid
    (JOURNAL_CORRUPT, JOURNAL_INCOMPLETE, JOURNAL_TOO_NEW). Where it fails or is killed, nothing is at the target.
    """
    with closing(reader_of(source)) as reader:
        reader.open()  # first, so that a source that is missing is not made by taking its lock
    with _held(source), closing(reader_of(source)) as reader:
        epoch = reader.open() + EPOCH_STEP
        if reader.lacks_log():
            raise codec.unreadable(f"{source}, whose -wal file with the last events is not beside it,")
        wanted = digest(reader)
        if isinstance(target, Path):
            _to_file(reader, epoch, target, wanted)
        else:
            from scheduler.journal.postgres_filling import fill  # here: the driver is for those who have a database

            filled, _ = fill(
                target, reader, lambda _: epoch, force=False, check=lambda written: _compare(written, wanted)
            )
            epoch = filled.epoch
    return Migrated(str(source), str(target), wanted.events, wanted.rows, wanted.answers, wanted.sha256, epoch)


def _to_file(reader: Reader, epoch: int, target: Path, wanted: Digest) -> None:
    part = target.with_name(target.name + PART)
    with faults(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with locked_file(target):
            if target.exists():
                raise Conflict("JOURNAL_EXISTS", f"journal {target} exists; name another place", field="to")
            try:
                write_file(reader, epoch, part)
                with closing(JournalReader(part)) as written:
                    written.open()
                    _compare(written, wanted)
                publish(part, target)
            finally:
                part.unlink(missing_ok=True)


def _compare(written: Reader, wanted: Digest) -> None:
    """Read what was written as a scheduler would, and compare it with the source."""
    examine(written)
    found = digest(written)
    if found != wanted:
        raise Unavailable(
            "MIGRATION_DIFFERS", f"what was written is not what was read ({found} for {wanted}); nothing was kept"
        )


@contextmanager
def _held(source: Place) -> Iterator[None]:
    """Keep schedulers from the source meanwhile: what they acknowledged would be missing at the target."""
    if isinstance(source, Path):
        with locked_file(source):
            yield
        return
    from scheduler.journal.postgres_filling import led

    with led(source):
        yield
