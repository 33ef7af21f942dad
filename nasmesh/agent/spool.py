"""What an agent must not forget when it is killed: leases, checkpoints, outcomes not yet acknowledged, the epoch."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.message import DecodeError

from nasmesh import ids
from nasmesh.clock import new_id
from nasmesh.errors import Invalid
from nasmesh.jobs.records import RecordDirectory
from nasmesh.logs import get_logger
from nasmesh.v1 import dispatch_service_pb2 as pb
from nasmesh.v1 import object_pb2

_LOG = get_logger("agent")
_INSTANCE = re.compile(r"[0-9a-f]{32}")


def job_id_of(token: pb.AttemptToken) -> str:
    """Return the id under which an attempt is worked on and kept; raises Invalid for a token that makes no id."""
    if token.attempt < 1:
        raise Invalid("LEASE_INVALID", f"attempt {token.attempt} of task {token.task[:80]!r} is not positive")
    return ids.job_id(ids.check_task_id(token.task), token.attempt)


def about(token: pb.AttemptToken) -> dict[str, object]:
    """Return what log lines say of an attempt."""
    return {"task": token.task[:120], "attempt": token.attempt, "epoch": token.epoch}


@dataclass(frozen=True, slots=True)
class Kept:
    """A lease that an earlier process of this agent held, with the last checkpoint it knew of."""

    lease: pb.Lease
    checkpoint: object_pb2.ObjectRef | None


class Spool:
    """Small durable files under the agent's work directory, one of each kind per attempt."""

    def __init__(self, directory: Path) -> None:
        """Open or make the directory."""
        self._leases = RecordDirectory(directory / "attempts", ".lease")
        self._checkpoints = RecordDirectory(directory / "attempts", ".checkpoint")
        self._outcomes = RecordDirectory(directory / "attempts", ".outcome")
        self._epoch = RecordDirectory(directory, ".epoch")
        self._instance = RecordDirectory(directory, ".instance")

    def load_epoch(self) -> int:
        """Return the highest scheduler epoch this agent has seen; 0: none."""
        return max((int(text) for _, text in self._epoch.load() if text.isdigit()), default=0)

    def put_epoch(self, epoch: int) -> None:
        """Remember the epoch."""
        self._epoch.put("scheduler", str(epoch).encode())

    def instance(self) -> str:
        """Return what tells this agent from others of its name: chosen at the first call, the same ever after.

        Where the disk refuses, the same until this process ends: the next one may have to wait until the scheduler has
        given this one up.
        """
        known = next((text.decode(errors="replace") for _, text in self._instance.load()), "")
        if not _INSTANCE.fullmatch(known):
            known = new_id()
            try:
                self._instance.put("agent", known.encode())
            except OSError as error:
                _LOG.error("instance_not_remembered", error=str(error))
        return known

    def put_lease(self, lease: pb.Lease) -> None:
        """Remember a lease before any work starts."""
        self._leases.put(job_id_of(lease.token), lease.SerializeToString())

    def put_checkpoint(self, token: pb.AttemptToken, checkpoint: object_pb2.ObjectRef) -> None:
        """Remember the attempt's last checkpoint."""
        self._checkpoints.put(job_id_of(token), checkpoint.SerializeToString())

    def put_outcome(self, outcome: pb.AttemptOutcome) -> None:
        """Remember an outcome before it is sent."""
        self._outcomes.put(job_id_of(outcome.token), outcome.SerializeToString())

    def drop(self, token: pb.AttemptToken) -> None:
        """Forget an attempt. The outcome goes last: without it, a lease that is left would be worked on again."""
        for records in (self._leases, self._checkpoints, self._outcomes):
            records.remove(job_id_of(token))

    def load_outcomes(self) -> Iterator[pb.AttemptOutcome]:
        """Yield the outcomes that were not acknowledged."""
        for name, content in self._outcomes.load():
            try:
                outcome = pb.AttemptOutcome.FromString(content)
                job_id_of(outcome.token)
            except (DecodeError, Invalid):
                _unreadable(self._outcomes, name)
            else:
                yield outcome

    def load_leases(self) -> Iterator[Kept]:
        """Yield the leases that were held, also those that have an outcome."""
        checkpoints = dict(self._checkpoints.load())
        for name, content in self._leases.load():
            try:
                lease = pb.Lease.FromString(content)
                job_id_of(lease.token)
                known = checkpoints.get(name)
                checkpoint = object_pb2.ObjectRef.FromString(known) if known else None
            except (DecodeError, Invalid):
                _unreadable(self._leases, name)
            else:
                yield Kept(lease, checkpoint)


def _unreadable(records: RecordDirectory, name: str) -> None:
    _LOG.warning("spool_file_unreadable", file=name)
    records.remove(name)
