"""Work whose memory is said beforehand: network.key is "FORETOLD HELD" in MiB, or a word for what goes wrong."""

import os
import signal

from nasmesh.errors import Rejected
from nasmesh.jobs.context import JobContext
from nasmesh.v1 import object_pb2
from nasmesh.v1 import train_service_pb2 as pb

MIB = 2**20


def weigh(request: bytes) -> int:
    """Return what the request says; some cannot be weighed."""
    key = pb.StartTrainingRequest.FromString(request).network.key
    if key == "refused":
        raise Rejected("NETWORK_REJECTED", "network: no such thing", field="network")
    if key == "deadly":
        os.kill(os.getpid(), signal.SIGSEGV)
    return int(key.split()[0]) * MIB


def run(request: bytes, context: JobContext) -> bytes:
    """Hold as much as the request says; a job whose id begins with "wait" then goes on until it is cancelled."""
    order = pb.StartTrainingRequest.FromString(request)
    if order.training_id.startswith("stored") and context.checkpoint is None:
        context.report(pb.TrainProgress(step=1), checkpoint=object_pb2.ObjectRef(key="half"))
    held = bytearray(int(order.network.key.split()[1]) * MIB)
    held[::4096] = b"\1" * len(held[::4096])
    if order.training_id.startswith("killed"):
        os.kill(os.getpid(), signal.SIGKILL)
    context.report(pb.TrainProgress(step=1))
    if order.training_id.startswith("wait"):
        context.wait(60)
        context.raise_if_cancelled()
    return pb.TrainResult(
        steps=context.memory_bytes,
        predicted_memory_bytes=context.foretold.predicted,
        checkpoint=context.checkpoint,
    ).SerializeToString()
