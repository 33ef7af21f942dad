"""Deletes searches' objects that nothing names any more. The store is asked on a thread; the state in slices."""

import asyncio
from collections.abc import Callable, Iterator
from functools import partial

from nasmesh import limits
from nasmesh.errors import Invalid, Raced
from nasmesh.logs import get_logger
from nasmesh.rpc.identity import Identity
from nasmesh.store.base import ObjectStore, Stored
from nasmesh.store.keys import bare
from nasmesh.v1 import scheduler_service_pb2 as pb
from scheduler.core import Core
from scheduler.datasets import shards_of
from scheduler.lifecycle import Lifecycle
from scheduler.references import manifests, owned, referenced

_SAMPLE = 100
_log = get_logger("sweep")


class Sweep:
    """The one sweep of a scheduler."""

    def __init__(self, core: Core, store: ObjectStore, lifecycle: Lifecycle) -> None:
        """Sweep a store by what a core's state names."""
        self._core = core
        self._store = store
        self._lifecycle = lifecycle
        self._running = False

    async def delete_search(self, request: pb.DeleteSearchRequest, *, caller: Identity) -> pb.DeleteSearchResponse:
        """Delete a search, or say what that would delete; raises what DeleteSearch documents."""
        told = await self._told(request, caller)
        return await self._core.submit(partial(self._lifecycle.delete, request, told, caller=caller))

    async def delete_unreferenced(
        self, request: pb.DeleteUnreferencedObjectsRequest
    ) -> pb.DeleteUnreferencedObjectsResponse:
        """Delete what is old and not named, or say what that would be.

        Raises Invalid (FIELD_INVALID), Raced (SWEEP_RUNNING), Unavailable (STORE_DOWN).
        """
        min_age_s = limits.SWEEP_AGE_S
        if request.HasField("min_age"):
            min_age_s = request.min_age.seconds + request.min_age.nanos / 1e9
        if min_age_s < limits.SWEEP_AGE_MIN_S:
            raise Invalid(
                "FIELD_INVALID",
                "min_age: at least 1 h, as objects are written before they are named",
                field="min_age",
            )
        if self._running:
            raise Raced("SWEEP_RUNNING", "another sweep is under way; wait for it")
        self._running = True
        try:
            named = await referenced(self._core)
            data = await manifests(self._core)
            named |= {bare(ref.key) for ref in data}
            named |= {bare(ref.key) for ref in await asyncio.to_thread(shards_of, self._store, data)}
            delete = partial(self._store.delete, min_age_s=min_age_s) if request.apply else None
            done = await asyncio.to_thread(_sweep, self._store.objects(), named, min_age_s, delete)
        finally:
            self._running = False
        _log.info("objects_swept", apply=request.apply, objects=done.objects, bytes=done.bytes)
        return done

    async def _told(self, request: pb.DeleteSearchRequest, caller: Identity) -> pb.DeleteSearchResponse:
        """Return what is deleted with a search; empty where that is refused or was done before."""
        run = self._core.engine.state.searches.get(request.name.removeprefix("searches/"))
        if run is None:
            return pb.DeleteSearchResponse()
        await self._core.submit(partial(self._lifecycle.deletable, request.name, caller=caller))
        mine = await owned(self._core, run.id)
        others = await referenced(self._core, but=run.id)
        gone = [size for key, size in mine.items() if key not in others]
        return pb.DeleteSearchResponse(
            trials=len(run.trials), unreferenced_objects=len(gone), unreferenced_bytes=sum(gone)
        )


def _sweep(
    found: Iterator[Stored], named: set[str], min_age_s: float, delete: Callable[[str], bool] | None
) -> pb.DeleteUnreferencedObjectsResponse:
    """Go through the store. What is too young is neither deleted nor counted."""
    done = pb.DeleteUnreferencedObjectsResponse()
    for item in found:
        if bare(item.key) in named:
            done.referenced_objects += 1
        elif item.age_s >= min_age_s and (delete is None or delete(item.key)):
            done.objects += 1
            done.bytes += item.size_bytes
            if len(done.sample_keys) < _SAMPLE:
                done.sample_keys.append(item.key)
    return done
