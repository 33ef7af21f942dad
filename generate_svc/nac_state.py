"""What NAC remembers between two calls, and its form as bytes."""

from collections.abc import Mapping
from dataclasses import dataclass

from generate_svc.settings import Json
from generate_svc.state import dump_state, load_state, unreadable
from nasmesh.errors import Invalid
from nasmesh.spaces.envelope_network import Cell, EnvelopeNetwork, decode, encode
from nasmesh.v1 import space_pb2

_VERSION = 1


@dataclass(frozen=True, slots=True)
class NacState:
    """The network under way and how it came about.

    `iteration` restructurings led to `network`, proposed `retries` + 1 times, the last time as `pending`; it descends
    from trial `parent`. `rankings` are the branch ids per restructured stage of the iteration before, first to prune
    first, and `stable` counts the successive iterations in which they did not change.
    """

    network: EnvelopeNetwork
    pending: str
    iteration: int = 0
    retries: int = 0
    parent: str = ""
    note: str = ""
    rankings: tuple[tuple[str, ...], ...] = ()
    stable: int = 0


def dump(state: NacState) -> bytes:
    """Return the state as bytes; equal states give equal bytes."""
    stages: list[list[Json]] = [
        [{"id": cell.id, "branches": cell.branches, "skips": cell.skips} for cell in stage]
        for stage in state.network.stages
    ]
    content: dict[str, Json] = {
        "network": stages,
        "pending": state.pending,
        "iteration": state.iteration,
        "retries": state.retries,
        "parent": state.parent,
        "note": state.note,
        "rankings": state.rankings,
        "stable": state.stable,
    }
    return dump_state(content, _VERSION)


def load(state: bytes, space: space_pb2.EnvelopeSpace) -> NacState:
    """Return the state of a complete space; raises Invalid (STATE_UNREADABLE) for what `dump` did not write."""
    content = load_state(state, _VERSION)
    try:
        network = EnvelopeNetwork(
            tuple(
                tuple(_cell(cell) for cell in _items(stage, "a stage"))
                for stage in _items(content["network"], "network")
            )
        )
        rankings = tuple(tuple(_texts(ranking)) for ranking in _items(content["rankings"], "rankings"))
        known = NacState(
            network=network,
            pending=_text(content["pending"]),
            iteration=_count(content["iteration"]),
            retries=_count(content["retries"]),
            parent=_text(content["parent"]),
            note=_text(content["note"]),
            rankings=rankings,
            stable=_count(content["stable"]),
        )
        same = decode(space, encode(space, network)) == network
    except (KeyError, ValueError, IndexError) as error:
        raise unreadable("not a state of nac") from error
    except Invalid as error:
        if error.reason == "STATE_UNREADABLE":
            raise
        raise unreadable(f"its network is not of this space: {error.message}") from error
    if not same:
        raise unreadable("its network is not of this space")
    return known


def _cell(item: Json) -> Cell:
    if not isinstance(item, Mapping):
        raise unreadable("a cell is no object")
    return Cell(_text(item["id"]), tuple(_texts(item["branches"])), tuple(_texts(item["skips"])))


def _items(value: Json, what: str) -> list[Json]:
    if not isinstance(value, list):
        raise unreadable(f"{what} is no list")
    return value


def _texts(value: Json) -> list[str]:
    return [_text(item) for item in _items(value, "a list of ids")]


def _text(value: Json) -> str:
    if not isinstance(value, str):
        raise unreadable(f"{value!r:.40} is no text")
    return value


def _count(value: Json) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise unreadable(f"{value!r:.40} is no count")
    return value
