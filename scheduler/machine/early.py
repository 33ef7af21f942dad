"""What is measured but not learned: bounds on it, judged on the untrained network so that none outside is trained, and
proxies, which training measures before it begins. Pure.
"""

from nasmesh import metrics
from nasmesh.errors import Invalid
from nasmesh.v1 import search_pb2 as pb
from scheduler.machine import reuse

UNDEFINED = "PROXY_UNDEFINED"
"""Why a trial failed whose network has no finite value of a proxy that is an objective."""


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


def is_proxied(spec: pb.SearchSpec, trial: pb.Trial, metric: str) -> bool:
    """Say whether an objective is not for evaluation to measure: a zero-cost proxy, which no final trial needs.

    Raises Invalid (PROXY_UNDEFINED) where training did not measure it either: another attempt would do the same.
    """
    if not metrics.is_proxy(metric, spec.evaluate):
        return False
    if not trial.final and reuse.measured(trial, metric) is None:
        message = f"{metric}, an objective, is no finite number for this network, or its training did not measure it"
        raise Invalid(UNDEFINED, message, field="train.measurements")
    return True
