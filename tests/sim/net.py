"""One agent's stream to one scheduler: in order, in both directions, with whatever delay, until it breaks."""

from collections import deque
from typing import TYPE_CHECKING

from nasmesh.errors import NasmeshError
from nasmesh.v1 import dispatch_service_pb2 as pb
from scheduler.agents import AgentEntry
from tests.sim.dying import Boundary

if TYPE_CHECKING:
    from tests.sim.agent import SimAgent
    from tests.sim.host import Host


class Link:
    """A stream; also the Session that the scheduler sees. What is muted on one way is lost, with all that follows."""

    def __init__(self, agent: "SimAgent", host: "Host", boundary: Boundary) -> None:
        self.agent = agent
        self.host = host
        self.up: deque[pb.WorkRequest] = deque()
        self.down: deque[pb.WorkResponse] = deque()
        self.entry: AgentEntry | None = None
        self.welcomed = False
        self.broken = False
        self.mute_up = False
        self.mute_down = False
        self.held_up_until = 0.0
        self.held_down_until = 0.0
        self._boundary = boundary

    # --- the scheduler's end -----------------------------------------------------------------------------------

    def send(self, message: pb.WorkResponse) -> None:
        self._boundary("scheduler", f"send {message.WhichOneof('kind')}")
        if self.host.is_current or not message.HasField("heartbeat_reply"):
            self.host.world.checks.told(self.agent.name, message, self.host.world.now())
        if not (self.broken or self.mute_down):
            self.down.append(message)

    def close(self, error: NasmeshError) -> None:  # noqa: ARG002 - the agent only sees that the stream ended
        self.broken = True  # what the agent had said before may still be read, as from a real stream's buffers

    # --- the agent's end ---------------------------------------------------------------------------------------

    def say(self, message: pb.WorkRequest) -> None:
        if not (self.broken or self.mute_up):
            self.up.append(message)

    def cut(self) -> None:
        """Break the stream: what was under way is lost."""
        self.broken = True
        self.up.clear()
        self.down.clear()
