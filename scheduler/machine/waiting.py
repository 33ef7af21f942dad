"""What becomes of trials that wait for an equal one that is being measured, of whatever search. Pure.

Who waits has no task, counts as under way in its own search, and has the same digest as the one that it waits for. That
one has a task, so nobody waits in a circle; it is not of a held search, nor of one with a lower priority.
"""

from scheduler.domain import SearchRun, State
from scheduler.effects import Work
from scheduler.machine import reuse, searching, trials


def settle(work: Work) -> None:
    """Carry on with those that waited for what has come to an end in this event: measured, or not."""
    while work.settled:
        digest, work.settled = work.settled[0], work.settled[1:]
        if digest in work.state.measured:
            _take_over(work, digest)
        elif digest in work.state.waiting and digest not in work.state.measuring:
            _release_first(work, digest)


def rearrange(work: Work) -> None:
    """After a wish: let nobody wait for a search that is held, or that comes after its own."""
    state = work.state
    for digest in list(state.waiting):
        leader = state.searches[state.measuring[digest][0]]
        if not reuse.serves(leader, state.searches[_by_turn(state, digest)[0][0]]):
            _release_first(work, digest)


def _take_over(work: Work, digest: bytes) -> None:
    state = work.state
    for search, number in _by_turn(state, digest) if digest in state.waiting else ():
        if (search, number) not in state.waiting.get(digest, ()):
            continue  # its search has ended with one before it
        run = _released(work, search, number)
        trials.measure(work, run, run.trials[number - 1], digest)
        searching.advance(work, run)


def _release_first(work: Work, digest: bytes) -> None:
    """Have the first of those that wait trained; the others wait for it from now on."""
    search, number = _by_turn(work.state, digest)[0]
    run = _released(work, search, number)
    reuse.lead(work.state, run, number, digest)
    trials.queue(work, run, run.trials[number - 1])


def _released(work: Work, search: str, number: int) -> SearchRun:
    run = work.state.searches[search]
    reuse.stop_waiting(work.state, run, number)
    trials.mark(work, run, number)
    return run


def _by_turn(state: State, digest: bytes) -> list[tuple[str, int]]:
    """Return who waits for a digest: those that are not held, by priority and age, then the held ones."""

    def turn(place: tuple[str, int]) -> tuple[bool, int, int, str, int]:
        run = state.searches[place[0]]
        created = run.trials[place[1] - 1].create_time.ToMicroseconds()
        return run.paused, -run.spec.priority, created, *place

    return sorted(state.waiting[digest], key=turn)
