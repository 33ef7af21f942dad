"""Where a training's samples are while it runs: all on the device, or read ahead of it through a bounded buffer."""

import math
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from nasmesh.data.source import Indices, Source

# What a training may read ahead; two batches at the least, whatever they take.
BUFFER_BYTES = 256 * 2**20
# On a GPU, samples may take this part of the memory that is free; what needs more is streamed.
_SHARE_OF_DEVICE = 0.25

At = tuple[int, int]
"""Epoch, and number of a batch in it."""


class Samples(Protocol):
    """The samples that a training uses, numbered from 0 in its own order."""

    count: int
    dims: tuple[int, ...]
    bytes_each: bool
    """Whether values are uint8 (images); float32 otherwise."""

    def take(self, at: At, places: Tensor, within: Tensor | slice) -> Tensor:
        """Return stored values [n, ...] on the device: those `within` the batch at `at`, whose samples are `places`.

        Raises what the source raises.
        """
        ...

    def follow(self, plan: "Plan") -> None:
        """Hear in which order batches will be wanted."""
        ...

    def close(self) -> None:
        """Stop reading."""
        ...


class Held:
    """Samples on the device."""

    def __init__(self, values: Tensor) -> None:
        """Keep values [N, ...]."""
        self._values = values
        self.count = len(values)
        self.dims = tuple(values.shape[1:])
        self.bytes_each = values.dtype == torch.uint8

    def take(self, at: At, places: Tensor, within: Tensor | slice) -> Tensor:  # noqa: ARG002 (what is here needs no order)
        """Return these samples."""
        return self._values[places[within]]

    def follow(self, plan: "Plan") -> None:
        """Do nothing: all is here."""

    def close(self) -> None:
        """Do nothing: there is no reader."""


@dataclass(frozen=True, slots=True)
class Plan:
    """In which order batches are wanted: `places(epoch, number)` are a batch's sample numbers, on the processor."""

    places: Callable[[int, int], Tensor]
    batches_per_epoch: int


class Streamed:
    """Samples that a thread reads a few batches ahead, in the order in which they will be wanted."""

    def __init__(self, source: Source, rows: Indices, device: torch.device) -> None:
        """Read `rows` of `source`; nothing is read before the first batch is asked for."""
        self._source = source
        self._rows = rows
        self._device = device
        self._reader: _Reader | None = None
        self._plan: Plan | None = None
        self._last: tuple[At, Tensor] | None = None
        self.count = len(rows)
        self.dims = tuple(source.dims)
        self.bytes_each = source.dtype == np.uint8

    def follow(self, plan: Plan) -> None:
        """Read in this order from now on."""
        self.close()
        self._plan = plan

    def take(self, at: At, places: Tensor, within: Tensor | slice) -> Tensor:
        """Return these samples; waits for the reader, which is set to this batch where it was to bring another."""
        if self._last is None or self._last[0] != at:  # else a second pass, or another part of the same batch
            if self._plan is None:
                raise ValueError("what is streamed needs a plan")
            if self._reader is None or self._reader.next != at:
                self.close()
                self._reader = _Reader(self._plan, at, self._read, depth=self._depth(len(places)))
            self._last = (at, self._reader.take().to(self._device, non_blocking=True))
        return self._last[1][within]

    def close(self) -> None:
        """End the reader and forget what it brought."""
        reader, self._reader, self._last = self._reader, None, None
        if reader is not None:
            reader.close()

    def _depth(self, batch: int) -> int:
        width = 1 if self.bytes_each else 4
        return int(min(64, max(2, BUFFER_BYTES // max(1, batch * math.prod(self.dims) * width))))

    def _read(self, places: Tensor) -> Tensor:
        values = torch.from_numpy(self._source.rows(self._rows[places.numpy()]))
        return values.pin_memory() if self._device.type == "cuda" else values


class _Reader:
    """A thread that reads batches from one on, epoch after epoch, and waits while `depth` of them lie ready."""

    def __init__(self, plan: Plan, first: At, read: Callable[[Tensor], Tensor], *, depth: int) -> None:
        self.next = first
        self._plan = plan
        self._read = read
        self._depth = depth
        self._ready: deque[Tensor | BaseException] = deque()
        self._turn = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, args=first, name="read-ahead", daemon=True)
        self._thread.start()

    def take(self) -> Tensor:
        """Return the next batch, or raise what reading it raised."""
        with self._turn:
            while not self._ready:
                self._turn.wait()
            found = self._ready.popleft()
            self._turn.notify_all()
        self.next = self._after(*self.next)
        if isinstance(found, BaseException):
            raise found
        return found

    def close(self) -> None:
        """End the thread after the batch that it reads."""
        with self._turn:
            self._closed = True
            self._turn.notify_all()
        self._thread.join()

    def _after(self, epoch: int, number: int) -> At:
        return (epoch, number + 1) if number + 1 < self._plan.batches_per_epoch else (epoch + 1, 0)

    def _run(self, epoch: int, number: int) -> None:
        while True:
            try:
                found: Tensor | BaseException = self._read(self._plan.places(epoch, number))
            except Exception as error:  # noqa: BLE001 - the training raises it when it comes to this batch
                found = error
            with self._turn:
                while len(self._ready) >= self._depth and not self._closed:
                    self._turn.wait()
                if self._closed:
                    return
                self._ready.append(found)
                self._turn.notify_all()
            if isinstance(found, BaseException):
                return
            epoch, number = self._after(epoch, number)


def place_samples(source: Source, rows: Indices, device: torch.device) -> Samples:
    """Return these samples: on the device where they are in memory and the device has room, else streamed."""
    if source.array is None or not _fits(source, len(rows), device):
        return Streamed(source, rows, device)
    return Held(torch.from_numpy(source.rows(rows)).to(device))


def _fits(source: Source, count: int, device: torch.device) -> bool:
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return count * math.prod(source.dims) * source.dtype.itemsize <= _SHARE_OF_DEVICE * free
