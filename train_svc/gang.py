"""One training over several train servers, as the server that leads it sees it: every process is another server's job.

Where one is lost the attempt ends at once, and whoever leased it makes another from the last checkpoint.
"""

import threading
from collections.abc import Callable

from nasmesh.clock import Clock
from nasmesh.errors import Unavailable
from nasmesh.jobs.context import Cancelled, JobContext
from nasmesh.settings import parse_address
from nasmesh.v1 import object_pb2
from nasmesh.v1 import train_service_pb2 as pb
from train_svc.group import RANK_LOST, Group
from train_svc.leading import lead
from train_svc.meeting import JOIN_S, Meeting, MemberLost
from train_svc.training import Training

_ARRIVAL_S = 0.02
_LEAVE_S = 1.0
"""How long the others may take to hear that it is over; they find out by themselves if they do not."""
_LEFT_S = 0.02


class Gang:
    """The processes of one attempt at a training. `join` makes the training theirs."""

    def __init__(self, start: pb.StartTrainingRequest, context: JobContext, clock: Clock) -> None:
        """Listen where the others are sent; raises Unavailable (PORT_IN_USE), Cancelled."""
        host, port = parse_address(start.gang.rendezvous)
        self._size = start.gang.size
        self._context = context
        self._clock = clock
        self._meeting = Meeting.call(start.training_id, clock, address=host, port=port, wait=context.wait)
        self._group: Group | None = None
        self._left = False
        self.stored: object_pb2.ObjectRef | None = None
        """The last checkpoint that is stored; whoever stores one sets it."""

    def join(self, training: Training) -> None:
        """Tell the others where the training stands, and share its layers and updates with them."""
        until = self._clock.monotonic() + JOIN_S
        while absent := self._meeting.absent(self._size):
            if self._clock.monotonic() > until:
                raise MemberLost(f"rank {absent[0]} did not come within {JOIN_S:g} s")
            if self._context.wait(_ARRIVAL_S):
                raise Cancelled
        self._group = lead(training, self._meeting, self._size, nccl=False)

    def check(self) -> None:
        """Do nothing: what averages by gloo hears at once of one that is gone, before it computes with that."""

    def leave(self) -> None:
        """Let the others go: it is over, and nobody was lost."""
        if self._left:
            return
        try:
            self._meeting.end()
            self._close_group()
            self._await_leaving()
        except MemberLost:
            pass  # whoever is gone needs no word
        finally:
            self.give_up()

    def give_up(self) -> None:
        """Leave without a word: the others hear that somebody is lost."""
        self._left = True
        self._close_group()
        self._meeting.close()

    def _close_group(self) -> None:
        if self._group is not None:
            self._group.close()

    def _await_leaving(self) -> None:
        if self._group is None:
            return  # they were not told to begin
        until, pause = self._clock.monotonic() + _LEAVE_S, threading.Event()
        while not all(self._meeting.has_left(rank) for rank in range(1, self._size)):
            # Not the job's own wait, which returns at once where it was told to stop.
            if pause.wait(_LEFT_S) or self._clock.monotonic() > until:
                return


def train_in_gang(
    start: pb.StartTrainingRequest,
    attempt: Callable[[Gang], pb.TrainResult],
    context: JobContext,
    clock: Clock,
) -> pb.TrainResult:
    """Make `attempt` with the other servers; its device time is that of all.

    Raises Unavailable (RANK_LOST, PORT_IN_USE), and what `attempt` raises.
    """
    gang = Gang(start, context, clock)
    try:
        result = attempt(gang)
    except MemberLost as error:
        gang.give_up()
        message = f"a server of this training was lost; it goes on from its last checkpoint: {error}"
        raise Unavailable(RANK_LOST, message) from None
    finally:
        gang.leave()
    result.device_time_s *= start.gang.size
    return result
