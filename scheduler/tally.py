"""Counts an outcome that is recorded, and draws from it whether the object store works."""

from nasmesh.v1 import dispatch_service_pb2 as pb
from scheduler.activity import Activity
from scheduler.machine.tasks import STORE_OUTAGE
from scheduler.outage import STORE_DOWN, Outage


def excuse(outcome: pb.AttemptOutcome, outage: Outage) -> None:
    """While dispatch is held, have a checked STORE_DOWN be STORE_OUTAGE, which is no loss."""
    if outage.holds and outcome.HasField("failure") and outcome.failure.reason == STORE_DOWN:
        outcome.failure.reason = STORE_OUTAGE


def tally(outcome: pb.AttemptOutcome, activity: Activity, outage: Outage, now: float) -> None:
    """Count an outcome that was recorded."""
    kind = outcome.WhichOneof("result")
    if kind == "failure":
        activity.recorded(outcome.failure.reason)
        outage.failed(outcome.failure.reason, now)
        return
    activity.recorded()
    if kind == "generate":
        for trial in outcome.generate.trials:
            if trial.HasField("refusal"):
                activity.refused(trial.refusal.reason)
    # An answer without networks has touched no object, and one that was given back may not have either.
    if kind in ("train", "evaluate") or any(trial.HasField("network") for trial in outcome.generate.trials):
        outage.worked(now)
