"""How much one owner may have at once. Raises Busy (QUOTA_EXCEEDED) that names the quota and the way out."""

from dataclasses import dataclass

from nasmesh import limits
from nasmesh.errors import Busy
from nasmesh.rpc.identity import Identity
from scheduler.domain import OPEN_SEARCHES, SearchRun, State

_RETRY_S = 30.0


@dataclass(frozen=True, slots=True)
class Quotas:
    """What one owner may have at once: searches that have not ended, networks in them that wait or are in work."""

    open_searches: int = limits.OPEN_SEARCHES
    queued_networks: int = limits.QUEUED_NETWORKS


QUOTAS = Quotas()


def check_open_searches(state: State, caller: Identity, most: int) -> None:
    """Refuse one search too many of a client; admins, and everybody on a local server, are not counted."""
    if caller.sees_all:
        return
    held = len(_open(state, caller.name))
    if held >= most:
        raise Busy(
            "QUOTA_EXCEEDED",
            f"{caller.name} has {held} open searches, at most {most} at once: wait for one to end, or cancel one",
            retry_after_s=_RETRY_S,
            metadata={"quota": "open_searches", "limit": str(most)},
        )


def check_queued_networks(state: State, owner: str, most: int) -> None:
    """Refuse more networks of an owner than the queues shall hold."""
    held = sum(run.in_work for run in _open(state, owner))
    if held >= most:
        raise Busy(
            "QUOTA_EXCEEDED",
            f"{owner or 'this scheduler'} has {held} networks waiting or in work, at most {most}"
            " at once: wait for trials to end",
            retry_after_s=_RETRY_S,
            metadata={"quota": "queued_networks", "limit": str(most)},
        )


def _open(state: State, owner: str) -> list[SearchRun]:
    return [run for run in state.searches.values() if run.state in OPEN_SEARCHES and run.owner == owner]
