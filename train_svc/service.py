"""TrainService: convert, call, convert. The JobTable decides; the warm children train."""

from collections.abc import Iterator

import grpc

from nasmesh.jobs.table import JobTable
from nasmesh.paging import page
from nasmesh.v1 import train_service_pb2 as pb
from nasmesh.v1 import train_service_pb2_grpc as rpc
from train_svc.convert import check_start, grace_s, server, slots_of, to_training

# ruff: noqa: N802, ARG002 - names and signatures are the contract's


class TrainServicer(rpc.TrainServiceServicer):
    """Serves the jobs of one table."""

    def __init__(self, table: JobTable, *, gang_address: str = "") -> None:
        """Serve the trainings of `table`, whose noun is "training"; other servers reach this one at `gang_address`."""
        self._table = table
        self._gang_address = gang_address

    def StartTraining(
        self, request: pb.StartTrainingRequest, context: grpc.ServicerContext
    ) -> pb.StartTrainingResponse:
        """Start a training, or return the one that exists."""
        checked = check_start(request, slots=self._table.slots, gang_address=self._gang_address)
        awaited = checked.HasField("gang")
        view = self._table.start(request.training_id, checked, slots=slots_of(checked), once=awaited)
        return pb.StartTrainingResponse(training=to_training(view))

    def GetTraining(self, request: pb.GetTrainingRequest, context: grpc.ServicerContext) -> pb.GetTrainingResponse:
        """Return one training."""
        return pb.GetTrainingResponse(training=to_training(self._table.get(request.training_id)))

    def ListTrainings(
        self, request: pb.ListTrainingsRequest, context: grpc.ServicerContext
    ) -> pb.ListTrainingsResponse:
        """List trainings, newest first."""
        views, token = page(
            self._table.list(), lambda view: view.job_id, size=request.page_size, token=request.page_token
        )
        return pb.ListTrainingsResponse(trainings=[to_training(view) for view in views], next_page_token=token)

    def WatchTraining(
        self, request: pb.WatchTrainingRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.WatchTrainingResponse]:
        """Stream a training's changes until it ends."""
        for view in self._table.watch(request.training_id, request.after_sequence):
            yield pb.WatchTrainingResponse(training=to_training(view))

    def CancelTraining(
        self, request: pb.CancelTrainingRequest, context: grpc.ServicerContext
    ) -> pb.CancelTrainingResponse:
        """Ask a training to stop."""
        return pb.CancelTrainingResponse(
            training=to_training(self._table.cancel(request.training_id, grace_s(request)))
        )

    def DeleteTraining(
        self, request: pb.DeleteTrainingRequest, context: grpc.ServicerContext
    ) -> pb.DeleteTrainingResponse:
        """Forget an ended training."""
        self._table.delete(request.training_id)
        return pb.DeleteTrainingResponse()

    def GetServer(
        self, request: pb.TrainServiceGetServerRequest, context: grpc.ServicerContext
    ) -> pb.TrainServiceGetServerResponse:
        """Describe this server."""
        found = server(self._table.slots, self._table.memory_bytes, self._gang_address)
        return pb.TrainServiceGetServerResponse(server=found)
