"""Encodes facts one after the other; the two that every task has are put together from parts that are bytes already.

A message's bytes are its fields one after the other, so that the times, which all facts of a step share, are encoded
once. What comes out is the same, byte for byte, as what `codec.encode_event` makes; a test compares them.
"""

from nasmesh.v1 import journal_pb2 as pb
from scheduler.facts import AttemptLeased, Event, OutcomeReported
from scheduler.fields import SMALL, sized
from scheduler.journal import codec

_LEASED = bytes([pb.JournalEvent.ATTEMPT_LEASED_FIELD_NUMBER << 3 | 2])
_REPORTED = bytes([pb.JournalEvent.OUTCOME_REPORTED_FIELD_NUMBER << 3 | 2])
# Fields 1 and 2 of the messages below, both of which hold bytes.
_FIRST, _SECOND = b"\x0a", b"\x12"


class EventEncoder:
    """Keeps the bytes of the last times."""

    def __init__(self) -> None:
        """Know no times."""
        self._times: tuple[int, float] | None = None
        self._head = b""

    def encode(self, event: Event) -> bytes:
        """Return an event's bytes."""
        change = event.change
        kind = type(change)
        if kind is not AttemptLeased and kind is not OutcomeReported:
            return codec.encode_event(event)
        if self._times != (event.time_us, event.uptime_s):
            self._times = event.time_us, event.uptime_s
            self._head = pb.JournalEvent(time_us=event.time_us, uptime_s=event.uptime_s).SerializeToString()
        if isinstance(change, AttemptLeased):
            task, agent = change.task.encode(), change.agent.encode()
            if not task or not agent or change.members:  # empty fields are left out
                return codec.encode_event(event)
            size, other = len(task), len(agent)
            if size + other > 120:
                return self._head + _LEASED + sized(_FIRST + sized(task) + _SECOND + sized(agent))
            inner = SMALL[size + other + 4] + _FIRST + SMALL[size] + task + _SECOND + SMALL[other] + agent
            return self._head + _LEASED + inner
        assert isinstance(change, OutcomeReported)
        body = change.body if change.body is not None else change.outcome.SerializeToString()
        second = _SECOND + sized(change.digest) if change.digest else b""
        return self._head + _REPORTED + sized(_FIRST + sized(body) + second)
