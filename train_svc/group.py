"""Processes that add up numbers together: torch's process groups, by gloo on processors and nccl on GPUs.

Used directly, not through torch.distributed's default group: that one is global to a process, and a warm process takes
part in many trainings. Nothing here unpickles.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors
from torch.distributed import ProcessGroupGloo

from nasmesh.limits import CHECKPOINT_BYTES
from train_svc.meeting import JOIN_S, Meeting, MemberLost, told_apart

STEP_S = 600.0
"""Longest that one waits for the others within a training: while the first validates, or stores its last checkpoint."""
RANK_LOST = "RANK_LOST"
"""Reason of what ends because a process of the training was lost."""


class Group:
    """A Team of several processes. All members must call the same methods in the same order."""

    def __init__(self, meeting: Meeting, *, rank: int, size: int, nccl: bool = False) -> None:
        """Wait for all members; raises MemberLost where one does not come within JOIN_S."""
        self.rank = rank
        self.size = size
        self._nccl = nccl
        with told_apart():
            meet = _nccl if nccl else _gloo
            self._processes = meet(meeting, rank, size)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Group":
        """Return itself: a copied network belongs to the same processes."""
        return self

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its mean over all members, in place; raises MemberLost."""
        self._reduce(tensors, 1 / self.size)

    def total(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all members, in place; raises MemberLost."""
        self._reduce(tensors, 1.0)

    def tell(self, content: bytes | None, device: torch.device) -> bytes:
        """Return what the first member says; the others pass None. Raises MemberLost."""
        length = torch.tensor([len(content) if content is not None else 0], dtype=torch.int64, device=device)
        self._broadcast(length)
        if not 0 <= int(length) <= CHECKPOINT_BYTES:
            raise MemberLost(f"the first process speaks of {int(length)} bytes")
        if content is None:
            values = torch.empty(int(length), dtype=torch.uint8, device=device)
        else:
            values = torch.frombuffer(bytearray(content), dtype=torch.uint8).to(device)
        self._broadcast(values)
        return values.cpu().numpy().tobytes() if content is None else content

    def close(self) -> None:
        """Leave: whoever waits for this member hears that it is gone."""
        self.give_up()
        self._processes = None

    def give_up(self) -> None:
        """End what waits on a GPU for a member that is lost; by gloo it hears of that by itself. From any thread."""
        processes = self._processes
        if self._nccl and processes is not None:
            processes.abort()

    def _reduce(self, tensors: Sequence[Tensor], factor: float) -> None:
        for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
            alike = [tensor.detach() for tensor in tensors if tensor.dtype == dtype]
            flat: Tensor = _flatten_dense_tensors(alike)  # type: ignore[no-untyped-call]
            with told_apart():
                self._open().allreduce([flat]).wait()
            if factor != 1.0:
                flat.mul_(factor)
            parts: list[Tensor] = list(_unflatten_dense_tensors(flat, alike))  # type: ignore[no-untyped-call]
            torch._foreach_copy_(alike, parts)

    def _broadcast(self, values: Tensor) -> None:
        with told_apart():
            self._open().broadcast([values]).wait()

    def _open(self) -> Any:  # ProcessGroupGloo or ProcessGroupNCCL, which share no useful type
        if self._processes is None:
            raise MemberLost("this process has left the group")
        return self._processes


def _gloo(meeting: Meeting, rank: int, size: int) -> Any:
    options = ProcessGroupGloo._Options()  # type: ignore[attr-defined]  # missing in torch's stubs
    options._devices = [ProcessGroupGloo.create_device(hostname=meeting.address)]
    options._timeout = timedelta(seconds=JOIN_S)
    found = ProcessGroupGloo(meeting.store, rank, size, options)
    found.set_timeout(timedelta(seconds=STEP_S))
    return found


def _nccl(meeting: Meeting, rank: int, size: int) -> Any:
    from torch.distributed import ProcessGroupNCCL  # only there where torch was built for CUDA

    options = ProcessGroupNCCL.Options()
    options._timeout = timedelta(seconds=STEP_S)
    return ProcessGroupNCCL(meeting.store, rank, size, options)
