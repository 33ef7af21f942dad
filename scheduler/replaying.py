"""One event of the journal after the other, back into the state; what contradicts is damage, and named as such."""

from scheduler.domain import State
from scheduler.effects import Effect, IllegalTransitionError
from scheduler.facts import Event
from scheduler.journal import codec
from scheduler.machine import apply


def replay_event(state: State, sequence: int, body: bytes) -> tuple[Event, list[Effect]]:
    """Apply an event of the journal to the state; raises Invalid (JOURNAL_CORRUPT) where it cannot follow."""
    event = codec.decode_event(sequence, body)
    try:
        return event, apply(state, event)
    except (IllegalTransitionError, LookupError, ValueError) as error:
        raise codec.unreadable(f"event {sequence} contradicts what is before it ({error}), so it") from error
