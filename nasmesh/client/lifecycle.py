"""The client's calls about searches and agents that exist; the base of Client."""

from collections.abc import Sequence

from nasmesh.client.calls import Calls
from nasmesh.client.names import search_name
from nasmesh.clock import new_id
from nasmesh.ids import format_name, parse_name
from nasmesh.v1 import generate_service_pb2, search_pb2
from nasmesh.v1 import scheduler_service_pb2 as pb


class LifecycleCalls(Calls):
    """Hold, let go on, change and delete searches, add networks, drain agents, sweep objects."""

    def pause_search(self, search: str, *, request_id: str = "") -> search_pb2.Search:
        """Hold a search: nothing of it is leased, running trainings store a checkpoint and are given back.

        Raises NotFound (SEARCH_UNKNOWN), Stale (SEARCH_ENDED).
        """
        request = pb.PauseSearchRequest(name=search_name(search), request_id=request_id or new_id())
        return self._call(lambda: self._stub.PauseSearch(request)).search

    def resume_search(self, search: str, *, request_id: str = "") -> search_pb2.Search:
        """Let a held search go on; raises NotFound (SEARCH_UNKNOWN), Stale (SEARCH_ENDED)."""
        request = pb.ResumeSearchRequest(name=search_name(search), request_id=request_id or new_id())
        return self._call(lambda: self._stub.ResumeSearch(request)).search

    def update_search(
        self,
        search: str,
        spec: search_pb2.SearchSpec,
        paths: Sequence[str],
        *,
        etag: str = "",
        validate_only: bool = False,
        request_id: str = "",
    ) -> search_pb2.Search:
        """Change the fields of an open search that `paths` name ("spec.budget.max_trials") to those of `spec`.

        Raises NotFound, Invalid (SPEC_INVALID, UPDATE_MASK_INVALID), Raced (ETAG_STALE), Stale (SEARCH_ENDED,
        SEARCH_PHASE_OVER).
        """
        request = pb.UpdateSearchRequest(request_id=request_id or new_id(), validate_only=validate_only)
        request.search.name, request.search.etag = search_name(search), etag
        request.search.spec.CopyFrom(spec)
        request.update_mask.paths.extend(paths)
        return self._call(lambda: self._stub.UpdateSearch(request)).search

    def delete_search(self, search: str, *, apply: bool = False, request_id: str = "") -> pb.DeleteSearchResponse:
        """Delete an ended search, or without `apply` say what that would delete. Its objects stay for a sweep.

        Raises NotFound (SEARCH_UNKNOWN), Stale (SEARCH_OPEN, SEARCH_REFERENCED).
        """
        request = pb.DeleteSearchRequest(name=search_name(search), apply=apply, request_id=request_id or new_id())
        return self._call(lambda: self._stub.DeleteSearch(request))

    def delete_unreferenced_objects(
        self, *, apply: bool = False, min_age_s: float | None = None
    ) -> pb.DeleteUnreferencedObjectsResponse:
        """Delete objects that nothing names and that are old enough [48 h], or without `apply` say which.

        Raises Invalid (FIELD_INVALID), Raced (SWEEP_RUNNING), Unavailable (STORE_DOWN).
        """
        request = pb.DeleteUnreferencedObjectsRequest(apply=apply)
        if min_age_s is not None:
            request.min_age.FromMilliseconds(round(min_age_s * 1000))
        return self._call(lambda: self._stub.DeleteUnreferencedObjects(request))

    def enqueue_trial(
        self, search: str, proposal: generate_service_pb2.Proposal, *, request_id: str = ""
    ) -> search_pb2.Trial:
        """Add a network to a running search and return its trial, without its network yet.

        Raises NotFound, Invalid (SPEC_INVALID), Stale (SEARCH_PHASE_OVER, BUDGET_SPENT), Busy (QUOTA_EXCEEDED).
        """
        parent = search_name(search)
        request = pb.EnqueueTrialRequest(parent=parent, proposal=proposal, request_id=request_id or new_id())
        return self._call(lambda: self._stub.EnqueueTrial(request)).trial

    def drain_agent(self, agent: str, *, release: bool = False, request_id: str = "") -> pb.Agent:
        """Give an agent no more work; with `release` its trainings store a checkpoint and are given back.

        Raises NotFound (AGENT_UNKNOWN).
        """
        name = _agent_name(agent)
        request = pb.DrainAgentRequest(name=name, release=release, request_id=request_id or new_id())
        return self._call(lambda: self._stub.DrainAgent(request)).agent

    def get_agent(self, agent: str) -> pb.Agent:
        """Return an agent, connected or seen before; raises NotFound (AGENT_UNKNOWN)."""
        return self._call(lambda: self._stub.GetAgent(pb.GetAgentRequest(name=_agent_name(agent)))).agent

    def undrain_agent(self, agent: str, *, request_id: str = "") -> pb.Agent:
        """Give a drained agent work again; raises NotFound (AGENT_UNKNOWN)."""
        request = pb.UndrainAgentRequest(name=_agent_name(agent), request_id=request_id or new_id())
        return self._call(lambda: self._stub.UndrainAgent(request)).agent


def _agent_name(text: str) -> str:
    if "/" not in text:
        return format_name("agents", text, field="agent")
    parse_name("agents", text, field="agent")
    return text
