"""One connection to the scheduler: a Work stream with one writer, opened by Hello and answered by Welcome."""

import queue
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

from nasmesh.agent.pace import GATHER_S
from nasmesh.errors import Stale, Unavailable
from nasmesh.rpc.access import NO_CLIENT_ACCESS, ClientAccess
from nasmesh.rpc.channel import errors_from_rpc, open_channel
from nasmesh.v1 import dispatch_service_pb2 as pb
from nasmesh.v1 import dispatch_service_pb2_grpc as rpc
from nasmesh.versions import check_fit

WELCOME_S = 10.0
"""A scheduler that accepts the stream and says nothing for this long is taken for gone."""


class Connection:
    """A stream in use. `send` may be called from any thread; one thread iterates over `messages`."""

    def __init__(
        self,
        address: str,
        hello: pb.AgentHello,
        *,
        insecure: bool,
        access: ClientAccess = NO_CLIENT_ACCESS,
        hurried: bool = False,
    ) -> None:
        """Say hello and wait for the answer; `hurried`, where there are other addresses to try, not for long.

        Raises Stale: EPOCH_STALE where the scheduler is older than one seen before, VERSION_UNFIT; Unavailable where it
        is away or silent, and what it refuses the hello with.
        """
        self._outgoing: queue.SimpleQueue[Said | None] = queue.SimpleQueue()
        self._address = address
        self._channel = open_channel(address, insecure=insecure, access=access, hurried=hurried)
        self._outgoing.put(Said(pb.WorkRequest(hello=hello)))
        try:
            with errors_from_rpc(address):
                self._call = rpc.DispatchServiceStub(self._channel).Work(gathered(self._outgoing))
                self.welcome = self._first_message()
            check_fit(hello.version, self.welcome.version)
            if self.welcome.epoch < hello.epoch:
                raise Stale(
                    "EPOCH_STALE",
                    f"the scheduler at {address} has epoch {self.welcome.epoch}, superseded by {hello.epoch}",
                )
        except BaseException:
            self.close()
            raise

    def send(self, request: pb.WorkRequest, *, may_wait: bool = False) -> None:
        """Send after what was sent before; a report that may wait goes with those that come within GATHER_S.

        On a lost stream nothing happens: the next Hello tells what matters.
        """
        if request.HasField("report") and not self.welcome.accepts_reports:
            for single in _singly(request.report):
                self._outgoing.put(Said(single))
        else:
            self._outgoing.put(Said(request, may_wait))

    def messages(self) -> Iterator[pb.WorkResponse]:
        """Yield what the scheduler says until the stream ends; raises nasmesh.errors where it breaks."""
        with errors_from_rpc(self._address):
            yield from self._call

    def close(self) -> None:
        """Hang up."""
        self._outgoing.put(None)
        self._channel.close()

    def _first_message(self) -> pb.Welcome:
        silence = threading.Timer(WELCOME_S, self._channel.close)
        silence.daemon = True
        silence.start()
        try:
            first = next(self._call, None)
        finally:
            silence.cancel()
        if first is None or not first.HasField("welcome"):
            raise Unavailable("WELCOME_MISSING", f"the scheduler at {self._address} did not answer the hello")
        return first.welcome


class Said(NamedTuple):
    """A message to the scheduler; one that may wait is a report."""

    request: pb.WorkRequest
    may_wait: bool = False


def gathered(outgoing: "queue.SimpleQueue[Said | None]") -> Iterator[pb.WorkRequest]:
    """Yield what is said until there is None; a report that may wait together with the reports that follow."""
    kept: pb.WorkRequest | None = None
    until = 0.0
    while True:
        try:
            said = outgoing.get(timeout=None if kept is None else max(0.0, until - time.monotonic()))
        except queue.Empty:
            if kept is not None:
                yield kept
            kept = None
            continue
        if kept is not None:
            joins = said is not None and said.request.HasField("report")
            if joins and said is not None:
                _add(kept.report, said.request.report)
                if said.may_wait:
                    continue
            yield kept
            kept = None
            if joins:
                continue
        if said is None:
            return
        if said.may_wait:
            kept, until = said.request, time.monotonic() + GATHER_S
        else:
            yield said.request


def _add(report: pb.AgentReport, later: pb.AgentReport) -> None:
    """Put a later report into one: what it says of free slots replaces what was said of them."""
    report.outcomes.extend(later.outcomes)
    told = {ready.kind for ready in later.ready}
    ready = [*(one for one in report.ready if one.kind not in told), *later.ready]
    del report.ready[:]
    report.ready.extend(ready)


def _singly(report: pb.AgentReport) -> Iterator[pb.WorkRequest]:
    """Yield what a report says in the words of schedulers that do not know reports."""
    for outcome in report.outcomes:
        yield pb.WorkRequest(outcome=outcome)
    for ready in report.ready:
        yield pb.WorkRequest(ready=ready)
