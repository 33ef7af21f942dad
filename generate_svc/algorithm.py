"""What a NAS algorithm is to this server, and the checks that all of them share."""

from typing import Protocol

from nasmesh import spaces
from nasmesh.errors import Invalid
from nasmesh.v1 import generate_service_pb2 as pb

# More proposals in one call would outgrow a message; a search that wants more calls again.
MAX_COUNT = 1000


class Algorithm(Protocol):
    """A NAS algorithm; pure: everything that it knows is in the request, chance included."""

    def describe(self) -> pb.Generator:
        """Return its name, version, settings schema and the kinds of spaces it understands."""
        ...

    def propose(self, request: pb.ProposeRequest) -> pb.ProposeResponse:
        """Return the answer to a checked request; raises Invalid (SETTINGS_INVALID, STATE_UNREADABLE, …)."""
        ...


def check_request(generator: pb.Generator, request: pb.ProposeRequest) -> None:
    """Raise Invalid where the request could not be meant for any call of the generator.

    Reasons: SPACE_UNSUPPORTED, SPACE_INVALID, TASK_INVALID, COUNT_INVALID, CALL_INVALID.
    """
    kind = spaces.kind(request.space)
    if generator.spaces and kind not in generator.spaces:
        message = f"{generator.name} searches spaces of kind {', '.join(generator.spaces)}, not {kind}"
        raise Invalid("SPACE_UNSUPPORTED", message, field="space")
    spaces.choices(request.space, input_dims=request.input_dims, classes=request.classes)
    if not 1 <= request.count <= MAX_COUNT:
        raise Invalid("COUNT_INVALID", f"count: {request.count}; ask for 1 to {MAX_COUNT}", field="count")
    if request.call < 1:
        raise Invalid("CALL_INVALID", f"call: {request.call}; calls are numbered from 1", field="call")
