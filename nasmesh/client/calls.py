"""What the parts of the client have in common: the stub, and the way a call is sent."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeVar

from nasmesh.v1.scheduler_service_pb2_grpc import SchedulerServiceStub

Reply = TypeVar("Reply")


class Calls(ABC):
    """A part of the client."""

    @property
    @abstractmethod
    def _stub(self) -> SchedulerServiceStub:
        """Whom to ask."""

    @abstractmethod
    def _call(self, send: Callable[[], Reply]) -> Reply:
        """Send until it is answered, as patiently as the client is; raises nasmesh.errors."""
