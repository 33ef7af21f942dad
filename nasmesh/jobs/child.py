"""The child process: imports one work function, stays warm, and runs one job after another.

`python -m nasmesh.jobs.child MODULE:FUNCTION PARENT_PID ADDRESS_SPACE_BYTES DATA_BYTES` speaks frames of worker.proto
over its standard input and output; what the work prints goes to standard error. It dies with its parent: at the end of
standard input, and by the kernel's hand.
"""

import contextlib
import ctypes
import importlib
import os
import queue
import re
import resource
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path

from nasmesh.errors import Invalid
from nasmesh.jobs.bounds import bounded, settle
from nasmesh.jobs.context import Cancelled, Foretold, JobContext
from nasmesh.jobs.failures import failure_of
from nasmesh.jobs.frames import read_frame, write_frame
from nasmesh.limits import MESSAGE_BYTES
from nasmesh.logs import bind, configure
from nasmesh.settings import read_settings
from nasmesh.telemetry import tracing
from nasmesh.unpickling import forbid_unpickling
from nasmesh.v1 import worker_pb2 as pb

WORK = re.compile(r"[a-z_][a-z0-9_]*(\.[a-z_][a-z0-9_]*)*:[a-z_][a-z0-9_]*")
"""Grammar of a work reference; which reference is used is fixed in the program that starts the child."""

_PR_SET_PDEATHSIG = 1

Work = Callable[[bytes, JobContext], bytes]
Weigh = Callable[[bytes], int]


class _Pipe:
    """The two ends that lead to the server, moved away from descriptors 0 and 1 so that no work can write into them."""

    def __init__(self) -> None:
        self._incoming = os.dup(0)
        self._outgoing = os.dup(1)
        empty = os.open(os.devnull, os.O_RDONLY)
        os.dup2(empty, 0)
        os.dup2(2, 1)
        os.close(empty)
        self._lock = threading.Lock()

    def send(self, reply: pb.WorkerReply) -> None:
        content = reply.SerializeToString()
        with self._lock:
            write_frame(self._outgoing, content)

    def receive(self) -> pb.WorkerRequest | None:
        content = read_frame(self._incoming)
        return None if content is None else pb.WorkerRequest.FromString(content)


class Child:
    """Reads requests on one thread and runs jobs on the main one, so that a job can be asked to stop at any time."""

    def __init__(self, work: Work, weigh: Weigh | None, pipe: _Pipe) -> None:
        """Bind the work function, and the one that foretells the memory it will hold, to the pipe."""
        self._work = work
        self._weigh = weigh
        self._pipe = pipe
        self._jobs: queue.SimpleQueue[tuple[pb.RunJob, threading.Event] | pb.WeighJob] = queue.SimpleQueue()

    def run(self) -> None:
        """Serve until the server closes the pipe."""
        threading.Thread(target=self._listen, name="listen", daemon=True).start()
        self._pipe.send(pb.WorkerReply(ready=pb.WorkerReady(process_id=os.getpid())))
        while True:
            job = self._jobs.get()
            if isinstance(job, pb.WeighJob):
                self._pipe.send(pb.WorkerReply(weighed=_weighed(self._weigh, job)))
            else:
                self._run_job(*job)

    def _listen(self) -> None:
        job_id, cancelled = "", threading.Event()
        while (request := self._pipe.receive()) is not None:
            if request.HasField("run"):
                job_id, cancelled = request.run.job_id, threading.Event()
                self._jobs.put((request.run, cancelled))
            elif request.HasField("weigh"):
                self._jobs.put(request.weigh)
            elif request.stop.job_id == job_id:
                cancelled.set()
        # The server is gone: nobody will read a result, and a job must not go on using the device.
        os._exit(0)

    def _run_job(self, job: pb.RunJob, cancelled: threading.Event) -> None:
        context = JobContext(
            job.job_id,
            send=lambda mark: self._pipe.send(pb.WorkerReply(mark=mark)),
            cancelled=cancelled,
            memory_bytes=job.memory_bytes,
            foretold=Foretold(job.predicted_memory_bytes, job.estimated_memory_bytes),
            checkpoint=job.checkpoint if job.HasField("checkpoint") else None,
        )
        with bind(job=job.job_id), tracing.continued(job.traceparent, "job", {"job": job.job_id}) as span:
            with bounded(job.memory_bytes):
                finished = _outcome(self._work, job, context)
            span.set(outcome=finished.WhichOneof("outcome") or "")
        context.flush()
        self._pipe.send(pb.WorkerReply(finished=finished))
        # This process is ended without notice: what it has to tell of the job goes now.
        tracing.flush()


def _outcome(work: Work, job: pb.RunJob, context: JobContext) -> pb.JobFinished:
    finished = pb.JobFinished(job_id=job.job_id)
    try:
        result = work(job.request, context)
        if len(result) > MESSAGE_BYTES:
            raise Invalid(
                "RESULT_TOO_LARGE", f"a result of {len(result)} bytes exceeds {MESSAGE_BYTES}; store an object"
            )
        finished.result = result
    except Cancelled:
        finished.stopped.SetInParent()
    except Exception as error:  # noqa: BLE001 - whatever the work raises ends this job, not the child
        traceback.print_exc()
        finished.failure.CopyFrom(failure_of(error))
    return finished


def _weighed(weigh: Weigh | None, job: pb.WeighJob) -> pb.JobWeighed:
    weighed = pb.JobWeighed(job_id=job.job_id)
    try:
        with tracing.continued(job.traceparent, "weigh", {"job": job.job_id}):
            weighed.memory_bytes = weigh(job.request) if weigh is not None else 0
    except Exception as error:  # noqa: BLE001 - whatever it raises ends this job, not the child
        weighed.failure.CopyFrom(failure_of(error))
    return weighed


def _die_with_parent(parent: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # The parent may have died before the call above; then the kernel has nobody left to watch.
    if os.getppid() != parent:
        os._exit(0)


def _limit_memory(address_space: int, data: int) -> None:
    # Where a bounded job starts this process as its helper, the bound is that job's own and not for later ones.
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    for kind, limit in ((resource.RLIMIT_AS, address_space), (resource.RLIMIT_DATA, data)):
        if limit > 0:
            resource.setrlimit(kind, (limit, limit))
    # Where the machine itself runs out, a job is to go, not its server.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def load_work(reference: str) -> tuple[Work, Weigh | None]:
    """Import "module:function" and let the module warm up; return the function, and the module's `weigh`, if any.

    Raises ValueError, ImportError or AttributeError.
    """
    if not WORK.fullmatch(reference):
        raise ValueError(f"{reference!r} is not of the form module:function")
    module_name, _, function_name = reference.partition(":")
    module = importlib.import_module(module_name)
    warm: Callable[[], None] | None = getattr(module, "warm", None)
    if warm is not None:
        warm()
    work: Work = getattr(module, function_name)
    weigh: Weigh | None = getattr(module, "weigh", None)
    settle()
    return work, weigh


def main() -> None:
    """Become the child of the server that started this process with its own process id as second argument."""
    _die_with_parent(int(sys.argv[2]))
    forbid_unpickling()
    _limit_memory(int(sys.argv[3]), int(sys.argv[4]))
    # Ctrl-C at a terminal is the server's to handle; it asks its children to stop in its own order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    program = sys.argv[1].partition(":")[0]
    configure(program)
    tracing.configure_tracing(program, read_settings())
    pipe = _Pipe()
    work, weigh = load_work(sys.argv[1])
    Child(work, weigh, pipe).run()


if __name__ == "__main__":
    main()
