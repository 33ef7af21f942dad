"""What the engine does when work is stopped, held, changed or deleted, and agents are drained. Nothing is stored."""

from typing import TYPE_CHECKING

from nasmesh.v1 import dispatch_service_pb2 as pb
from scheduler.agents import AgentEntry
from scheduler.domain import TaskKind, TaskState
from scheduler.effects import Drained, Gone, Rearranged, Recalled, Revoked
from scheduler.machine.lifecycle import PAUSED

if TYPE_CHECKING:
    from scheduler.engine import Engine

DRAINED = "the agent is drained"


def follow(engine: "Engine", effect: Revoked | Recalled | Rearranged | Gone | Drained) -> None:
    """Carry an effect out."""
    if isinstance(effect, Revoked | Recalled):
        _cancel(engine, effect)
    elif isinstance(effect, Rearranged):
        engine.work.rearranged(engine.state, engine.state.searches[effect.search])
    elif isinstance(effect, Gone):
        engine.work.forget(effect.search)
        engine.hub.drop(effect.search)
    else:
        entry = engine.agents.get(effect.agent)
        if entry is not None:
            apply_drain(engine, entry)
            engine.work.offer(entry)
            ask_back(engine, entry)


def _cancel(engine: "Engine", effect: Revoked | Recalled) -> None:
    entry = engine.agents.get(effect.agent)
    if entry is not None:
        token = pb.AttemptToken(task=effect.task, attempt=effect.attempt, epoch=effect.epoch)
        later = isinstance(effect, Recalled)
        cancel = pb.CancelAttempt(token=token, reason=effect.reason, checkpoint=later)
        engine.send(entry.session, pb.WorkResponse(cancel=cancel))


def apply_drain(engine: "Engine", entry: AgentEntry) -> None:
    """Set whether a person has drained an agent, and tell it, if it understands that."""
    drained = entry.name in engine.state.drained
    if entry.drained != drained:
        entry.drained = drained
        if entry.accepts_batches:
            engine.send(entry.session, pb.WorkResponse(drain=pb.DrainNotice(draining=drained)))


def ask_back(engine: "Engine", entry: AgentEntry) -> None:
    """Ask for a checkpoint of every training that an agent holds and should give back; again after a reconnection.

    Of a gang rank 0 is asked, whoever of its agents is drained.
    """
    for task_id in engine.agents.held_by(entry.name):
        task = engine.state.tasks[task_id]
        if task.kind is not TaskKind.TRAIN or task.state is not TaskState.RUNNING:
            continue
        paused = engine.state.searches[task.search].paused
        attempt = task.current()
        releases = any(engine.state.drained.get(agent, False) for agent in attempt.agents)
        leader = engine.agents.get(attempt.agent)
        if leader is not None and (releases or paused):
            token = pb.AttemptToken(task=task.id, attempt=attempt.number, epoch=attempt.epoch)
            cancel = pb.CancelAttempt(token=token, reason=PAUSED if paused else DRAINED, checkpoint=True)
            engine.send(leader.session, pb.WorkResponse(cancel=cancel))
