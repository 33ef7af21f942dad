"""Bounds on what is measured but not learned: judged on the untrained network, none outside is trained. Pure."""

from nasmesh import metrics
from nasmesh.v1 import search_pb2 as pb


def bounds(spec: pb.SearchSpec) -> list[pb.Constraint]:
    """Return the constraints on what training does not change."""
    return [bound for bound in spec.constraints if not metrics.is_learned(bound.metric)]


def needed(spec: pb.SearchSpec, *, is_scored: bool, final: bool) -> list[str]:
    """Return the metrics that a measuring must bring: bounds of an untrained network, objectives where it `is_scored`.

    A table may lack what a server would have measured: a bound on that would be kept by every network. What is known
    from the network alone was judged when that was built, and a final trial is not judged.
    """
    if not is_scored:
        return [bound.metric for bound in bounds(spec)]
    found = [objective.metric for objective in spec.objectives]
    if spec.evaluate.table and not final:
        found += [bound.metric for bound in spec.constraints if not metrics.is_static(bound.metric)]
    return found


def wanted(spec: pb.SearchSpec, trial: pb.Trial) -> bool:
    """Say whether a trial's network is to be measured before it is trained: once, and where a bound needs it."""
    if spec.judging != pb.JUDGING_EARLY or trial.final or trial.measurements:
        # A specification of a version before this one says nothing: its journal must replay as it was recorded.
        return False
    return any(not metrics.is_static(bound.metric) for bound in bounds(spec))
