"""Tells watchers of a search what changed: from a bounded history, then live. A slow one is dropped.

A change is kept as bytes, so that it costs next to nothing while nobody watches; the message is made when it is read,
and made and encoded once for all live watchers. What waits for one watcher goes out as one message where it accepts
that: a trial's end is several changes of one commit, and a message costs more to send than what is in it.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from nasmesh.errors import Busy, Compacted, Invalid, NasmeshError
from nasmesh.v1 import scheduler_service_pb2 as pb
from scheduler.batches import BATCH_BYTES
from scheduler.fields import sized, tag

# Changes kept for a search; a search of 500 trials has about 2,500. Beyond it, watchers list first.
HISTORY = 4096
# Bytes of changes kept of all ended searches together; that of the last one ended is kept in any case.
ENDED_BYTES = 32 * 1024 * 1024
# Changes that wait for one watcher; progress marks are skipped when half of it is used.
QUEUE = 2 * HISTORY
# Changes in one message: bounds how long the others wait while one watcher's history is encoded.
BATCH = 64

_CHANGES = tag(pb.WatchBatch.CHANGES_FIELD_NUMBER)
_BATCH = tag(pb.WatchSearchResponse.BATCH_FIELD_NUMBER)


class Change(NamedTuple):
    """A change of a search (trial 0) or one of its trials as it stood then.

    `body` holds the trial's bytes, or those of the search without its specification; `spec` those of a search with
    nothing but its specification, which all changes of a search share.
    """

    sequence: int
    time_us: int
    trial: int
    body: bytes
    spec: bytes = b""

    def message(self) -> pb.WatchSearchResponse:
        """Return the change as watchers see it."""
        message = pb.WatchSearchResponse(sequence=self.sequence)
        message.time.FromMicroseconds(self.time_us)
        if self.trial:
            message.trial.MergeFromString(self.body)
        else:
            message.search.MergeFromString(self.spec)
            message.search.MergeFromString(self.body)
        return message


class Subscription:
    """What waits for one watcher."""

    def __init__(self, *, accepts_batches: bool = False) -> None:
        """Start empty, for a watcher that takes several changes in a message or one."""
        self._most = BATCH if accepts_batches else 1
        self._items: deque[Change | bytes] = deque()
        self._error: NasmeshError | None = None
        self._over = False
        self._wake = asyncio.Event()

    def put(self, item: Change | bytes) -> None:
        """Queue a change, or one as it is sent; a full queue ends the subscription with Busy (WATCHER_SLOW)."""
        if self._over:
            return
        if len(self._items) >= QUEUE:
            self._items.clear()
            self.end(Busy("WATCHER_SLOW", f"more than {QUEUE} changes wait to be read; watch again from the last one"))
            return
        self._items.append(item)
        self._wake.set()

    def put_progress(self, encoded: bytes) -> None:
        """Queue a progress mark unless the watcher lags."""
        if len(self._items) < QUEUE // 2:
            self.put(encoded)

    def end(self, error: NasmeshError | None = None) -> None:
        """End the subscription after what is queued, with an error or without."""
        self._over, self._error = True, error
        self._wake.set()

    async def next(self) -> bytes | None:
        """Return the next message, encoded, or None at the end; raises the error that ended the subscription."""
        while not self._items:
            if self._error is not None:
                raise self._error
            if self._over:
                return None
            self._wake.clear()
            await self._wake.wait()
        first = _encoded(self._items.popleft())
        return self._batch(first) if self._items and self._most > 1 else first

    def _batch(self, first: bytes) -> bytes:
        """Return a message of the first change and those that wait behind it."""
        parts, room = [_CHANGES, sized(first)], BATCH_BYTES - len(first)
        while self._items and len(parts) < 2 * self._most:
            encoded = _encoded(self._items[0])
            room -= len(encoded)
            if room < 0:
                break
            self._items.popleft()
            parts += (_CHANGES, sized(encoded))
        return _BATCH + sized(b"".join(parts)) if len(parts) > 2 else first


def _encoded(item: Change | bytes) -> bytes:
    return item.message().SerializeToString() if isinstance(item, Change) else item


class WatchHub:
    """Histories and subscriptions of all searches."""

    def __init__(self) -> None:
        """Know no search."""
        self._history: dict[str, deque[Change]] = {}
        self._watchers: dict[str, list[Subscription]] = {}
        self._ended: OrderedDict[str, int] = OrderedDict()
        self._ended_bytes = 0

    def publish(self, search: str, changes: Sequence[Change], *, ended: bool) -> None:
        """Add committed changes and hand them to watchers; `ended`: the search has no more after them."""
        self.restore(search, changes, ended=ended)
        watchers = self._watchers.get(search)
        if watchers:
            for change in changes:
                encoded = change.message().SerializeToString()
                for watcher in watchers:
                    watcher.put(encoded)
            if ended:
                for watcher in self._watchers.pop(search):
                    watcher.end()

    def restore(self, search: str, changes: Iterable[Change], *, ended: bool) -> None:
        """Add changes to the history alone."""
        history = self._history.get(search)
        if history is None:
            history = self._history[search] = deque(maxlen=HISTORY)
        history.extend(changes)
        if ended:
            size = sum(len(kept.body) for kept in history)
            self._ended_bytes += size - self._ended.pop(search, 0)
            self._ended[search] = size
            while self._ended_bytes > ENDED_BYTES and len(self._ended) > 1:
                oldest, size = self._ended.popitem(last=False)
                self._ended_bytes -= size
                self._history.pop(oldest, None)

    def publish_progress(self, search: str, message: pb.WatchSearchResponse) -> None:
        """Hand a progress mark to watchers."""
        encoded = message.SerializeToString()
        for watcher in self._watchers.get(search, ()):
            watcher.put_progress(encoded)

    def is_watched(self, search: str) -> bool:
        """Say whether anybody watches."""
        return bool(self._watchers.get(search))

    def subscribe(
        self, search: str, after: int, last: int, *, ended: bool, accepts_batches: bool = False
    ) -> Subscription:
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
        subscription = Subscription(accepts_batches=accepts_batches)
        for change in history:
            if change.sequence > after:
                subscription.put(change)
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

    def drop(self, search: str) -> None:
        """Forget a search that is gone; its watchers have nothing more to hear."""
        self._history.pop(search, None)
        self._ended_bytes -= self._ended.pop(search, 0)
        for watcher in self._watchers.pop(search, ()):
            watcher.end()

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
        self._ended_bytes = 0
