"""Where trainings go that need more memory than where they ran, as a witness sees it."""

from dataclasses import dataclass, field

from nasmesh.limits import AGENT_KNOWN_S
from nasmesh.v1 import dispatch_service_pb2 as pb
from scheduler.domain import State
from scheduler.facts import AttemptLeased, NeedUnmet
from scheduler.invariants import InvariantError


@dataclass(slots=True)
class Placing:
    """What the agents with train servers give, and when each was last told something, by a scheduler of which epoch."""

    gives: dict[str, int] = field(default_factory=dict)
    met: dict[str, tuple[int, float]] = field(default_factory=dict)

    def told(self, agent: str, message: pb.WorkResponse, now: float) -> None:
        """Note that an agent was there."""
        if message.HasField("welcome"):
            self.met[agent] = message.welcome.epoch, now
        elif agent in self.met:
            self.met[agent] = self.met[agent][0], now

    def check(self, state: State, change: AttemptLeased | NeedUnmet, now: float) -> None:
        """Check that who is given a training gives what it needs, and that one is given up where nobody there does."""
        task = state.tasks[change.task]
        if isinstance(change, AttemptLeased):
            if self.gives.get(change.agent, 0) < task.need_bytes:
                raise InvariantError(f"needs: {change.agent} gives too little for {task.need_bytes}: {task.story()}")
            return
        for agent, (epoch, at) in self.met.items():
            is_known = epoch == state.epoch and now - at < AGENT_KNOWN_S
            if is_known and self.gives.get(agent, 0) >= task.need_bytes:
                raise InvariantError(f"needs: {agent} could have done it {now - at:.1f} s ago: {task.story()}")
