# ruff: noqa: ARG001, T201
"""Work functions that the children of test tables run."""

import io
import os
import pickle
import signal
import sys
import threading

from nasmesh.errors import Rejected, Unavailable
from nasmesh.jobs.context import JobContext
from nasmesh.v1 import object_pb2
from nasmesh.v1 import train_service_pb2 as pb

_KEEP: list[bytearray] = []
_COUNT = 0


def warm() -> None:
    print("warming up: this line must not reach the frames")


def run(request: bytes, context: JobContext) -> bytes:
    """Do what the training id's first word says."""
    global _COUNT
    _COUNT += 1
    order = pb.StartTrainingRequest.FromString(request)
    return ACTIONS[order.training_id.split("-")[0]](order, context)


def _lost(order: pb.StartTrainingRequest, context: JobContext) -> bytes:
    raise Unavailable("DEVICE_LOST", "the device was lost")


def _echo(order: pb.StartTrainingRequest, context: JobContext) -> bytes:
    print("a print by the work")
    context.report(pb.TrainProgress(step=_COUNT))
    return pb.TrainResult(data_digest=order.training_id, device_time_s=os.getpid()).SerializeToString()


def _wait(order: pb.StartTrainingRequest, context: JobContext) -> bytes:
    context.report(pb.TrainProgress(step=1))
    while not context.cancelled:
        threading.Event().wait(0.005)
    context.report(pb.TrainProgress(step=2), checkpoint=object_pb2.ObjectRef(key="last"))
    context.raise_if_cancelled()
    return b""


def _mark(order: pb.StartTrainingRequest, context: JobContext) -> bytes:
    if order.resume_from.key:
        return pb.TrainResult(data_digest=f"resumed from {order.resume_from.key}").SerializeToString()
    context.report(pb.TrainProgress(step=1), checkpoint=object_pb2.ObjectRef(key="half"))
    threading.Event().wait(60)
    return b""


def _slow(order: pb.StartTrainingRequest, context: JobContext) -> bytes:
    context.report(pb.TrainProgress(step=1), checkpoint=object_pb2.ObjectRef(key="half"))
    while not context.cancelled:
        threading.Event().wait(0.005)
    threading.Event().wait(1.6)  # a large checkpoint takes its time
    context.report(pb.TrainProgress(step=2), checkpoint=object_pb2.ObjectRef(key="last"))
    context.raise_if_cancelled()
    return b""


def _deaf(order: pb.StartTrainingRequest, context: JobContext) -> bytes:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    context.report(pb.TrainProgress(step=1))
    threading.Event().wait(60)
    return b""


def _crash(order: pb.StartTrainingRequest, context: JobContext) -> bytes:
    print("the last words", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)
    return b""


def _refuse(order: pb.StartTrainingRequest, context: JobContext) -> bytes:
    raise Rejected("OP_NOT_ALLOWED", "Loop is not in the operator set", field="node_7")


def _raise(order: pb.StartTrainingRequest, context: JobContext) -> bytes:
    raise ValueError("bad luck")


def _memory(order: pb.StartTrainingRequest, context: JobContext) -> bytes:
    _KEEP.append(bytearray(os.urandom(1 << 20) * 300))
    context.report(pb.TrainProgress(step=1))
    threading.Event().wait(60)
    return b""


def _burst(order: pb.StartTrainingRequest, context: JobContext) -> bytes:
    _KEEP.append(bytearray(4 << 30))
    context.report(pb.TrainProgress(step=1))
    threading.Event().wait(60)
    return b""


def _burst_of_torch(order: pb.StartTrainingRequest, context: JobContext) -> bytes:
    import torch

    return bytes(torch.zeros(1 << 30)[:1].numpy())


def _huge(order: pb.StartTrainingRequest, context: JobContext) -> bytes:
    return bytes(5 << 20)


def _garbage(order: pb.StartTrainingRequest, context: JobContext) -> bytes:
    for descriptor in range(3, 20):
        try:
            os.write(descriptor, b"\xff\xff\xff\xff garbage")
        except OSError:
            continue
    threading.Event().wait(60)
    return b""


class _Code:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.putenv, ("UNPICKLED",)


def _unpickle(order: pb.StartTrainingRequest, context: JobContext) -> bytes:
    return pickle.loads(pickle.dumps(_Code()))


def _torch(order: pb.StartTrainingRequest, context: JobContext) -> bytes:
    import torch

    content = io.BytesIO()
    torch.save({"weight": torch.ones(2), "code": _Code()}, content)
    content.seek(0)
    return torch.load(content, weights_only=order.training_id == "torch-weights")


ACTIONS = {
    "unpickle": _unpickle,
    "torch": _torch,
    "echo": _echo,
    "lost": _lost,
    "wait": _wait,
    "mark": _mark,
    "deaf": _deaf,
    "slow": _slow,
    "crash": _crash,
    "refuse": _refuse,
    "raise": _raise,
    "memory": _memory,
    "burst": _burst,
    "tensor": _burst_of_torch,
    "huge": _huge,
    "garbage": _garbage,
}
