"""The seam between the scheduler and whatever keeps its journal."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Answer:
    """What was answered to a request id: the digest of method and body, and the reply's bytes."""

    body_digest: bytes
    reply: bytes
    time_s: float


@dataclass(frozen=True, slots=True)
class Batch:
    """What one transaction writes: events with consecutive sequence numbers, answers, and rows of a snapshot.

    `rows` maps snapshot keys to bodies, empty for rows that are gone; when `snapshot_sequence` is set they bring the
    snapshot up to that event. Rows that say by themselves from which event on they count may come without it.
    """

    first_sequence: int
    events: tuple[bytes, ...]
    answers: Mapping[str, Answer] = field(default_factory=dict)
    rows: Mapping[str, bytes] = field(default_factory=dict)
    snapshot_sequence: int = 0


class Journal(Protocol):
    """An append-only log with one writer. `append` is all or nothing and durable when it returns.

    A journal is taken over by `open`, which raises the epoch; whoever held it before gets Stale (EPOCH_STALE) from then
    on. Not thread-safe: one thread uses it.
    """

    @property
    def kind_name(self) -> str:
        """What kind of journal this is: "sqlite", "postgres", "memory"."""
        ...

    def open(self) -> int:
        """Take the journal over and return the new epoch, once every answer has its checksum.

        Raises Unavailable (JOURNAL_LOCKED, JOURNAL_FULL, JOURNAL_IO), Invalid (JOURNAL_CORRUPT, JOURNAL_TOO_NEW).
        """
        ...

    def withdraw(self) -> None:
        """Take `open` back and close: the epoch is what it was, so that who is refused now is refused again."""
        ...

    def snapshot(self) -> tuple[int, Iterator[tuple[str, bytes]]]:
        """Return the sequence number that the snapshot stands at (0: none) and its rows in the order of keys."""
        ...

    def events(self, after: int) -> Iterator[tuple[int, bytes]]:
        """Return the events after a sequence number, in order; raises Invalid (JOURNAL_CORRUPT) at a gap."""
        ...

    def append(self, batch: Batch) -> None:
        """Write a batch durably, or nothing of it.

        Raises Unavailable (JOURNAL_FULL, JOURNAL_IO), Stale (EPOCH_STALE).
        """
        ...

    def settle(self) -> None:
        """Do now, when nobody waits for a reply, what a later commit would do besides; raises nothing.

        Never called while anything else of the journal is.
        """
        ...

    def answer(self, request_id: str) -> Answer | None:
        """Return what was answered to a request id, if it is still kept; raises Invalid (JOURNAL_CORRUPT)."""
        ...

    def forget_answers(self, before_s: float) -> None:
        """Drop answers given before a wall time."""
        ...

    def close(self) -> None:
        """Let the journal go."""
        ...


class Reader(Protocol):
    """A journal that is only read, live or not: one consistent moment from `open` on."""

    @property
    def schema(self) -> int:
        """The version of its tables, once it is open."""
        ...

    def open(self) -> int:
        """Return the epoch of the scheduler that had it last.

        Raises NotFound (JOURNAL_MISSING), Invalid (JOURNAL_CORRUPT, JOURNAL_TOO_NEW), Unavailable (JOURNAL_IO).
        """
        ...

    def snapshot(self) -> tuple[int, Iterator[tuple[str, bytes]]]:
        """Return the snapshot; see Journal."""
        ...

    def events(self, after: int) -> Iterator[tuple[int, bytes]]:
        """Return events; see Journal."""
        ...

    def base(self) -> tuple[int, Iterator[tuple[str, bytes]]]:
        """Return what compaction kept, as it is stored: a row without a body stands for the snapshot's."""
        ...

    def answers(self) -> Iterator[tuple[str, Answer]]:
        """Yield all answers in the order of request ids; raises Invalid (JOURNAL_CORRUPT) at a spoilt one."""
        ...

    def oldest(self) -> int:
        """Return the number of the first event that is kept; one more than the last where none is."""
        ...

    def last(self) -> int:
        """Return the number of the last event."""
        ...

    def origin(self) -> tuple[int, Iterator[tuple[str, bytes]]]:
        """Return where replay can begin: the sequence number and the rows of the state at that moment."""
        ...

    def damage(self) -> list[str]:
        """Return what is wrong with what no scheduler reads; nothing for a sound journal."""
        ...

    def events_checked(self) -> int:
        """Read every event that is kept against its checksum and return how many there are."""
        ...

    def check_still(self) -> None:
        """Raise Unavailable (JOURNAL_TAKEN) where what was read may not be one moment."""
        ...

    def lacks_log(self) -> bool:
        """Say whether what was acknowledged last is not there."""
        ...

    def size_bytes(self) -> int:
        """Return what it takes where it is stored."""
        ...

    def close(self) -> None:
        """Let it go."""
        ...
