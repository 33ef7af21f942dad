"""Tells watchers of a search what changed: from a bounded history, then live. A slow one is dropped."""

import asyncio
from collections import OrderedDict, deque

from nasmesh.errors import Busy, Compacted, Invalid, NasmeshError
from nasmesh.v1 import scheduler_service_pb2 as pb

# Changes kept for a search; a search of 500 trials has about 2,500. Beyond it, watchers list first.
HISTORY = 4096
# Ended searches whose history is kept.
ENDED_KEPT = 64
# Changes that wait for one watcher; progress marks are skipped when half of it is used.
QUEUE = 2 * HISTORY


class Subscription:
    """What waits for one watcher."""

    def __init__(self) -> None:
        """Start empty."""
        self._items: deque[pb.WatchSearchResponse] = deque()
        self._error: NasmeshError | None = None
        self._over = False
        self._wake = asyncio.Event()

    def put(self, message: pb.WatchSearchResponse) -> None:
        """Queue a change; a full queue ends the subscription with Busy (WATCHER_SLOW)."""
        if self._over:
            return
        if len(self._items) >= QUEUE:
            self._items.clear()
            self.end(Busy("WATCHER_SLOW", f"more than {QUEUE} changes wait to be read; watch again from the last one"))
            return
        self._items.append(message)
        self._wake.set()

    def put_progress(self, message: pb.WatchSearchResponse) -> None:
        """Queue a progress mark unless the watcher lags."""
        if len(self._items) < QUEUE // 2:
            self.put(message)

    def end(self, error: NasmeshError | None = None) -> None:
        """End the subscription after what is queued, with an error or without."""
        self._over, self._error = True, error
        self._wake.set()

    async def next(self) -> pb.WatchSearchResponse | None:
        """Return the next change, or None at the end; raises the error that ended the subscription."""
        while not self._items:
            if self._error is not None:
                raise self._error
            if self._over:
                return None
            self._wake.clear()
            await self._wake.wait()
        return self._items.popleft()


class WatchHub:
    """Histories and subscriptions of all searches."""

    def __init__(self) -> None:
        """Know no search."""
        self._history: dict[str, deque[pb.WatchSearchResponse]] = {}
        self._watchers: dict[str, list[Subscription]] = {}
        self._ended: OrderedDict[str, None] = OrderedDict()

    def publish(self, search: str, message: pb.WatchSearchResponse, *, ended: bool) -> None:
        """Add a committed change and hand it to watchers; `ended`: it is the last one of the search."""
        self.restore(search, message, ended=ended)
        for watcher in self._watchers.get(search, ()):
            watcher.put(message)
        if ended:
            for watcher in self._watchers.pop(search, ()):
                watcher.end()

    def restore(self, search: str, message: pb.WatchSearchResponse, *, ended: bool) -> None:
        """Add a change to the history alone."""
        self._history.setdefault(search, deque(maxlen=HISTORY)).append(message)
        if ended:
            self._ended[search] = None
            while len(self._ended) > ENDED_KEPT:
                self._history.pop(self._ended.popitem(last=False)[0], None)

    def publish_progress(self, search: str, message: pb.WatchSearchResponse) -> None:
        """Hand a progress mark to watchers."""
        for watcher in self._watchers.get(search, ()):
            watcher.put_progress(message)

    def is_watched(self, search: str) -> bool:
        """Say whether anybody watches."""
        return bool(self._watchers.get(search))

    def subscribe(self, search: str, after: int, last: int, *, ended: bool) -> Subscription:
        """Return a subscription to the changes after a sequence number; `last` is that of the newest change.

        Raises Compacted (SEQUENCE_COMPACTED) where older ones are needed, Invalid (FIELD_INVALID).
        """
        if not 0 <= after <= last:
            raise Invalid("FIELD_INVALID", f"after_sequence must be 0 to {last}, not {after}", field="after_sequence")
        history = self._history.get(search, ())
        oldest = history[0].sequence if history else last + 1
        if after + 1 < oldest:
            raise Compacted(
                "SEQUENCE_COMPACTED",
                f"changes up to {oldest - 1} are not kept: list the trials, then watch from the search's sequence",
                metadata={"sequence": str(last)},
            )
        subscription = Subscription()
        for message in history:
            if message.sequence > after:
                subscription.put(message)
        if ended:
            subscription.end()
        else:
            self._watchers.setdefault(search, []).append(subscription)
        return subscription

    def unsubscribe(self, search: str, subscription: Subscription) -> None:
        """Forget a subscription."""
        watchers = self._watchers.get(search, [])
        if subscription in watchers:
            watchers.remove(subscription)

    def close(self, error: NasmeshError) -> None:
        """End all subscriptions."""
        for watchers in self._watchers.values():
            for watcher in watchers:
                watcher.end(error)
        self._watchers.clear()

    def forget(self) -> None:
        """Drop the histories, before they are made again from the journal."""
        self._history.clear()
        self._ended.clear()
