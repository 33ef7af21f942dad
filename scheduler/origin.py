"""Where the network of a search comes from that takes one over from another: checked and filled in at its creation."""

from nasmesh import ids
from nasmesh.errors import Invalid, NotFound
from nasmesh.rpc.identity import Identity
from nasmesh.v1 import search_pb2
from scheduler.domain import State
from scheduler.ownership import is_visible

_FIELD = "spec.transfer"


def complete_transfer(spec: search_pb2.SearchSpec, state: State, caller: Identity) -> None:
    """Fill in whose network a search takes over, and the weights that go with it.

    Raises Invalid (SPEC_INVALID, NAME_INVALID), NotFound (TRIAL_UNKNOWN).
    """
    if not spec.HasField("transfer"):
        return
    given = spec.transfer
    search, number = ids.parse_trial(given.trial, field=f"{_FIELD}.trial")
    run = state.searches.get(search)
    if run is None or number > len(run.trials) or not is_visible(caller, run.owner):
        raise NotFound("TRIAL_UNKNOWN", f"{_FIELD}.trial: there is no trial {given.trial}", field=f"{_FIELD}.trial")
    trial = run.trials[number - 1]
    if not trial.network.name:
        raise _wrong("trial", f"{given.trial} has no network; name one that was admitted")
    if given.inherit_weights and not trial.HasField("checkpoint"):
        raise _wrong("inherit_weights", f"{given.trial} has no trained weights; wait for it, or leave this unset")
    filled = search_pb2.Transfer(trial=given.trial, network=trial.network.name, inherit_weights=given.inherit_weights)
    if given.inherit_weights:
        filled.weights.CopyFrom(trial.checkpoint)
    for name in ("network", "weights"):
        if _is_set(given, name) and getattr(given, name) != getattr(filled, name):
            raise _wrong(name, f"is not that of {given.trial}; leave it unset, it is filled in")
    given.CopyFrom(filled)


def _is_set(message: search_pb2.Transfer, name: str) -> bool:
    return any(field.name == name for field, _ in message.ListFields())


def _wrong(name: str, what: str) -> Invalid:
    field = f"{_FIELD}.{name}"
    return Invalid("SPEC_INVALID", f"{field}: {what}", field=field)
