"""How long a slot idles between two consecutive jobs, seen from inside its child process.

`python -m benchmarks.slot_idle [--quick]`. Measured from the end of one job's work function to the start of the next
one's, with work that does nothing, on one slot: (1) jobs that already wait in the table, (2) a caller who starts the
next job when the last has ended, (3) a whole agent with its stream to a dispatcher over gRPC on loopback that answers
at once (a scheduler adds the time of its journal). All on real disks: every result is spooled with fsync.
"""

import argparse
import itertools
import queue
import statistics
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks.report import print_figures, print_table
from nasmesh.agent.drivers.train import TrainDriver
from nasmesh.agent.loop import Agent
from nasmesh.agent.targets import LocalTarget
from nasmesh.clock import SystemClock
from nasmesh.errors import NotFound
from nasmesh.jobs.context import JobContext
from nasmesh.jobs.table import JobTable, JobView
from nasmesh.rpc.server import Service, serve_threads
from nasmesh.v1 import dispatch_service_pb2, dispatch_service_pb2_grpc, job_pb2
from nasmesh.v1 import train_service_pb2 as pb

WARM_UP = 5


def mark(request: bytes, context: JobContext) -> bytes:  # noqa: ARG001 - the signature of work functions
    """Do nothing, and return when that was: start and end on the machine's monotonic clock."""
    clock = SystemClock()
    start = clock.monotonic()
    result = pb.TrainResult(device_time_s=start)
    result.measurements.add(metric="end", value=clock.monotonic())
    return result.SerializeToString()


def gaps_ms(results: Sequence[pb.TrainResult]) -> list[float]:
    """Return the idle times between consecutive jobs, after a few to warm up."""
    ordered = sorted(results, key=lambda result: result.device_time_s)[WARM_UP:]
    pairs = itertools.pairwise(ordered)
    return [1000 * (later.device_time_s - earlier.measurements[0].value) for earlier, later in pairs]


def measure_waiting_jobs(directory: Path, count: int) -> list[float]:
    """Measure with a queue that is never empty."""
    table = _table(directory, queue_length=count)
    try:
        for number in range(count):
            table.start(f"job-{number}", pb.StartTrainingRequest())
        for number in range(count):
            _end_of(table, f"job-{number}")
        return gaps_ms([pb.TrainResult.FromString(view.result) for view in table.list()])
    finally:
        table.close()


def measure_caller(directory: Path, count: int) -> list[float]:
    """Measure with a caller who waits for each job before starting the next."""
    table = _table(directory, queue_length=1)
    try:
        results = []
        for number in range(count):
            table.start(f"job-{number}", pb.StartTrainingRequest())
            results.append(pb.TrainResult.FromString(_end_of(table, f"job-{number}").result))
        return gaps_ms(results)
    finally:
        table.close()


def measure_agent(directory: Path, count: int) -> list[float]:
    """Measure with an agent that leases from a dispatcher, drives the table and reports."""
    table = _table(directory / "jobs", queue_length=1)
    dispatcher = Dispatcher(count)
    add = dispatch_service_pb2_grpc.add_DispatchServiceServicer_to_server
    running = serve_threads([Service("nasmesh.v1.DispatchService", add, dispatcher)], "127.0.0.1:0")
    agent = Agent(
        scheduler=running.address,
        name="benchmark",
        drivers=[TrainDriver(LocalTarget(TableServicer(table)))],
        work_dir=directory / "agent",
    )
    thread = threading.Thread(target=agent.run, daemon=True)
    thread.start()
    try:
        dispatcher.done.wait(300)
        agent.drain()
        thread.join(20)
        return gaps_ms(dispatcher.results)
    finally:
        running.stop(0.1)
        table.close()


class Dispatcher(dispatch_service_pb2_grpc.DispatchServiceServicer):
    """Gives a lease for every free slot until `count` are out, and acknowledges every outcome."""

    def __init__(self, count: int) -> None:
        """Have this many leases to give."""
        self._left = count
        self._count = count
        self.results: list[pb.TrainResult] = []
        self.done = threading.Event()

    def Work(  # noqa: N802 - the contract's name
        self,
        request_iterator: Iterator[dispatch_service_pb2.WorkRequest],
        context: object,  # noqa: ARG002
    ) -> Iterator[dispatch_service_pb2.WorkResponse]:
        """Talk with the agent."""
        out: queue.SimpleQueue[dispatch_service_pb2.WorkResponse | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, args=(request_iterator, out), daemon=True).start()
        yield from iter(out.get, None)

    def GetAttempt(  # noqa: N802
        self,
        request: dispatch_service_pb2.GetAttemptRequest,
        context: object,  # noqa: ARG002
    ) -> dispatch_service_pb2.GetAttemptResponse:
        """Know nothing: no attempt is recorded here."""
        raise NotFound("ATTEMPT_UNKNOWN", f"attempts are not kept here, nor is that of {request.task}")

    def _read(
        self,
        requests: Iterator[dispatch_service_pb2.WorkRequest],
        out: queue.SimpleQueue[dispatch_service_pb2.WorkResponse | None],
    ) -> None:
        try:
            for request in requests:
                for response in self._answers(request):
                    out.put(response)
        except Exception:  # noqa: BLE001 - gRPC raises its own when the agent hangs up
            return
        finally:
            out.put(None)

    def _answers(self, request: dispatch_service_pb2.WorkRequest) -> Iterator[dispatch_service_pb2.WorkResponse]:
        if request.HasField("hello"):
            welcome = dispatch_service_pb2.Welcome(epoch=1)
            welcome.lease.FromSeconds(30)
            yield dispatch_service_pb2.WorkResponse(welcome=welcome)
        elif request.HasField("ready") and request.ready.free and self._left:
            self._left -= 1
            token = dispatch_service_pb2.AttemptToken(task=f"task-{self._left}", attempt=1, epoch=1)
            lease = dispatch_service_pb2.Lease(token=token, search="searches/s", train=dispatch_service_pb2.TrainWork())
            yield dispatch_service_pb2.WorkResponse(lease=lease)
        elif request.HasField("outcome"):
            reply = dispatch_service_pb2.OutcomeReply(
                token=request.outcome.token, disposition=dispatch_service_pb2.OUTCOME_DISPOSITION_RECORDED
            )
            yield dispatch_service_pb2.WorkResponse(outcome_reply=reply)
            self.results.append(request.outcome.train)
            if len(self.results) == self._count:
                self.done.set()


class TableServicer:
    """As much of TrainService as the agent needs, over the table."""

    def __init__(self, table: JobTable) -> None:
        """Serve this table."""
        self._table = table

    def StartTraining(self, request: pb.StartTrainingRequest, _context: object) -> pb.StartTrainingResponse:  # noqa: N802
        """Start."""
        return pb.StartTrainingResponse(training=_training(self._table.start(request.training_id, request)))

    def WatchTraining(  # noqa: N802
        self, request: pb.WatchTrainingRequest, _context: object
    ) -> Iterator[pb.WatchTrainingResponse]:
        """Watch."""
        for view in self._table.watch(request.training_id, request.after_sequence):
            yield pb.WatchTrainingResponse(training=_training(view))

    def DeleteTraining(self, request: pb.DeleteTrainingRequest, _context: object) -> pb.DeleteTrainingResponse:  # noqa: N802
        """Delete."""
        self._table.delete(request.training_id)
        return pb.DeleteTrainingResponse()

    def GetServer(  # noqa: N802
        self, _request: pb.TrainServiceGetServerRequest, _context: object
    ) -> pb.TrainServiceGetServerResponse:
        """Describe."""
        return pb.TrainServiceGetServerResponse(server=job_pb2.Server(slots=1))


def _training(view: JobView) -> pb.Training:
    result = pb.TrainResult.FromString(view.result) if view.result else None
    return pb.Training(training_id=view.job_id, state=view.state, result=result, sequence=view.sequence)


def _table(directory: Path, *, queue_length: int) -> JobTable:
    return JobTable(work="benchmarks.slot_idle:mark", slots=1, directory=directory, queue=queue_length)


def _end_of(table: JobTable, job_id: str) -> JobView:
    view = list(table.watch(job_id))[-1]
    if view.failure is not None:
        raise RuntimeError(view.failure.message)
    return view


MEASURES: dict[str, tuple[str, Callable[[Path, int], list[float]]]] = {
    "queued": ("job table, next job waits in the queue", measure_waiting_jobs),
    "jobtable": ("job table, caller starts the next", measure_caller),
    "agent": ("whole agent stream, dispatcher on loopback", measure_agent),
}


def main() -> None:
    """Print a table, and one JSON object of figures as the last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer jobs; ends within 50 s")
    count = 150 if parser.parse_args().quick else 1000
    figures: dict[str, float] = {"slot_idle_jobs": count}
    rows: list[Sequence[object]] = []
    for name, (label, measure) in MEASURES.items():
        with tempfile.TemporaryDirectory() as directory:
            gaps = sorted(measure(Path(directory), count))
        p50, p95 = statistics.median(gaps), gaps[int(0.95 * len(gaps))]
        rows.append((label, f"{p50:.2f}", f"{p95:.2f}", f"{gaps[-1]:.2f}"))
        figures[f"slot_idle_{name}_ms_p50"] = p50
        figures[f"slot_idle_{name}_ms_p95"] = p95
        figures[f"slot_idle_{name}_ms_max"] = gaps[-1]
    title = f"idle time of one slot between consecutive jobs, {count} jobs each"
    print_table(title, ("path", "p50 ms", "p95 ms", "max ms"), rows)
    print_figures(figures)


if __name__ == "__main__":
    main()
