# ruff: noqa: N802, ARG002
"""A scheduler that does what a test says, and servers with nothing behind them."""

import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from nasmesh.agent.attempt import Attempt
from nasmesh.errors import NotFound
from nasmesh.jobs.table import ChildLimits, JobTable, JobView
from nasmesh.rpc.server import RunningServer, Service, serve_threads
from nasmesh.v1 import dispatch_service_pb2 as pb
from nasmesh.v1 import dispatch_service_pb2_grpc as rpc
from nasmesh.v1 import job_pb2, search_pb2, train_service_pb2, train_service_pb2_grpc

TRAIN = search_pb2.TASK_KIND_TRAIN
WAIT_S = 30.0


def token(task: str = "task-1", attempt: int = 1, epoch: int = 1) -> pb.AttemptToken:
    return pb.AttemptToken(task=task, attempt=attempt, epoch=epoch)


def lease(task: str = "task-1", attempt: int = 1) -> pb.Lease:
    made = pb.Lease(token=token(task, attempt), search="searches/s", trial="searches/s/trials/1")
    made.train.config.seed = 7
    return made


class FakeScheduler(rpc.DispatchServiceServicer):
    """Records what agents say; says what the test wants."""

    def __init__(self, address: str = "127.0.0.1:0") -> None:
        self.welcome = pb.Welcome(epoch=1)
        self.welcome.lease.FromMilliseconds(600)
        self.acknowledge = True
        self.connections = 0
        self.received: list[pb.WorkRequest] = []
        self._changed = threading.Condition()
        self._outbox: queue.SimpleQueue[pb.WorkResponse | None] = queue.SimpleQueue()
        self._server = self._serve(address)
        self.address = self._server.address

    def _serve(self, address: str) -> RunningServer:
        add = rpc.add_DispatchServiceServicer_to_server
        return serve_threads([Service("nasmesh.v1.DispatchService", add, self)], address)

    def Work(self, request_iterator: Iterator[pb.WorkRequest], context: object) -> Iterator[pb.WorkResponse]:
        outbox: queue.SimpleQueue[pb.WorkResponse | None] = queue.SimpleQueue()
        hello = next(request_iterator)
        with self._changed:
            self._outbox = outbox
            self.connections += 1
            self.received.append(hello)
            self._changed.notify_all()
        threading.Thread(target=self._read, args=(request_iterator, outbox), daemon=True).start()
        yield pb.WorkResponse(welcome=self.welcome)
        yield from iter(outbox.get, None)

    def GetAttempt(self, request: pb.GetAttemptRequest, context: object) -> pb.GetAttemptResponse:
        raise NotFound("ATTEMPT_UNKNOWN", "none here")

    def _read(self, requests: Iterator[pb.WorkRequest], outbox: queue.SimpleQueue[pb.WorkResponse | None]) -> None:
        try:
            for request in requests:
                with self._changed:
                    self.received.append(request)
                    self._changed.notify_all()
                for outcome in _outcomes(request) if self.acknowledge else ():
                    reply = pb.OutcomeReply(token=outcome.token, disposition=pb.OUTCOME_DISPOSITION_RECORDED)
                    outbox.put(pb.WorkResponse(outcome_reply=reply))
        except Exception:  # noqa: BLE001 - a stream that ends in whatever way ends
            return
        finally:
            outbox.put(None)

    def say(self, **kind: object) -> None:
        self._outbox.put(pb.WorkResponse(**kind))  # type: ignore[arg-type]

    def drop(self) -> None:
        """End the stream."""
        self._outbox.put(None)

    def stop(self) -> None:
        self._outbox.put(None)
        self._server.stop(0.2)

    def start_again(self) -> None:
        self._server = self._serve(self.address)

    def wait_for(self, seen: Callable[[], object]) -> None:
        with self._changed:
            assert self._changed.wait_for(seen, WAIT_S), f"only came: {self.received}"

    def outcomes(self) -> list[pb.AttemptOutcome]:
        return [outcome for request in self.received for outcome in _outcomes(request)]

    def wait_for_outcomes(self, count: int) -> list[pb.AttemptOutcome]:
        self.wait_for(lambda: len(self.outcomes()) >= count)
        return self.outcomes()

    def hellos(self) -> list[pb.AgentHello]:
        return [request.hello for request in self.received if request.HasField("hello")]

    def readies(self) -> list[pb.AgentReady]:
        return [ready for request in self.received for ready in _readies(request)]

    def heartbeats(self) -> list[pb.AttemptProgress]:
        return [line for request in self.received for line in request.heartbeat.attempts]


def _outcomes(request: pb.WorkRequest) -> list[pb.AttemptOutcome]:
    return [request.outcome] if request.HasField("outcome") else list(request.report.outcomes)


def _readies(request: pb.WorkRequest) -> list[pb.AgentReady]:
    return [request.ready] if request.HasField("ready") else list(request.report.ready)


class FakeDriver:
    """Trains by waiting until the test lets it end."""

    kind = TRAIN

    def __init__(self, slots: int = 1) -> None:
        self.slots = slots
        self.work: Callable[[Attempt], pb.AttemptOutcome] = self.finish
        self.started: queue.SimpleQueue[Attempt] = queue.SimpleQueue()
        self.forgotten: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.go = threading.Event()

    def describe(self) -> job_pb2.Server:
        return job_pb2.Server(engine="fake 1", slots=self.slots)

    def run(self, attempt: Attempt) -> pb.AttemptOutcome:
        self.started.put(attempt)
        return self.work(attempt)

    def finish(self, attempt: Attempt) -> pb.AttemptOutcome:
        return pb.AttemptOutcome(train=train_service_pb2.TrainResult(data_digest=attempt.job_id))

    def wait_for_go(self, attempt: Attempt) -> pb.AttemptOutcome:
        while not self.go.is_set() and not attempt.cancelled.is_set():
            attempt.cancelled.wait(0.01)
        return attempt.released() if attempt.cancelled.is_set() else self.finish(attempt)

    def forget(self, job_id: str) -> None:
        self.forgotten.put(job_id)


class FakeTrainServer(train_service_pb2_grpc.TrainServiceServicer):
    """TrainService over a JobTable whose work is in tests/unit/jobs_work.py."""

    def __init__(self, directory: Path, slots: int = 1) -> None:
        self.table = JobTable(
            work="jobs_work:run",
            slots=slots,
            directory=directory,
            limits=ChildLimits(cancel_grace_s=1.0),
            environment={"PYTHONPATH": str(Path(__file__).parents[1] / "unit")},
            noun="training",
        )
        self.starts: list[train_service_pb2.StartTrainingRequest] = []

    def serve(self, address: str = "127.0.0.1:0") -> RunningServer:
        add = train_service_pb2_grpc.add_TrainServiceServicer_to_server
        return serve_threads([Service("nasmesh.v1.TrainService", add, self)], address)

    def StartTraining(
        self, request: train_service_pb2.StartTrainingRequest, context: object
    ) -> train_service_pb2.StartTrainingResponse:
        self.starts.append(request)
        view = self.table.start(request.training_id, request)
        return train_service_pb2.StartTrainingResponse(training=_training(view))

    def GetTraining(
        self, request: train_service_pb2.GetTrainingRequest, context: object
    ) -> train_service_pb2.GetTrainingResponse:
        view = self.table.get(request.training_id)
        return train_service_pb2.GetTrainingResponse(training=_training(view))

    def WatchTraining(
        self, request: train_service_pb2.WatchTrainingRequest, context: object
    ) -> Iterator[train_service_pb2.WatchTrainingResponse]:
        for view in self.table.watch(request.training_id, request.after_sequence):
            yield train_service_pb2.WatchTrainingResponse(training=_training(view))

    def CancelTraining(
        self, request: train_service_pb2.CancelTrainingRequest, context: object
    ) -> train_service_pb2.CancelTrainingResponse:
        view = self.table.cancel(request.training_id)
        return train_service_pb2.CancelTrainingResponse(training=_training(view))

    def DeleteTraining(
        self, request: train_service_pb2.DeleteTrainingRequest, context: object
    ) -> train_service_pb2.DeleteTrainingResponse:
        self.table.delete(request.training_id)
        return train_service_pb2.DeleteTrainingResponse()

    def GetServer(
        self, request: train_service_pb2.TrainServiceGetServerRequest, context: object
    ) -> train_service_pb2.TrainServiceGetServerResponse:
        server = job_pb2.Server(engine="fake 1", slots=self.table.slots)
        return train_service_pb2.TrainServiceGetServerResponse(server=server)


def _training(view: JobView) -> train_service_pb2.Training:
    return train_service_pb2.Training(
        training_id=view.job_id,
        state=view.state,
        progress=train_service_pb2.TrainProgress.FromString(view.progress) if view.progress else None,
        checkpoint=view.checkpoint,
        result=train_service_pb2.TrainResult.FromString(view.result) if view.result else None,
        failure=view.failure,
        sequence=view.sequence,
    )
