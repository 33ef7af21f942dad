"""What clients do with searches: create, cancel, read, list, watch. Methods are commands of the engine."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from nasmesh import ids
from nasmesh.clock import new_id
from nasmesh.errors import Conflict, Unavailable
from nasmesh.logs import get_logger
from nasmesh.rpc.identity import LOCAL, Identity
from nasmesh.v1 import generate_service_pb2, job_pb2, search_pb2
from nasmesh.v1 import scheduler_service_pb2 as pb
from scheduler import convert, pages
from scheduler.datasets import visible
from scheduler.domain import OPEN_SEARCHES, SearchRun, TaskKind
from scheduler.engine import Engine
from scheduler.facts import SearchCancelled, SearchCreated
from scheduler.offered import check_losses, check_metrics, check_table
from scheduler.offers import Offers, has_data
from scheduler.once import once
from scheduler.origin import complete_transfer
from scheduler.ownership import check_visible, check_writable, is_visible, unknown_search
from scheduler.quotas import QUOTAS, Quotas, check_open_searches, check_queued_networks
from scheduler.standing import why_idle
from scheduler.validate import complete_spec
from scheduler.watch import Subscription

_STATES = frozenset(search_pb2.SearchState.keys()) - {"SEARCH_STATE_UNSPECIFIED"}
_log = get_logger("searches")


class Searches:
    """The searches of an engine, as clients use them."""

    def __init__(self, engine: Engine, offers: Offers | None = None, quotas: Quotas = QUOTAS) -> None:
        """Serve an engine; `offers`: servers that are not there, and start when there is work for them."""
        self._engine = engine
        self.quotas = quotas
        self._offers = Offers(engine.clock) if offers is None else offers

    def create(
        self, request: pb.CreateSearchRequest, *, caller: Identity = LOCAL, traceparent: str = ""
    ) -> pb.CreateSearchResponse:
        """Create a search, or check it only; raises what CreateSearch documents."""
        if request.validate_only:
            return self._validated(request, caller)
        act = partial(self._create, request, caller, traceparent)
        return once(self._engine, request.request_id, request, act, pb.CreateSearchResponse, caller=caller)

    def cancel(self, request: pb.CancelSearchRequest, *, caller: Identity = LOCAL) -> pb.CancelSearchResponse:
        """Cancel a search; ended ones are left as they are."""
        act = partial(self._cancel, request, caller)
        return once(self._engine, request.request_id, request, act, pb.CancelSearchResponse, caller=caller)

    def get(self, name: str, *, caller: Identity = LOCAL) -> search_pb2.Search:
        """Return a search; raises NotFound (SEARCH_UNKNOWN)."""
        run = self.run(name, caller=caller)
        message = self._message(run)
        if run.state in OPEN_SEARCHES and message.reason == run.reason:
            _add_reason(message, why_idle(self._engine.state, run, self._engine.agents, self._offers))
        return message

    def run(self, name: str, *, field: str = "name", caller: Identity = LOCAL) -> SearchRun:
        """Return the search of a resource name; raises NotFound (SEARCH_UNKNOWN), also for one of somebody else."""
        identifier = ids.parse_name("searches", name, field=field)
        found = self._engine.state.searches.get(identifier)
        if found is None:
            raise unknown_search(name, field=field)
        check_visible(caller, found.owner, name, field=field)
        return found

    def writable(self, name: str, *, field: str = "name", caller: Identity) -> SearchRun:
        """As `run`, for a caller that may change it; raises Denied (ROLE_FORBIDDEN) for one that may only look."""
        found = self.run(name, field=field, caller=caller)
        check_writable(caller, found.owner, name, field=field)
        return found

    def list(self, request: pb.ListSearchesRequest, *, caller: Identity = LOCAL) -> pb.ListSearchesResponse:
        """Return a page of searches, newest first."""
        terms = pages.parse_filter(
            request.filter,
            {"state": _is_state, "label.": lambda _: True, "generator": lambda value: bool(value)},
        )
        runs = list(self._engine.state.searches.values())
        start = pages.start_index("searches", request.page_token)
        last = len(runs) if start < 0 else min(start, len(runs))

        def rows() -> Iterator[tuple[str, Callable[[], search_pb2.Search]]]:
            for index in range(last - 1, -1, -1):
                wanted = all(_matches(runs[index], name, value) for name, value in terms)
                if wanted and is_visible(caller, runs[index].owner):
                    yield str(index), partial(self._message, runs[index])

        searches, token = pages.take("searches", request.page_size, rows())
        return pb.ListSearchesResponse(searches=searches, next_page_token=token)

    def watch(self, request: pb.WatchSearchRequest, *, caller: Identity = LOCAL) -> Subscription:
        """Return a subscription; raises NotFound (SEARCH_UNKNOWN), Compacted (SEQUENCE_COMPACTED)."""
        run = self.run(request.name, caller=caller)
        last = self._engine.published_sequence(run.id)
        ended = run.state not in OPEN_SEARCHES and last == run.sequence
        return self._engine.hub.subscribe(
            run.id, request.after_sequence, last, ended=ended, accepts_batches=request.accepts_batches
        )

    def unwatch(self, name: str, subscription: Subscription) -> None:
        """Forget a subscription."""
        self._engine.hub.unsubscribe(ids.parse_name("searches", name), subscription)

    # --- below -----------------------------------------------------------------------------------------------

    def _message(self, run: SearchRun) -> search_pb2.Search:
        """Return a search as clients see it now; one whose work needs more agents than are there says so."""
        message = convert.search_message(run)
        why = self._engine.work.lacking(self._engine.state, run) if run.state in OPEN_SEARCHES else ""
        _add_reason(message, why)
        return message

    def _validated(self, request: pb.CreateSearchRequest, caller: Identity) -> pb.CreateSearchResponse:
        spec = complete_spec(request.spec, self._generators(), visible(self._engine.state, caller))
        self._check_offered(spec)
        complete_transfer(spec, self._engine.state, caller)
        name = f"searches/{self._free_id(request.search_id)}" if request.search_id else ""
        return pb.CreateSearchResponse(search=search_pb2.Search(name=name, spec=spec))

    def _generators(self) -> Sequence[generate_service_pb2.Generator]:
        return self._offers.generators(self._engine.agents.generators())

    def _check_offered(self, spec: search_pb2.SearchSpec) -> None:
        """Raise Unavailable where what the search needs is nowhere.

        That is its data (DATASET_ABSENT), its table (TABLE_ABSENT), a metric or a loss asked for by name
        (METRIC_ABSENT, LOSS_ABSENT); Invalid where its table is there and cannot answer it.
        """
        self._check_data(spec)
        check_losses(self._known(TaskKind.TRAIN), spec)
        evaluators = self._known(TaskKind.EVALUATE)
        check_table(evaluators, spec)
        check_metrics(evaluators, spec)

    def _known(self, kind: TaskKind) -> Sequence[job_pb2.Server]:
        """Return the servers of a kind that were seen, and those that are offered."""
        seen = [entry.server for entry in self._engine.agents.all() if kind in entry.slots]
        return [*seen, *self._offers.servers(kind)]

    def _check_data(self, spec: search_pb2.SearchSpec) -> None:
        """Raise Unavailable (DATASET_ABSENT) where train servers are connected and none of them has built-in data."""
        if spec.data.HasField("manifest") or spec.evaluate.table:
            return
        dataset = spec.data.dataset
        trainers = [entry for entry in self._engine.agents.connected() if TaskKind.TRAIN in entry.slots]
        if any(has_data(server, dataset) for server in self._offers.servers(TaskKind.TRAIN)):
            return
        if trainers and not any(entry.can_do(TaskKind.TRAIN, dataset) for entry in trainers):
            told = [d.description for entry in trainers for d in entry.server.datasets if d.name == dataset]
            raise Unavailable(
                "DATASET_ABSENT",
                f"spec.data.dataset: no connected train server has {dataset}. {told[0] if told else ''}".strip(),
                field="spec.data.dataset",
            )

    def _create(self, request: pb.CreateSearchRequest, caller: Identity, traceparent: str) -> pb.CreateSearchResponse:
        identifier = self._free_id(request.search_id)
        check_open_searches(self._engine.state, caller, self.quotas.open_searches)
        check_queued_networks(self._engine.state, caller.name, self.quotas.queued_networks)
        spec = complete_spec(request.spec, self._generators(), visible(self._engine.state, caller))
        self._check_offered(spec)
        complete_transfer(spec, self._engine.state, caller)
        self._engine.record(SearchCreated(identifier, spec, owner=caller.name, traceparent=traceparent))
        _log.info("search_created", search=identifier, generator=spec.generator.generator, data=spec.data.dataset)
        return pb.CreateSearchResponse(search=convert.search_message(self._engine.state.searches[identifier]))

    def _cancel(self, request: pb.CancelSearchRequest, caller: Identity) -> pb.CancelSearchResponse:
        run = self.writable(request.name, caller=caller)
        if run.state in OPEN_SEARCHES:
            self._engine.record(SearchCancelled(run.id))
            _log.info("search_cancelled", search=run.id)
        return pb.CancelSearchResponse(search=convert.search_message(run))

    def _free_id(self, wanted: str) -> str:
        identifier = wanted or f"s-{new_id()[:10]}"
        ids.format_name("searches", identifier, field="search_id")
        state = self._engine.state
        if identifier in state.searches or identifier in state.deleted:
            what = "exists" if identifier in state.searches else "was deleted, and no id is used twice"
            raise Conflict(
                "SEARCH_EXISTS", f"search_id: searches/{identifier} {what}; choose another id", field="search_id"
            )
        return identifier


def _is_state(value: str) -> bool:
    return f"SEARCH_STATE_{value}" in _STATES


def _matches(run: SearchRun, name: str, value: str) -> bool:
    if name == "state":
        return search_pb2.SearchState.Name(convert.outward_state(run)) == f"SEARCH_STATE_{value}"
    if name == "generator":
        return run.spec.generator.generator == value
    key = name.partition(".")[2]
    return key in run.spec.labels and run.spec.labels[key] == value


def _add_reason(message: search_pb2.Search, why: str) -> None:
    """Have a search say why it waits, after whatever it says."""
    if why:
        message.reason = f"{message.reason}; {why}" if message.reason else why
