"""The synchronous client of a scheduler. Calls raise nasmesh.errors; mutations repeat with the same request id."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Protocol, TypeVar

from nasmesh.client import transfer
from nasmesh.client.best import best_trial
from nasmesh.client.calls import Reply
from nasmesh.client.datasets import DatasetCalls
from nasmesh.client.lifecycle import LifecycleCalls
from nasmesh.client.names import search_name, subject_name
from nasmesh.client.patience import Patience, call_patiently
from nasmesh.client.schedulers import Schedulers
from nasmesh.client.watch import ENDED, follow
from nasmesh.clock import new_id
from nasmesh.errors import Compacted, Stale
from nasmesh.limits import PAGE_SIZE
from nasmesh.rpc.access import NO_CLIENT_ACCESS, ClientAccess
from nasmesh.settings import DEFAULT_SCHEDULER
from nasmesh.telemetry import tracing
from nasmesh.v1 import dataset_pb2, generate_service_pb2, object_pb2, search_pb2
from nasmesh.v1 import scheduler_service_pb2 as pb
from nasmesh.v1.scheduler_service_pb2_grpc import SchedulerServiceStub

__all__ = ["DEFAULT_SCHEDULER", "Client", "Exported"]

Item = TypeVar("Item")


def _nothing_scored(search: search_pb2.Search) -> str:
    """Return why a search has no best network, and what to do about it."""
    counts = search.trials
    if search.state in ENDED:
        return f"{search.name} ended without a scored network: {search.reason or 'no trial succeeded'}"
    done = counts.failed + counts.infeasible + counts.stopped + counts.lost
    told = f"{counts.active} under way, {done} ended without a score"
    return f"{search.name} has no scored network yet ({told}); ask again after its first result"


class _Page(Protocol):
    next_page_token: str


PageT = TypeVar("PageT", bound=_Page)


@dataclass(frozen=True, slots=True)
class Exported:
    """One ONNX object: its reference and its bytes, whose digest has been checked against the reference."""

    object: object_pb2.ObjectRef
    content: bytes


class Client(DatasetCalls, LifecycleCalls):
    """Talks to one scheduler; a context manager. Searches are named "searches/{id}" or by their bare id.

    Raises Invalid (ADDRESS_INVALID) for a wrong address. A scheduler that is away is waited for up to `patience_s`
    seconds by each call, then the call raises Unavailable.
    """

    def __init__(
        self,
        address: str = DEFAULT_SCHEDULER,
        *,
        insecure: bool = False,
        access: ClientAccess = NO_CLIENT_ACCESS,
        patience_s: float = 10.0,
    ) -> None:
        """Open a channel to "HOST:PORT", or several with commas for one that leads and its standbys; nothing is sent.

        `access` names the files for TLS, certificate and token; `insecure` allows plain text beyond loopback.
        """
        self._patience_s = patience_s
        self._schedulers = Schedulers(address, insecure=insecure, access=access)

    @property
    def address(self) -> str:
        """Where the scheduler is that answered last."""
        return self._schedulers.address

    @property
    def _stub(self) -> SchedulerServiceStub:
        return self._schedulers.stub

    def __enter__(self) -> "Client":
        """Return the client."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the channel."""
        self.close()

    def close(self) -> None:
        """Close the channel; open watches end."""
        self._schedulers.close()

    # --- searches ---------------------------------------------------------------------------------------------------

    def create_search(
        self,
        spec: search_pb2.SearchSpec,
        *,
        search_id: str = "",
        request_id: str = "",
        validate_only: bool = False,
    ) -> search_pb2.Search:
        """Create and start a search; return it with defaults filled in. With `validate_only`, only check the spec.

        Raises Invalid (SPEC_INVALID), Conflict (SEARCH_EXISTS), Unavailable (GENERATOR_ABSENT).
        """
        request = pb.CreateSearchRequest(
            search_id=search_id, spec=spec, request_id=request_id or new_id(), validate_only=validate_only
        )
        with tracing.span("CreateSearch", kind="client"):  # whoever asks for a search begins its trace
            return self._call(lambda: self._stub.CreateSearch(request)).search

    def get_search(self, search: str) -> search_pb2.Search:
        """Return one search; raises NotFound (SEARCH_UNKNOWN)."""
        request = pb.GetSearchRequest(name=search_name(search))
        return self._call(lambda: self._stub.GetSearch(request)).search

    def list_searches(self, *, filter: str = "") -> Iterator[search_pb2.Search]:
        """Yield the searches, newest first; `filter` as in ListSearchesRequest."""
        return self._pages(
            lambda token: self._stub.ListSearches(
                pb.ListSearchesRequest(page_size=PAGE_SIZE, page_token=token, filter=filter)
            ),
            lambda page: page.searches,
        )

    def cancel_search(self, search: str, *, request_id: str = "") -> search_pb2.Search:
        """Cancel a search and return it; an ended one is left as it is. Raises NotFound (SEARCH_UNKNOWN)."""
        request = pb.CancelSearchRequest(name=search_name(search), request_id=request_id or new_id())
        return self._call(lambda: self._stub.CancelSearch(request)).search

    def watch(self, search: str, after_sequence: int = 0) -> Iterator[pb.WatchSearchResponse]:
        """Yield a search's recorded changes after a sequence number, and progress marks, until it has ended.

        Goes on after a lost connection or a restarted scheduler with nothing missed or doubled. Where the history is no
        longer kept, the trials and the search as they stand come instead, as often as a slow reader falls so far
        behind. Raises NotFound (SEARCH_UNKNOWN).
        """
        name = search_name(search)
        while True:
            try:
                yield from self._follow(name, after_sequence)
                return
            except Compacted:
                now = self.get_search(name)
                for trial in self.list_trials(name):
                    yield pb.WatchSearchResponse(sequence=now.sequence, trial=trial)
                yield pb.WatchSearchResponse(sequence=now.sequence, search=now)
                after_sequence = now.sequence

    def _follow(self, name: str, after_sequence: int) -> Iterator[pb.WatchSearchResponse]:
        def has_ended(sequence: int) -> bool:
            now = self.get_search(name)
            return now.state in ENDED and now.sequence <= sequence

        return follow(lambda after: self._open_watch(name, after), after_sequence, self._patience(), has_ended)

    def _open_watch(self, name: str, after: int) -> Iterator[pb.WatchSearchResponse]:
        with self._schedulers.asked():
            request = pb.WatchSearchRequest(name=name, after_sequence=after, accepts_batches=True)
            for message in self._stub.WatchSearch(request):
                yield from message.batch.changes or (message,)

    # --- trials and networks ----------------------------------------------------------------------------------------

    def get_trial(self, trial: str) -> search_pb2.Trial:
        """Return one trial by its resource name; raises NotFound (TRIAL_UNKNOWN)."""
        request = pb.GetTrialRequest(name=trial)
        return self._call(lambda: self._stub.GetTrial(request)).trial

    def list_trials(self, search: str, *, filter: str = "") -> Iterator[search_pb2.Trial]:
        """Yield the trials of a search by number; `filter` as in ListTrialsRequest."""
        parent = search_name(search)
        return self._pages(
            lambda token: self._stub.ListTrials(
                pb.ListTrialsRequest(parent=parent, page_size=PAGE_SIZE, page_token=token, filter=filter)
            ),
            lambda page: page.trials,
        )

    def best(self, search: str) -> search_pb2.Trial:
        """Return the best scored trial: the first final one, before the final phase the best of the search.

        While none was trained to its end, the best of those scored at a rung (see nasmesh.client.best). Raises NotFound
        (SEARCH_UNKNOWN) and Stale (NOT_TRAINED) while there is none.
        """
        found = self.get_search(search)
        named = [self.get_trial(name) for name in (*found.final_trials, found.best_trial) if name]
        trial = best_trial(found, named)
        if trial is None and found.spec.HasField("early_stopping"):
            trial = best_trial(found, self.list_trials(search))
        if trial is None:
            raise Stale("NOT_TRAINED", _nothing_scored(found), field="search")
        return trial

    def get_network(self, network: str) -> search_pb2.Network:
        """Return one network by "networks/{digest}" or its digest; raises NotFound (NETWORK_UNKNOWN)."""
        request = pb.GetNetworkRequest(name=subject_name(network))
        return self._call(lambda: self._stub.GetNetwork(request)).network

    def list_networks(self) -> Iterator[search_pb2.Network]:
        """Yield the networks in the order of first use."""
        return self._pages(
            lambda token: self._stub.ListNetworks(pb.ListNetworksRequest(page_size=PAGE_SIZE, page_token=token)),
            lambda page: page.networks,
        )

    def export(self, name: str, form: pb.ExportForm.ValueType = pb.EXPORT_FORM_UNSPECIFIED) -> Exported:
        """Return the ONNX bytes of a network or a trial, checked against their digest.

        Raises NotFound, Stale (NOT_TRAINED), Invalid (OBJECT_CORRUPT), Unavailable (STORE_DOWN).
        """
        request = pb.ExportNetworkRequest(name=subject_name(name), form=form)

        return self._call(lambda: Exported(*transfer.receive(self._stub.ExportNetwork(request))))

    def link(
        self, name: str, form: pb.ExportForm.ValueType = pb.EXPORT_FORM_UNSPECIFIED, *, seconds: int = 0
    ) -> pb.LinkNetworkResponse:
        """Return an address from which a network or a trial can be downloaded for so many seconds [an hour].

        Raises NotFound, Stale (NOT_TRAINED), Invalid (LINK_UNSUPPORTED: the store is a directory).
        """
        request = pb.LinkNetworkRequest(name=subject_name(name), form=form)
        if seconds:
            request.lifetime.seconds = seconds
        return self._call(lambda: self._stub.LinkNetwork(request))

    def import_(self, content: bytes) -> object_pb2.ObjectRef:
        """Store ONNX bytes, at most 64 MiB, and return the reference that a specification may name.

        Raises Invalid (OBJECT_EMPTY, OBJECT_TOO_LARGE, OBJECT_DIGEST_MISMATCH) and Unavailable (STORE_DOWN).
        """
        transfer.check_size(len(content))

        def requests() -> Iterator[pb.ImportNetworkRequest]:
            return (pb.ImportNetworkRequest(chunk=part, sha256=digest) for part, digest in transfer.chunks(content))

        return self._call(lambda: self._stub.ImportNetwork(requests())).object

    # --- the mesh ---------------------------------------------------------------------------------------------------

    def datasets(self) -> Iterator[dataset_pb2.Dataset]:
        """Yield the data sets: built-in ones, and added ones of one's own."""
        return self._pages(
            lambda token: self._stub.ListDatasets(pb.ListDatasetsRequest(page_size=PAGE_SIZE, page_token=token)),
            lambda page: page.datasets,
        )

    def generators(self) -> Iterator[generate_service_pb2.Generator]:
        """Yield the generators that connected servers offer."""
        return self._pages(
            lambda token: self._stub.ListGenerators(pb.ListGeneratorsRequest(page_size=PAGE_SIZE, page_token=token)),
            lambda page: page.generators,
        )

    def agents(self) -> Iterator[pb.Agent]:
        """Yield the agents that the scheduler knows."""
        return self._pages(
            lambda token: self._stub.ListAgents(pb.ListAgentsRequest(page_size=PAGE_SIZE, page_token=token)),
            lambda page: page.agents,
        )

    def server_info(self) -> pb.GetServerInfoResponse:
        """Describe the scheduler: version, epoch, journal, store."""
        request = pb.GetServerInfoRequest()
        return self._call(lambda: self._stub.GetServerInfo(request))

    # --- calls ------------------------------------------------------------------------------------------------------

    def _patience(self) -> Patience:
        return Patience(self._patience_s + self._schedulers.search_s)

    def _call(self, send: Callable[[], Reply]) -> Reply:
        def once() -> Reply:
            with self._schedulers.asked():
                return send()

        return call_patiently(once, self._patience())

    def _pages(self, fetch: Callable[[str], PageT], items: Callable[[PageT], Iterable[Item]]) -> Iterator[Item]:
        token = ""
        while True:
            page = self._call(partial(fetch, token))
            yield from items(page)
            token = page.next_page_token
            if not token:
                return
