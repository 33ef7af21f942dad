"""One watcher's stream, from subscribing to unsubscribing."""

from collections.abc import AsyncIterator
from functools import partial

from nasmesh.rpc.identity import LOCAL, Identity
from nasmesh.v1 import scheduler_service_pb2 as pb
from scheduler.core import Core
from scheduler.searches import Searches


async def follow(
    core: Core, searches: Searches, request: pb.WatchSearchRequest, *, caller: Identity = LOCAL
) -> AsyncIterator[bytes]:
    """Yield a search's changes after a sequence number, encoded, until it ends; raises what WatchSearch documents."""
    subscription = await core.submit(partial(searches.watch, request, caller=caller))
    try:
        while (change := await subscription.next()) is not None:
            yield change
    finally:
        searches.unwatch(request.name, subscription)
