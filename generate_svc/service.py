"""GenerateService: convert, call, convert. Which algorithm answers, and what is refused, is decided in registry."""

from collections.abc import Mapping

import grpc

from generate_svc import registry
from generate_svc.algorithm import Algorithm
from nasmesh.v1 import generate_service_pb2 as pb
from nasmesh.v1 import generate_service_pb2_grpc as rpc


class GenerateServicer(rpc.GenerateServiceServicer):
    """Serves some algorithms by id, those of the registry unless others are given; holds no state."""

    def __init__(self, served: Mapping[str, Algorithm] = registry.GENERATORS) -> None:
        """Serve these."""
        self._served = served

    def ListServedGenerators(  # noqa: N802 - the contract's name
        self,
        request: pb.ListServedGeneratorsRequest,  # noqa: ARG002 - has no fields
        context: grpc.ServicerContext,  # noqa: ARG002
    ) -> pb.ListServedGeneratorsResponse:
        """List the generators served here."""
        return registry.list_served(self._served)

    def GetGenerator(  # noqa: N802
        self,
        request: pb.GetGeneratorRequest,
        context: grpc.ServicerContext,  # noqa: ARG002
    ) -> pb.GetGeneratorResponse:
        """Describe one generator."""
        return registry.describe(request, self._served)

    def Propose(  # noqa: N802
        self,
        request: pb.ProposeRequest,
        context: grpc.ServicerContext,  # noqa: ARG002
    ) -> pb.ProposeResponse:
        """Propose networks."""
        return registry.propose(request, self._served)
