"""What clients do with what exists: hold, let go on, change and delete searches, add networks, drain agents.

Methods are commands of the engine.
"""

from functools import partial

from nasmesh import ids
from nasmesh.errors import Invalid, NotFound, Raced, Stale
from nasmesh.logs import get_logger
from nasmesh.rpc.identity import LOCAL, Identity
from nasmesh.store.keys import ObjectKind, check_ref
from nasmesh.v1 import generate_service_pb2, search_pb2
from nasmesh.v1 import scheduler_service_pb2 as pb
from scheduler import convert, update_mask
from scheduler.domain import OPEN_SEARCHES, SearchRun, SearchState
from scheduler.engine import Engine
from scheduler.machine import searching
from scheduler.once import once
from scheduler.outcomes import merged_plan, merged_train
from scheduler.quotas import check_queued_networks
from scheduler.searches import Searches
from scheduler.validate import check_changed
from scheduler.wishes import AgentDrained, SearchDeleted, SearchPaused, SearchResumed, SearchUpdated, TrialEnqueued

# It travels in one message with the search's space, and stays in the journal; larger networks are imported first.
_PROPOSAL_BYTES = 1024 * 1024
_PARENTS = 64
_NOTE = 1000
_log = get_logger("lifecycle")


class Lifecycle:
    """Wishes about searches and agents that exist."""

    def __init__(self, engine: Engine, searches: Searches) -> None:
        """Serve an engine."""
        self._engine = engine
        self._searches = searches

    def pause(self, request: pb.PauseSearchRequest, *, caller: Identity = LOCAL) -> pb.PauseSearchResponse:
        """Hold a search; raises NotFound (SEARCH_UNKNOWN), Stale (SEARCH_ENDED)."""
        act = partial(self._pause, request.name, caller)
        return once(self._engine, request.request_id, request, act, pb.PauseSearchResponse, caller=caller)

    def resume(self, request: pb.ResumeSearchRequest, *, caller: Identity = LOCAL) -> pb.ResumeSearchResponse:
        """Let a search go on; raises NotFound (SEARCH_UNKNOWN), Stale (SEARCH_ENDED)."""
        act = partial(self._resume, request.name, caller)
        return once(self._engine, request.request_id, request, act, pb.ResumeSearchResponse, caller=caller)

    def update(self, request: pb.UpdateSearchRequest, *, caller: Identity = LOCAL) -> pb.UpdateSearchResponse:
        """Change a search, or only check that; raises what UpdateSearch documents."""
        if request.validate_only:
            run, spec = self._checked_update(request, caller)
            found = convert.search_message(run)
            found.spec.CopyFrom(spec)
            return pb.UpdateSearchResponse(search=found)
        act = partial(self._update, request, caller)
        return once(self._engine, request.request_id, request, act, pb.UpdateSearchResponse, caller=caller)

    def delete(
        self, request: pb.DeleteSearchRequest, told: pb.DeleteSearchResponse, *, caller: Identity = LOCAL
    ) -> pb.DeleteSearchResponse:
        """Delete an ended search and answer what was counted before; raises what DeleteSearch documents."""
        if not request.apply:
            self.deletable(request.name, caller=caller)
            return told
        act = partial(self._delete, request.name, told, caller)
        return once(self._engine, request.request_id, request, act, pb.DeleteSearchResponse, caller=caller)

    def enqueue(self, request: pb.EnqueueTrialRequest, *, caller: Identity = LOCAL) -> pb.EnqueueTrialResponse:
        """Add a network to a search; raises what EnqueueTrial documents. ONNX bytes are in the store by now."""
        act = partial(self._enqueue, request, caller)
        return once(self._engine, request.request_id, request, act, pb.EnqueueTrialResponse, caller=caller)

    def drain(self, request: pb.DrainAgentRequest, *, caller: Identity = LOCAL) -> pb.DrainAgentResponse:
        """Give an agent no more work; raises NotFound (AGENT_UNKNOWN)."""

        def act() -> pb.DrainAgentResponse:
            return pb.DrainAgentResponse(agent=self._set_drain(AgentDrained(request.name, True, request.release)))

        return once(self._engine, request.request_id, request, act, pb.DrainAgentResponse, caller=caller)

    def undrain(self, request: pb.UndrainAgentRequest, *, caller: Identity = LOCAL) -> pb.UndrainAgentResponse:
        """Give an agent work again; raises NotFound (AGENT_UNKNOWN)."""

        def act() -> pb.UndrainAgentResponse:
            return pb.UndrainAgentResponse(agent=self._set_drain(AgentDrained(request.name, False)))

        return once(self._engine, request.request_id, request, act, pb.UndrainAgentResponse, caller=caller)

    def deletable(self, name: str, *, caller: Identity = LOCAL) -> SearchRun:
        """Return a search that may be deleted; raises NotFound, Stale (SEARCH_OPEN, SEARCH_REFERENCED)."""
        run = self._searches.writable(name, caller=caller)
        if run.state in OPEN_SEARCHES:
            raise Stale("SEARCH_OPEN", f"{run.name} has not ended; cancel it first", field="name")
        users = [other.name for other in self._engine.state.searches.values() if run.id in other.reused]
        if users:
            more = f" and {len(users) - 1} more" if len(users) > 1 else ""
            raise Stale(
                "SEARCH_REFERENCED",
                f"trials of {users[0]}{more} took measurements over from {run.name}; delete those searches first",
                field="name",
            )
        return run

    # --- below -----------------------------------------------------------------------------------------------

    def _open(self, name: str, caller: Identity, *, field: str = "name") -> SearchRun:
        run = self._searches.writable(name, caller=caller, field=field)
        if run.state not in OPEN_SEARCHES:
            raise Stale("SEARCH_ENDED", f"{run.name} has ended ({run.state.name}); create a new one", field=field)
        return run

    def _pause(self, name: str, caller: Identity) -> pb.PauseSearchResponse:
        run = self._open(name, caller)
        if not run.paused:
            self._engine.record(SearchPaused(run.id))
            _log.info("search_paused", search=run.id)
        return pb.PauseSearchResponse(search=convert.search_message(run))

    def _resume(self, name: str, caller: Identity) -> pb.ResumeSearchResponse:
        run = self._open(name, caller)
        if run.paused:
            self._engine.record(SearchResumed(run.id))
            _log.info("search_resumed", search=run.id)
        return pb.ResumeSearchResponse(search=convert.search_message(run))

    def _checked_update(
        self, request: pb.UpdateSearchRequest, caller: Identity
    ) -> tuple[SearchRun, search_pb2.SearchSpec]:
        run = self._open(request.search.name, caller, field="search.name")
        if request.search.etag and request.search.etag != str(run.sequence):
            raise Raced("ETAG_STALE", f"{run.name} has changed since it was read; read it again", field="search.etag")
        spec = update_mask.changed(run.spec, request.search.spec, request.update_mask)
        check_changed(spec)
        if spec.budget != run.spec.budget and (run.state is not SearchState.RUNNING or run.stop_reason):
            raise Stale(
                "SEARCH_PHASE_OVER",
                f"the search phase of {run.name} is over, and its budget with it; create a new search",
                field="search.spec.budget",
            )
        return run, spec

    def _update(self, request: pb.UpdateSearchRequest, caller: Identity) -> pb.UpdateSearchResponse:
        run, spec = self._checked_update(request, caller)
        if spec != run.spec:
            self._engine.record(SearchUpdated(run.id, spec))
            _log.info("search_updated", search=run.id, fields=",".join(request.update_mask.paths))
        return pb.UpdateSearchResponse(search=convert.search_message(run))

    def _delete(self, name: str, told: pb.DeleteSearchResponse, caller: Identity) -> pb.DeleteSearchResponse:
        run = self.deletable(name, caller=caller)
        self._engine.record(SearchDeleted(run.id))
        _log.info("search_deleted", search=run.id, trials=told.trials)
        return told

    def _enqueue(self, request: pb.EnqueueTrialRequest, caller: Identity) -> pb.EnqueueTrialResponse:
        run = self._searches.writable(request.parent, field="parent", caller=caller)
        if run.state is not SearchState.RUNNING or run.stop_reason:
            raise Stale(
                "SEARCH_PHASE_OVER", f"the search phase of {run.name} is over; create a new search", field="parent"
            )
        proposal = _complete(run, request.proposal)
        most = run.spec.budget.max_trials
        if 0 < most <= searching.committed(run):
            raise Stale(
                "BUDGET_SPENT",
                f"the {most} trials of {run.name} are under way or done; raise spec.budget.max_trials first",
                field="parent",
            )
        check_queued_networks(self._engine.state, run.owner, self._searches.quotas.queued_networks)
        self._engine.record(TrialEnqueued(run.id, proposal))
        _log.info("trial_enqueued", search=run.id, trial=len(run.trials))
        reply = pb.EnqueueTrialResponse()
        reply.trial.CopyFrom(run.trials[len(run.trials) - 1])
        return reply

    def _set_drain(self, change: AgentDrained) -> pb.Agent:
        ids.parse_name("agents", change.agent)
        state, entry = self._engine.state, self._engine.agents.get(change.agent)
        if entry is None and change.agent not in state.drained:
            raise NotFound(
                "AGENT_UNKNOWN", f"{change.agent} has not been here since the scheduler started", field="name"
            )
        wanted = change.release if change.draining else None
        if state.drained.get(change.agent) != wanted:
            self._engine.record(change)
            _log.info("agent_drain_set", agent=change.agent, draining=change.draining, release=change.release)
        if entry is None:
            return pb.Agent(name=change.agent, draining=change.draining)
        return convert.agent_message(entry, state)


def _complete(run: SearchRun, given: generate_service_pb2.Proposal) -> generate_service_pb2.Proposal:
    """Return what is recorded of an enqueued network; raises Invalid (SPEC_INVALID) naming the field."""
    if given.ByteSize() > _PROPOSAL_BYTES:
        raise _invalid("proposal", f"has {given.ByteSize()} bytes, at most {_PROPOSAL_BYTES}; import the network first")
    if given.WhichOneof("network") is None:
        raise _invalid("proposal.network", "give choices, an architecture, onnx bytes or an object")
    if given.proposal_id:
        raise _invalid("proposal.proposal_id", "is the generator's own; leave it out")
    if len(given.parents) > _PARENTS:
        raise _invalid("proposal.parents", f"at most {_PARENTS}")
    for parent in [*given.parents, *([given.inherit_from] if given.inherit_from else [])]:
        search, number = ids.parse_trial(parent, field="proposal.parents")
        if search != run.id or number > len(run.trials):
            raise _invalid("proposal.parents", f"there is no trial {parent} in {run.name}")
    if given.HasField("object") and check_ref(given.object, field="proposal.object") not in (
        ObjectKind.NETWORK,
        ObjectKind.CHECKPOINT,
    ):
        raise _invalid("proposal.object", "is no network")
    if given.train.include_validation:
        raise _invalid("proposal.train.include_validation", "only the final phase may train on the validation split")
    if given.train.max_time_s:
        raise _invalid("proposal.train.max_time_s", "only the final phase may cut a training to a time")
    complete = generate_service_pb2.Proposal()
    complete.CopyFrom(given)
    complete.note = given.note[:_NOTE]
    try:
        complete.train.CopyFrom(merged_train(run, given.train, "proposal"))
        complete.instrumentation.CopyFrom(merged_plan(run, given.instrumentation, "proposal"))
    except Invalid as error:
        field = error.field or next((violation.field for violation in error.violations), "proposal")
        raise Invalid("SPEC_INVALID", error.message, field=field, violations=error.violations) from None
    return complete


def _invalid(field: str, what: str) -> Invalid:
    return Invalid("SPEC_INVALID", f"{field}: {what}", field=field)
