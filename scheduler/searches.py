"""What clients do with searches: create, cancel, read, list, watch. Methods are commands of the engine."""

import hashlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar

from google.protobuf.message import Message

from nasmesh import ids
from nasmesh.clock import new_id
from nasmesh.errors import Conflict, Invalid, NotFound, Unavailable
from nasmesh.logs import get_logger
from nasmesh.v1 import scheduler_service_pb2 as pb
from nasmesh.v1 import search_pb2
from scheduler import convert, pages
from scheduler.domain import OPEN_SEARCHES, SearchCancelled, SearchCreated, SearchRun, SearchState, TaskKind
from scheduler.engine import Engine
from scheduler.journal.base import Answer
from scheduler.validate import complete_spec
from scheduler.watch import Subscription

_REQUEST_ID_CHARS = 64
_log = get_logger("searches")
Reply = TypeVar("Reply", bound=Message)


class Searches:
    """The searches of an engine, as clients use them."""

    def __init__(self, engine: Engine) -> None:
        """Serve an engine."""
        self._engine = engine

    def create(self, request: pb.CreateSearchRequest) -> pb.CreateSearchResponse:
        """Create a search, or check it only; raises what CreateSearch documents."""
        if request.validate_only:
            return self._validated(request)
        return self._once(request.request_id, request, partial(self._create, request), pb.CreateSearchResponse)

    def cancel(self, request: pb.CancelSearchRequest) -> pb.CancelSearchResponse:
        """Cancel a search; ended ones are left as they are."""
        return self._once(request.request_id, request, partial(self._cancel, request), pb.CancelSearchResponse)

    def get(self, name: str) -> search_pb2.Search:
        """Return a search; raises NotFound (SEARCH_UNKNOWN)."""
        return convert.search_message(self.run(name))

    def run(self, name: str, *, field: str = "name") -> SearchRun:
        """Return the search of a resource name; raises NotFound (SEARCH_UNKNOWN)."""
        identifier = ids.parse_name("searches", name, field=field)
        found = self._engine.state.searches.get(identifier)
        if found is None:
            raise NotFound("SEARCH_UNKNOWN", f"there is no search {name}", field=field)
        return found

    def list(self, request: pb.ListSearchesRequest) -> pb.ListSearchesResponse:
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
                if all(_matches(runs[index], name, value) for name, value in terms):
                    yield str(index), partial(convert.search_message, runs[index])

        searches, token = pages.take("searches", request.page_size, rows())
        return pb.ListSearchesResponse(searches=searches, next_page_token=token)

    def watch(self, request: pb.WatchSearchRequest) -> Subscription:
        """Return a subscription; raises NotFound (SEARCH_UNKNOWN), Compacted (SEQUENCE_COMPACTED)."""
        run = self.run(request.name)
        last = self._engine.published_sequence(run.id)
        ended = run.state not in OPEN_SEARCHES and last == run.sequence
        return self._engine.hub.subscribe(run.id, request.after_sequence, last, ended=ended)

    def unwatch(self, name: str, subscription: Subscription) -> None:
        """Forget a subscription."""
        self._engine.hub.unsubscribe(ids.parse_name("searches", name), subscription)

    # --- below -----------------------------------------------------------------------------------------------

    def _validated(self, request: pb.CreateSearchRequest) -> pb.CreateSearchResponse:
        spec = complete_spec(request.spec, self._engine.agents.generators())
        self._check_data(spec.data.dataset)
        name = f"searches/{self._free_id(request.search_id)}" if request.search_id else ""
        return pb.CreateSearchResponse(search=search_pb2.Search(name=name, spec=spec))

    def _check_data(self, dataset: str) -> None:
        """Raise Unavailable (DATASET_ABSENT) where train servers are connected and none of them has the data."""
        trainers = [entry for entry in self._engine.agents.connected() if TaskKind.TRAIN in entry.slots]
        if trainers and not any(entry.can_do(TaskKind.TRAIN, dataset) for entry in trainers):
            told = [d.description for entry in trainers for d in entry.server.datasets if d.name == dataset]
            raise Unavailable(
                "DATASET_ABSENT",
                f"spec.data.dataset: no connected train server has {dataset}. {told[0] if told else ''}".strip(),
                field="spec.data.dataset",
            )

    def _create(self, request: pb.CreateSearchRequest) -> pb.CreateSearchResponse:
        identifier = self._free_id(request.search_id)
        spec = complete_spec(request.spec, self._engine.agents.generators())
        self._check_data(spec.data.dataset)
        self._engine.record(SearchCreated(identifier, spec))
        _log.info("search_created", search=identifier, generator=spec.generator.generator, data=spec.data.dataset)
        return pb.CreateSearchResponse(search=convert.search_message(self._engine.state.searches[identifier]))

    def _cancel(self, request: pb.CancelSearchRequest) -> pb.CancelSearchResponse:
        run = self.run(request.name)
        if run.state in OPEN_SEARCHES:
            self._engine.record(SearchCancelled(run.id))
            _log.info("search_cancelled", search=run.id)
        return pb.CancelSearchResponse(search=convert.search_message(run))

    def _free_id(self, wanted: str) -> str:
        identifier = wanted or f"s-{new_id()[:10]}"
        ids.format_name("searches", identifier, field="search_id")
        if identifier in self._engine.state.searches:
            raise Conflict(
                "SEARCH_EXISTS", f"search_id: searches/{identifier} exists; choose another id", field="search_id"
            )
        return identifier

    def _once(self, request_id: str, request: Message, act: Callable[[], Reply], kind: type[Reply]) -> Reply:
        """Return the first answer to a request id; raises Conflict (REQUEST_ID_REUSED) for another body."""
        if not request_id:
            return act()
        if len(request_id) > _REQUEST_ID_CHARS:
            raise Invalid("FIELD_INVALID", f"request_id: at most {_REQUEST_ID_CHARS} characters", field="request_id")
        body = request.SerializeToString(deterministic=True)
        digest = hashlib.sha256(kind.DESCRIPTOR.full_name.encode() + b"\0" + body).digest()
        kept = self._engine.answered(request_id)
        if kept is not None:
            if kept.body_digest != digest:
                raise Conflict(
                    "REQUEST_ID_REUSED",
                    "request_id: it was used for another request; choose a new one",
                    field="request_id",
                )
            return kind.FromString(kept.reply)
        reply = act()
        self._engine.keep_answer(request_id, Answer(digest, reply.SerializeToString(), self._engine.uptime_s()))
        return reply


def _is_state(value: str) -> bool:
    return value in SearchState.__members__


def _matches(run: SearchRun, name: str, value: str) -> bool:
    if name == "state":
        return run.state.name == value
    if name == "generator":
        return run.spec.generator.generator == value
    key = name.partition(".")[2]
    return key in run.spec.labels and run.spec.labels[key] == value
