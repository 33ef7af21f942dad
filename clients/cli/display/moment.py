"""What `nasmesh top` shows: the mesh at one moment, and how fast it has gone since the moment before."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from nasmesh.client import Client
from nasmesh.clock import Clock
from nasmesh.v1 import scheduler_service_pb2 as pb
from nasmesh.v1.search_pb2 import Search

# More rows than any terminal has; a mesh of thousands must not be listed whole every two seconds.
AGENTS = 300
SEARCHES = 50
_OPEN = ("RUNNING", "FINALIZING", "PAUSED")

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Rates:
    """Per second since the moment before."""

    tasks: float
    events: float
    commits: float


@dataclass(frozen=True, slots=True)
class Moment:
    """The mesh as it was at `at_s` (monotonic) and `wall_s`."""

    at_s: float
    wall_s: float
    info: pb.GetServerInfoResponse
    agents: tuple[pb.Agent, ...]
    searches: tuple[Search, ...]


def look(client: Client, clock: Clock) -> Moment:
    """Ask a scheduler what it is doing; raises what the client raises."""
    info = client.server_info()
    found = (item for state in _OPEN for item in client.list_searches(filter=f"state={state}"))
    searches = tuple(islice(found, SEARCHES))
    agents = tuple(islice(client.agents(), AGENTS))
    return Moment(clock.monotonic(), clock.wall(), info, tuple(sorted(agents, key=_busiest)), searches)


def rates(before: Moment | None, now: Moment) -> Rates | None:
    """Return how fast the scheduler has gone; None without a moment before of the same boot."""
    if before is None or before.info.epoch != now.info.epoch or now.at_s <= before.at_s:
        return None
    seconds = now.at_s - before.at_s
    old, new = before.info.activity, now.info.activity
    return Rates(
        (new.outcomes_recorded - old.outcomes_recorded) / seconds,
        (new.events - old.events) / seconds,
        (new.commits - old.commits) / seconds,
    )


def ended_trials(search: Search) -> int:
    """Return how many trials of a search have ended."""
    counts = search.trials
    return counts.succeeded + counts.infeasible + counts.failed + counts.stopped + counts.lost


def progress(search: Search) -> float | None:
    """Return how much of its budget of trials or iterations a search has used, 0 to 1; None where it has neither."""
    return max(_shares(search), default=None)


def _shares(search: Search) -> Iterator[float]:
    budget = search.spec.budget
    if budget.max_trials:
        yield min(1.0, ended_trials(search) / budget.max_trials)
    if budget.max_iterations:
        yield min(1.0, search.iterations / budget.max_iterations)


def _busiest(agent: pb.Agent) -> tuple[bool, int, str]:
    return not agent.connected, -len(agent.attempts), agent.name


def counts_line(counts: Iterable[tuple[str, int]]) -> str:
    """Return reasons with their numbers, most frequent first."""
    return ", ".join(f"{reason} {count:,}" for reason, count in sorted(counts, key=lambda item: (-item[1], item[0])))
