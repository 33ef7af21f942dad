"""Drives a generate server: asks it for networks and makes trials of what it proposes."""

from nasmesh import ids, spaces
from nasmesh.agent.attempt import Attempt
from nasmesh.agent.backoff import Backoff
from nasmesh.agent.drivers.finalize import finalize
from nasmesh.agent.drivers.following import UNREACHABLE_S
from nasmesh.agent.drivers.proposals import Workbench, admit_enqueued, task_of, trial_of
from nasmesh.agent.targets import Target
from nasmesh.clock import Clock, SystemClock
from nasmesh.errors import Busy, Invalid, Unavailable
from nasmesh.limits import STATE_BYTES
from nasmesh.logs import get_logger
from nasmesh.store.base import ObjectStore
from nasmesh.v1 import dispatch_service_pb2, job_pb2, search_pb2
from nasmesh.v1 import generate_service_pb2 as pb

_LOG = get_logger("agent")


class GenerateDriver:
    """Works on generate tasks, those of the final phase included."""

    kind = search_pb2.TASK_KIND_GENERATE

    def __init__(
        self,
        target: Target,
        store: ObjectStore,
        *,
        slots: int = 1,
        clock: Clock | None = None,
        unreachable_s: float = UNREACHABLE_S,
    ) -> None:
        """Drive this server; networks go to `store`."""
        self._target = target
        self._store = store
        self.slots = slots
        self._clock = clock or SystemClock()
        self._unreachable_s = unreachable_s
        self._versions: dict[str, str] = {}

    def describe(self) -> job_pb2.Server:
        """Ask the server which generators it serves."""
        request = pb.ListServedGeneratorsRequest()
        response = self._target.unary("ListServedGenerators", request, pb.ListServedGeneratorsResponse)
        self._versions = {generator.name: generator.version for generator in response.generators}
        return job_pb2.Server(generators=response.generators, slots=self.slots)

    def run(self, attempt: Attempt) -> dispatch_service_pb2.AttemptOutcome:
        """Propose networks, admit one that a person added, or enlarge networks for the final phase."""
        if attempt.lease.HasField("finalize"):
            return dispatch_service_pb2.AttemptOutcome(generate=finalize(attempt.lease.finalize, self._store))
        if attempt.lease.HasField("admit"):
            return dispatch_service_pb2.AttemptOutcome(generate=admit_enqueued(attempt.lease.admit, self._store))
        work = attempt.lease.generate
        task = task_of(work.data, self._store)
        request = pb.ProposeRequest()
        request.CopyFrom(work.request)
        request.input_dims[:] = task.input_dims
        request.classes = task.classes
        del request.choices[:]
        request.choices.extend(spaces.choices(request.space, input_dims=task.input_dims, classes=task.classes))
        response = self._propose(request, attempt)
        if response is None:
            return attempt.released()
        check_reply(request, response)
        return self._result(request, response, attempt, Workbench(task, self._store))

    def forget(self, job_id: str) -> None:
        """Do nothing: generate servers keep nothing."""

    def _propose(self, request: pb.ProposeRequest, attempt: Attempt) -> pb.ProposeResponse | None:
        """Return the server's answer, or None where the attempt should stop first; outlasts a short absence."""
        backoff = Backoff()
        asked = self._clock.monotonic()
        while not attempt.cancelled.is_set():
            try:
                return self._target.unary("Propose", request, pb.ProposeResponse)
            except (Unavailable, Busy) as error:
                away_s = self._clock.monotonic() - asked
                if away_s >= self._unreachable_s:
                    reason = "SERVER_UNREACHABLE" if error.reason == "UNREACHABLE" else error.reason
                    raise Unavailable(reason, f"no proposals within {away_s:.0f} s: {error.message}") from error
                _LOG.info("server_away", reason=error.reason)
            attempt.cancelled.wait(backoff.next_s())
        return None

    def _result(
        self, request: pb.ProposeRequest, response: pb.ProposeResponse, attempt: Attempt, bench: Workbench
    ) -> dispatch_service_pb2.AttemptOutcome:
        result = dispatch_service_pb2.GenerateResult(
            state=response.state,
            done=response.done,
            note=response.note,
            next_call=response.next_call if response.HasField("next_call") else None,
            generator_version=self._versions.get(request.generator, ""),
        )
        for proposal in response.proposals:
            if attempt.cancelled.is_set():
                return attempt.released()
            result.trials.append(trial_of(proposal, request, bench))
        return dispatch_service_pb2.AttemptOutcome(generate=result)


def check_reply(request: pb.ProposeRequest, response: pb.ProposeResponse) -> None:
    """Refuse an answer that breaks the contract; raises Invalid (GENERATOR_REPLY_INVALID) with what is wrong.

    A generator may be somebody else's program in any language, so nothing of its answer is taken on trust.
    """
    if len(response.proposals) > request.count:
        raise _nonsense("proposals", f"{len(response.proposals)} proposals, {request.count} were asked for")
    if len(response.state) > STATE_BYTES:
        raise _nonsense(
            "state", f"a state of {len(response.state)} bytes; at most {STATE_BYTES}: store an object instead"
        )
    seen: set[str] = set()
    for index, proposal in enumerate(response.proposals):
        field = f"proposals[{index}]"
        if proposal.WhichOneof("network") is None:
            raise _nonsense(f"{field}.network", "no network; set choices, architecture, onnx or object")
        if proposal.proposal_id and proposal.proposal_id in seen:
            raise _nonsense(f"{field}.proposal_id", f"{proposal.proposal_id[:80]!r} was used before; make it unique")
        seen.add(proposal.proposal_id)
        for name in [*proposal.parents, *([proposal.inherit_from] if proposal.inherit_from else [])]:
            _check_trial(name, field)
    if response.next_call.after_results < 0 or response.next_call.in_flight_below < 0:
        raise _nonsense("next_call", "negative; use 0 for unset")


def _check_trial(name: str, field: str) -> None:
    try:
        ids.parse_trial(name, field=field)
    except Invalid as error:
        raise _nonsense(field, error.message) from None


def _nonsense(field: str, what: str) -> Invalid:
    return Invalid("GENERATOR_REPLY_INVALID", f"the generator's answer: {field}: {what}", field=field)
