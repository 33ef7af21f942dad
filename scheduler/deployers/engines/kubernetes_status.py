"""How a server stands, from what a cluster says of its Job or TrainJob and of its pods. Pure."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from scheduler.deployers.base import Standing, State
from scheduler.deployers.engines.kubernetes_bodies import SERVER_LABEL

JOB_SET = "jobset.sigs.k8s.io/jobset-name"
"""Label of pods with the name of the TrainJob that they belong to."""

_SAID = 300


def standing(job: Mapping[str, Any], waits: Mapping[str, tuple[bool, str]]) -> Standing:
    """Return how a server stands, by its Job or TrainJob and by what `waiting` found."""
    metadata, status = job["metadata"], job.get("status") or {}
    name = str(metadata["name"])
    conditions = {c["type"]: c for c in status.get("conditions") or [] if c.get("status") == "True"}
    for kind, how in (("Complete", "completed"), ("Failed", "failed")):
        if kind in conditions:
            said = conditions[kind].get("message") or conditions[kind].get("reason") or ""
            return Standing(name, State.ENDED, f"{how}: {said}"[:_SAID] if said else how)
    if metadata.get("deletionTimestamp"):
        return Standing(name, State.RUNNING, "is being removed")
    if "Suspended" in conditions or (job.get("spec") or {}).get("suspend"):
        return Standing(name, State.PENDING, "waits for its queue to admit it")
    if name in waits:
        runs, why = waits[name]
        return Standing(name, State.RUNNING if runs else State.PENDING, why)
    return Standing(name, State.PENDING, "has no pod yet")


def has_ended(job: Mapping[str, Any]) -> bool:
    """Say whether a Job or TrainJob is over."""
    conditions = (job.get("status") or {}).get("conditions") or []
    return any(c["type"] in ("Complete", "Failed") and c.get("status") == "True" for c in conditions)


def waiting(pods: Sequence[Mapping[str, Any]]) -> dict[str, tuple[bool, str]]:
    """Return of each server whether its newest pod runs, and where, or what it waits for."""
    found: dict[str, tuple[bool, str]] = {}
    for pod in sorted(pods, key=lambda pod: _created(pod)):
        labels = pod["metadata"].get("labels") or {}
        name = labels.get(SERVER_LABEL) or labels.get(JOB_SET)
        if name:
            status = pod.get("status") or {}
            runs = status.get("phase") not in (None, "Pending")
            found[name] = (runs, _where(pod, status) if runs else _why(status))
    return found


def _created(pod: Mapping[str, Any]) -> datetime:
    return datetime.fromisoformat(pod["metadata"].get("creationTimestamp") or "1970-01-01T00:00:00Z")


def _where(pod: Mapping[str, Any], status: Mapping[str, Any]) -> str:
    node = (pod.get("spec") or {}).get("nodeName")
    return f"pod {status.get('phase', '')}" + (f" on {node}" if node else "")


def _why(status: Mapping[str, Any]) -> str:
    for container in status.get("containerStatuses") or []:
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason"):
            return f"{waiting['reason']}: {waiting.get('message') or ''}".strip(": ")[:_SAID]
    for condition in status.get("conditions") or []:
        if condition.get("status") == "False" and condition.get("message"):
            return f"{condition.get('reason', '')}: {condition['message']}"[:_SAID]
    return "its pod is pending"
