"""EvaluateService: convert, call, convert. The JobTable decides; the warm children score."""

from collections.abc import Iterator

import grpc

from evaluate_svc.convert import check_start, server, to_evaluation
from nasmesh.jobs.table import JobTable
from nasmesh.paging import page
from nasmesh.v1 import evaluate_service_pb2 as pb
from nasmesh.v1 import evaluate_service_pb2_grpc as rpc

# ruff: noqa: N802, ARG002 - names and signatures are the contract's


class EvaluateServicer(rpc.EvaluateServiceServicer):
    """Serves the jobs of one table."""

    def __init__(self, table: JobTable) -> None:
        """Serve the evaluations of `table`, whose noun is "evaluation"."""
        self._table = table

    def StartEvaluation(
        self, request: pb.StartEvaluationRequest, context: grpc.ServicerContext
    ) -> pb.StartEvaluationResponse:
        """Start an evaluation, or return the one that exists."""
        view = self._table.start(request.evaluation_id, check_start(request))
        return pb.StartEvaluationResponse(evaluation=to_evaluation(view))

    def GetEvaluation(
        self, request: pb.GetEvaluationRequest, context: grpc.ServicerContext
    ) -> pb.GetEvaluationResponse:
        """Return one evaluation."""
        return pb.GetEvaluationResponse(evaluation=to_evaluation(self._table.get(request.evaluation_id)))

    def ListEvaluations(
        self, request: pb.ListEvaluationsRequest, context: grpc.ServicerContext
    ) -> pb.ListEvaluationsResponse:
        """List evaluations, newest first."""
        views, token = page(
            self._table.list(), lambda view: view.job_id, size=request.page_size, token=request.page_token
        )
        return pb.ListEvaluationsResponse(evaluations=[to_evaluation(view) for view in views], next_page_token=token)

    def WatchEvaluation(
        self, request: pb.WatchEvaluationRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.WatchEvaluationResponse]:
        """Stream an evaluation's changes until it ends."""
        for view in self._table.watch(request.evaluation_id, request.after_sequence):
            yield pb.WatchEvaluationResponse(evaluation=to_evaluation(view))

    def CancelEvaluation(
        self, request: pb.CancelEvaluationRequest, context: grpc.ServicerContext
    ) -> pb.CancelEvaluationResponse:
        """Ask an evaluation to stop."""
        return pb.CancelEvaluationResponse(evaluation=to_evaluation(self._table.cancel(request.evaluation_id)))

    def DeleteEvaluation(
        self, request: pb.DeleteEvaluationRequest, context: grpc.ServicerContext
    ) -> pb.DeleteEvaluationResponse:
        """Forget an ended evaluation."""
        self._table.delete(request.evaluation_id)
        return pb.DeleteEvaluationResponse()

    def GetServer(
        self, request: pb.EvaluateServiceGetServerRequest, context: grpc.ServicerContext
    ) -> pb.EvaluateServiceGetServerResponse:
        """Describe this server."""
        return pb.EvaluateServiceGetServerResponse(server=server(self._table.slots))
