"""Which objects the state names. Read in slices, so that nobody waits for the whole of it."""

from collections.abc import Iterator
from functools import partial

from google.protobuf.message import Message

from nasmesh.store.keys import bare, keys_within
from nasmesh.v1 import object_pb2
from scheduler.core import Core
from scheduler.domain import SearchRun, State, TaskKind
from scheduler.machine.tasks import name_of

# Trials read in one command: some milliseconds.
_SLICE = 250


async def referenced(core: Core, *, but: str = "") -> set[str]:
    """Return the keys, without extension, of every object that the state names; `but`: not by this search.

    What is named while this runs may be missed: it was put a moment ago, and its age protects it.
    """
    state = core.engine.state
    found: set[str] = set()
    if not but:  # with a search its own networks go, unless others name them in their trials
        names = [name for name in state.network_names if name]
        for begin in range(0, len(names), _SLICE):
            found |= await core.submit(partial(_of_networks, core, names[begin : begin + _SLICE]))
    for search in [name for name in state.searches if name != but]:
        found |= await core.submit(partial(_of_search, core, search))
        run = state.searches.get(search)
        for begin in range(0, len(run.trials) if run is not None else 0, _SLICE):
            found |= await core.submit(partial(_of_trials, core, search, begin))
    return found


async def manifests(core: Core) -> list[object_pb2.ObjectRef]:
    """Return the manifests that data sets and searches name, each once."""

    def read() -> list[object_pb2.ObjectRef]:
        state = core.engine.state
        refs = [dataset.manifest for dataset in state.datasets.values()]
        refs += [run.spec.data.manifest for run in state.searches.values() if run.spec.data.HasField("manifest")]
        return list({ref.key: ref for ref in refs}.values())

    return await core.submit(read)


async def owned(core: Core, search: str) -> dict[str, int]:
    """Return the objects that a search's trials name: keys without extension, with sizes."""
    found: dict[str, int] = {}
    for begin in range(0, len(core.engine.state.searches[search].trials), _SLICE):
        refs = await core.submit(partial(_refs_of_trials, core, search, begin))
        found.update((bare(ref.key), ref.size_bytes) for ref in refs)
    return found


def refs_of(message: Message) -> Iterator[object_pb2.ObjectRef]:
    """Yield every reference within a message."""
    if isinstance(message, object_pb2.ObjectRef):
        if message.key:
            yield message
        return
    for field, value in message.ListFields():
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        for part in value if field.is_repeated else [value]:
            yield from refs_of(part)


def _of_networks(core: Core, names: list[str]) -> set[str]:
    networks = core.engine.state.networks
    return {bare(networks[name].object.key) for name in names if name in networks}


def _of_search(core: Core, search: str) -> set[str]:
    """Return what a search names besides its trials: in its specification, and in its generator's state."""
    run = core.engine.state.searches.get(search)
    return keys_within(run.spec.SerializeToString()) | keys_within(run.generator_state) if run is not None else set()


def _of_trials(core: Core, search: str, begin: int) -> set[str]:
    state = core.engine.state
    run = state.searches.get(search)
    found: set[str] = set()
    for message in _messages(state, run, begin) if run is not None else ():
        found |= keys_within(message.SerializeToString())
    return found


def _refs_of_trials(core: Core, search: str, begin: int) -> list[object_pb2.ObjectRef]:
    state = core.engine.state
    run = state.searches.get(search)
    messages = _messages(state, run, begin) if run is not None else ()
    return [ref for message in messages for ref in refs_of(message)]


def _messages(state: State, run: SearchRun, begin: int) -> Iterator[Message]:
    """Yield a slice of a search's trials, with what their tasks name besides."""
    for trial in (run.trials[index] for index in range(begin, min(begin + _SLICE, len(run.trials)))):
        yield trial
        training = state.tasks.get(name_of(run.id, trial.number, TaskKind.TRAIN, len(trial.rungs)))
        if training is not None and training.checkpoint is not None:
            yield training.checkpoint
        admission = state.tasks.get(name_of(run.id, trial.number, TaskKind.GENERATE)) if trial.enqueued else None
        if admission is not None and admission.proposal is not None:
            yield admission.proposal
