"""What the agent asks of a driver."""

from typing import Protocol

from nasmesh.agent.attempt import Attempt
from nasmesh.v1 import dispatch_service_pb2 as pb
from nasmesh.v1 import job_pb2, search_pb2


class Driver(Protocol):
    """Works on attempts of one kind with one server. Methods may be called from several threads at once."""

    @property
    def kind(self) -> search_pb2.TaskKind.ValueType:
        """The kind of task it takes."""
        ...

    @property
    def slots(self) -> int:
        """How many attempts at once; known after `describe`."""
        ...

    def describe(self) -> job_pb2.Server:
        """Ask the server what it is; raises Unavailable where it does not answer."""
        ...

    def run(self, attempt: Attempt) -> pb.AttemptOutcome:
        """Work until the attempt ends and return the outcome, without its token.

        An attempt whose `cancelled` is set ends with `attempt.released()` soon. A NasmeshError that is raised becomes
        the attempt's failure.
        """
        ...

    def forget(self, job_id: str) -> None:
        """Drop what the server keeps of an attempt whose outcome was acknowledged; raises nasmesh.errors."""
        ...
