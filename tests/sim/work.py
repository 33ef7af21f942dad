"""What servers do in a life: how an attempt ends, by chance or with what it made."""

import hashlib
from typing import TYPE_CHECKING

from nasmesh.errors import Unavailable
from nasmesh.store.keys import ObjectKind
from nasmesh.v1 import dispatch_service_pb2 as pb
from nasmesh.v1 import object_pb2
from scheduler.invariants import InvariantError
from tests.builders import scheduling as make
from tests.sim.options import GIB, needed_bytes

if TYPE_CHECKING:
    from tests.sim.world import World


class Work:
    """What servers do: read their objects, compute, store what came, all the same whoever does it and when."""

    def __init__(self, world: "World") -> None:
        self._world = world

    def outcome(self, lease: pb.Lease, given_bytes: int) -> pb.AttemptOutcome | None:
        """Return how an attempt ends on a server that gives so much memory.

        Nothing where its end is for rank 0 of its gang to tell.
        """
        failed = self._chance(lease) or self._misfit(lease, given_bytes)
        if failed is not None:
            return failed
        if lease.train.HasField("gang"):
            self._meet(lease)
            if self._world.faulty and self._world.rng.random() < 0.1:
                return make.make_failure(lease, "RANK_LOST", counted=False)
            if lease.train.gang.rank:
                return None
        try:
            return self._done(lease)
        except Unavailable as error:
            return make.make_failure(lease, error.reason, counted=False)

    def _chance(self, lease: pb.Lease) -> pb.AttemptOutcome | None:
        world = self._world
        # Trials that have passed a rung are few, and most of them are trained when faults have stopped.
        later = world.options.failures and "-train-r" in lease.token.task
        if later and world.rng.random() < 0.15:
            return make.make_failure(lease, "NETWORK_DIVERGED", retryable=False)
        if not world.faulty:
            return None
        if world.rng.random() < world.options.releases:
            return pb.AttemptOutcome(token=lease.token, released=pb.AttemptReleased())
        if not world.options.failures:
            return None
        chance = world.rng.random()
        if chance < 0.08:
            return make.make_failure(lease)
        if chance < 0.10:
            return make.make_failure(lease, "NETWORK_DIVERGED", retryable=False)
        if chance < 0.12:
            return pb.AttemptOutcome(token=lease.token)
        if chance < 0.14 and (lease.HasField("train") or lease.HasField("evaluate")):
            return make.make_infeasible(lease)
        return None

    def _misfit(self, lease: pb.Lease, given_bytes: int) -> pb.AttemptOutcome | None:
        """Return how a training ends that does not fit: some servers know by how much, others that it is too much."""
        needed = needed_bytes(self._world.options, lease.trial)
        if not lease.HasField("train") or lease.train.HasField("gang") or needed <= given_bytes:
            return None
        self._world.count("did not fit")
        return make.make_infeasible(lease, given=given_bytes, needed=max(given_bytes + 1, needed - needed % (6 * GIB)))

    def _meet(self, lease: pb.Lease) -> None:
        """See that all who train together were told the same, and one of them to lead."""
        gang, token = lease.train.gang, lease.token
        known = self._world.meetings.setdefault((token.task, token.attempt), (gang.size, gang.rendezvous))
        if known != (gang.size, gang.rendezvous) or not gang.rendezvous or not 0 <= gang.rank < gang.size:
            raise InvariantError(f"gang: {token.task} attempt {token.attempt} meets as {gang}, another as {known}")

    def _done(self, lease: pb.Lease) -> pb.AttemptOutcome:
        outcome = make.make_outcome(lease)
        kind = lease.WhichOneof("work")
        if kind == "train":
            self._read(lease.train.network)
            if lease.train.HasField("resume_from"):
                self._read(lease.train.resume_from)
            elif "-train-r" in lease.token.task:
                raise InvariantError(f"rungs: {lease.token.task} begins anew instead of from its checkpoint")
            # Read back by the checks: which attempt's training was recorded.
            outcome.train.environment["attempt"] = f"{lease.token.task}/{lease.token.attempt}"
            text = make.train_text(lease)
            self._put(ObjectKind.CHECKPOINT, text)
            self._put(ObjectKind.CHECKPOINT, f"{text} model")
        elif kind == "evaluate":
            self._read(lease.evaluate.model)
            outcome.evaluate.environment["attempt"] = f"{lease.token.task}/{lease.token.attempt}"
        elif kind == "generate":
            for index, _ in enumerate(outcome.generate.trials):
                request = lease.generate.request
                self._put(ObjectKind.NETWORK, make.network_text(request, index))
            self._world.vary(outcome.generate)
        elif kind == "admit":
            wanted = lease.admit.proposal.choices.values.get("network", lease.trial)
            self._put(ObjectKind.NETWORK, f"admitted {wanted}")
        else:
            for source in lease.finalize.sources:
                self._put(ObjectKind.NETWORK, f"final of {source.name}")
        return outcome

    def _put(self, kind: ObjectKind, text: str) -> None:
        self._world.store.put(kind, text.encode())

    def _read(self, ref: object_pb2.ObjectRef) -> None:
        content = self._world.store.get(ref)
        if hashlib.sha256(content).hexdigest() != ref.sha256:
            raise InvariantError(f"I9: {ref.key} was read with other bytes than its own")
