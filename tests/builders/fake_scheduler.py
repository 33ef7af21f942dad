"""A SchedulerService on a real port that plays a prepared search, for tests of clients and displays."""
# ruff: noqa: N802, ARG002 - gRPC names the methods and passes the context

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from nasmesh.client import Client, read_spec
from nasmesh.errors import Compacted, Conflict, NotFound, Stale, Unavailable
from nasmesh.model.lower import lower
from nasmesh.rpc.call import caller_waits
from nasmesh.rpc.server import RunningServer, Service, serve_threads
from nasmesh.store.keys import ObjectKind, object_ref
from nasmesh.v1 import measurement_pb2, scheduler_service_pb2_grpc, search_pb2
from nasmesh.v1 import scheduler_service_pb2 as pb

EXAMPLES = Path(__file__).parents[2] / "examples"
NAME = "nasmesh.v1.SchedulerService"
START = 1_700_000_000
# Cells and live branches by iteration (golden vectors of NAC, smallest case).
GROWTH = ((1, 6), (2, 10), (3, 13), (4, 15), (5, 16), (5, 16))
ACCURACIES = (0.912, 0.935, 0.958, 0.951, 0.967, 0.963)


def trained_model() -> bytes:
    """Return the network of examples/fixed.yaml with seeded weights, as served."""
    model = lower(read_spec(EXAMPLES / "fixed.yaml").space.fixed.architecture)
    rng = np.random.default_rng(7)
    parameters = [item for item in model.graph.input if item.name != "x"]
    for item in parameters:
        shape = [dim.dim_value for dim in item.type.tensor_type.shape.dim]
        values = np.abs(rng.normal(0.0, 0.2, shape)).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, item.name))
        model.graph.input.remove(item)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))


def make_trial(search: str, number: int, *, final: bool = False, scored: bool = True) -> search_pb2.Trial:
    """Return a trial of the played search."""
    index = min(number - 1, len(GROWTH) - 1)
    cells, branches = GROWTH[index]
    trial = search_pb2.Trial(
        name=f"{search}/trials/{number}",
        number=number,
        iteration=0 if final else number,
        final=final,
        note="enlarged" if final else "start" if number == 1 else f"pruned {number} branches",
        parents=[f"{search}/trials/{number - 1}"] if number > 1 else [],
        device_time_s=3.5 + number,
        data_digest="d" * 64,
    )
    network = trial.network
    network.name = f"networks/{number:064x}"
    network.parameters = (120_000 if final else 20_000) + 1500 * number
    network.macs = (2_400_000 if final else 400_000) + 30_000 * number
    for stage, (c, b) in enumerate(((cells, branches), (min(cells, 4), min(branches, 15)), (1, 6)), start=1):
        network.summary[f"stage_{stage}"] = f"{c} cells, {b} branches"
    if not scored:
        trial.phase = search_pb2.TRIAL_PHASE_TRAINING
        return trial
    trial.outcome = search_pb2.TRIAL_OUTCOME_SUCCEEDED
    trial.environment["torch"] = "2.13.0"
    trial.environment["device"] = "cpu"
    split = measurement_pb2.SPLIT_TEST if final else measurement_pb2.SPLIT_VALIDATION
    value = 0.978 if final else ACCURACIES[index]
    for metric, number_, unit in (("accuracy", value, "ratio"), ("loss", 0.2, ""), ("latency_p50", 0.31, "ms")):
        trial.measurements.add(metric=metric, value=number_, unit=unit, split=split)
    trial.measurements.add(metric="mean_square", value=0.4, element="s1_c1_b3x3")
    model = trained_model()
    trial.model.CopyFrom(object_ref(ObjectKind.NETWORK, model))
    trial.checkpoint.CopyFrom(trial.model)
    return trial


@dataclass
class FakeScheduler(scheduler_service_pb2_grpc.SchedulerServiceServicer):
    """Keeps what was created and the history that was played; faults are switched on by attributes."""

    searches: dict[str, search_pb2.Search] = field(default_factory=dict)
    trials: dict[str, dict[int, search_pb2.Trial]] = field(default_factory=dict)
    history: dict[str, list[pb.WatchSearchResponse]] = field(default_factory=dict)
    requests: dict[str, pb.CreateSearchRequest] = field(default_factory=dict)
    away: int = 0  # so many calls fail before one is served
    compactions: int = 0  # so many watches are told to list again
    break_after: int = 0  # a watch stream breaks after so many messages, each time
    calls: list[str] = field(default_factory=list)
    imported: dict[str, bytes] = field(default_factory=dict)
    corrupt: bool = False
    autoplay: bool = False  # what is created is played at once
    changed: threading.Condition = field(default_factory=threading.Condition)
    model: bytes = field(default_factory=trained_model)

    # --- played by tests ------------------------------------------------------------------------------------------

    def record(self, search: search_pb2.Search, *changes: search_pb2.Search | search_pb2.Trial) -> None:
        """Record changes under one new sequence number."""
        with self.changed:
            search.sequence += 1
            for change in changes:
                response = pb.WatchSearchResponse(sequence=search.sequence)
                if isinstance(change, search_pb2.Trial):
                    self.trials[search.name][change.number] = change
                    response.trial.CopyFrom(change)
                else:
                    response.search.CopyFrom(change)
                self.history[search.name].append(response)
            self.changed.notify_all()

    def progress(self, search: search_pb2.Search, trial: search_pb2.Trial, step: int, total: int) -> None:
        """Send a progress mark, which is not recorded as a change of its own."""
        mark = pb.WatchSearchResponse(sequence=search.sequence)
        mark.progress.trial = trial.name
        train = mark.progress.train
        train.step, train.total_steps, train.steps_per_s = step, total, 41.5
        train.loss, train.accuracy = 1.2 - step / total, 0.5 + 0.4 * step / total
        with self.changed:
            self.history[search.name].append(mark)
            self.changed.notify_all()

    def play(
        self, name: str, *, iterations: int = 6, pause: threading.Event | None = None, pause_s: float = 0.0
    ) -> None:
        """Play a NAC search from its creation to the final score."""
        search = self.searches[name]
        wait = (pause or threading.Event()).wait

        def train(trial: search_pb2.Trial, steps: int) -> None:
            for step in range(0, steps, max(1, steps // 8)):
                self.progress(search, trial, step, steps)
                wait(pause_s)

        for number in range(1, iterations + 1):
            search.iterations = number
            running = make_trial(name, number, scored=False)
            self.record(search, running, search)
            train(running, 80)
            search.trials.succeeded = number
            search.best_trial = f"{name}/trials/{min(number, 5)}"
            search.device_time_s += 4.0
            self.record(search, make_trial(name, number), search)
        search.state = search_pb2.SEARCH_STATE_FINALIZING
        final = make_trial(name, iterations + 1, final=True, scored=False)
        search.final_trials.append(final.name)
        self.record(search, search, final)
        train(final, 400)
        scored = make_trial(name, iterations + 1, final=True)
        with self.changed:  # whoever is served in between would see an end of which there is no record yet
            search.state = search_pb2.SEARCH_STATE_SUCCEEDED
            search.reason = "the generator is finished"
            search.end_time.FromSeconds(search.create_time.seconds + 42)
            self.record(search, scored, search)

    # --- served ---------------------------------------------------------------------------------------------------

    def _serve(self, method: str) -> None:
        self.calls.append(method)
        if self.away > 0:
            self.away -= 1
            raise Unavailable("DRAINING", "the scheduler is being restarted")

    def _find(self, name: str) -> search_pb2.Search:
        if name not in self.searches:
            raise NotFound("SEARCH_UNKNOWN", f"name: there is no {name}", field="name")
        return self.searches[name]

    def CreateSearch(self, request: pb.CreateSearchRequest, context: object) -> pb.CreateSearchResponse:
        known = self.requests.setdefault(request.request_id, request)
        self._serve("CreateSearch")
        if known != request:
            raise Conflict("REQUEST_ID_REUSED", "request_id: used with another body", field="request_id")
        name = f"searches/{request.search_id or 'digits-1'}"
        if name in self.searches and self.calls.count("CreateSearch") == 1:
            raise Conflict("SEARCH_EXISTS", f"search_id: {name} exists; choose another id", field="search_id")
        search = search_pb2.Search(name=name, spec=request.spec, state=search_pb2.SEARCH_STATE_RUNNING)
        search.create_time.FromSeconds(START)
        if not request.validate_only and name not in self.searches:
            self.searches[name] = search
            self.trials[name] = {}
            self.history[name] = []
            self.record(search, search)
            if self.autoplay:
                threading.Thread(target=self.play, args=(name,), daemon=True).start()
        return pb.CreateSearchResponse(search=search)

    def GetSearch(self, request: pb.GetSearchRequest, context: object) -> pb.GetSearchResponse:
        self._serve("GetSearch")
        return pb.GetSearchResponse(search=self._find(request.name))

    def ListSearches(self, request: pb.ListSearchesRequest, context: object) -> pb.ListSearchesResponse:
        self._serve("ListSearches")
        found = list(self.searches.values())[::-1]
        at = int(request.page_token or 0)
        following = str(at + 1) if at + 1 < len(found) else ""
        return pb.ListSearchesResponse(searches=found[at : at + 1], next_page_token=following)

    def CancelSearch(self, request: pb.CancelSearchRequest, context: object) -> pb.CancelSearchResponse:
        self._serve("CancelSearch")
        search = self._find(request.name)
        with self.changed:
            search.state = search_pb2.SEARCH_STATE_CANCELLED
            search.reason = "cancelled by a client"
            self.record(search, search)
        return pb.CancelSearchResponse(search=search)

    def WatchSearch(self, request: pb.WatchSearchRequest, context: object) -> Iterator[pb.WatchSearchResponse]:
        self._serve("WatchSearch")
        self._find(request.name)
        if self.compactions > 0:
            self.compactions -= 1
            raise Compacted("SEQUENCE_COMPACTED", "list the trials, then watch from the search's sequence")
        position, sent = 0, 0
        while caller_waits():
            with self.changed:
                history = self.history[request.name]
                if position >= len(history):
                    if self.searches[request.name].state >= search_pb2.SEARCH_STATE_SUCCEEDED:
                        return
                    self.changed.wait(0.2)
                    continue
                message = history[position]
            position += 1
            if message.sequence <= request.after_sequence and message.WhichOneof("change") != "progress":
                continue
            if self.break_after and sent >= self.break_after:
                raise Unavailable("DRAINING", "the scheduler is being restarted")
            sent += 1
            yield message
            ended = message.search.state >= search_pb2.SEARCH_STATE_SUCCEEDED
            if ended and position >= len(history):
                return

    def GetTrial(self, request: pb.GetTrialRequest, context: object) -> pb.GetTrialResponse:
        self._serve("GetTrial")
        search, _, number = request.name.rpartition("/trials/")
        return pb.GetTrialResponse(trial=self.trials[search][int(number)])

    def ListTrials(self, request: pb.ListTrialsRequest, context: object) -> pb.ListTrialsResponse:
        self._serve("ListTrials")
        self._find(request.parent)
        found = [self.trials[request.parent][number] for number in sorted(self.trials[request.parent])]
        at = int(request.page_token or 0)
        following = str(at + 2) if at + 2 < len(found) else ""
        return pb.ListTrialsResponse(trials=found[at : at + 2], next_page_token=following)

    def GetNetwork(self, request: pb.GetNetworkRequest, context: object) -> pb.GetNetworkResponse:
        self._serve("GetNetwork")
        for trials in self.trials.values():
            for trial in trials.values():
                if trial.network.name == request.name:
                    return pb.GetNetworkResponse(network=trial.network)
        raise NotFound("NETWORK_UNKNOWN", f"name: there is no {request.name}", field="name")

    def ListNetworks(self, request: pb.ListNetworksRequest, context: object) -> pb.ListNetworksResponse:
        self._serve("ListNetworks")
        networks = [trial.network for trials in self.trials.values() for trial in trials.values()]
        return pb.ListNetworksResponse(networks=networks)

    def ExportNetwork(self, request: pb.ExportNetworkRequest, context: object) -> Iterator[pb.ExportNetworkResponse]:
        self._serve("ExportNetwork")
        if not any(self.trials.values()):
            raise Stale("NOT_TRAINED", "name: nothing is trained yet; wait for the trial", field="name")
        yield pb.ExportNetworkResponse(object=object_ref(ObjectKind.NETWORK, self.model))
        content = self.model[:-1] + b"?" if self.corrupt else self.model
        for start in range(0, len(content), 1000):
            yield pb.ExportNetworkResponse(chunk=content[start : start + 1000])

    def ImportNetwork(self, requests: Iterator[pb.ImportNetworkRequest], context: object) -> pb.ImportNetworkResponse:
        self._serve("ImportNetwork")
        content = b"".join(request.chunk for request in requests)
        ref = object_ref(ObjectKind.NETWORK, content)
        self.imported[ref.key] = content
        return pb.ImportNetworkResponse(object=ref)

    def ListDatasets(self, request: pb.ListDatasetsRequest, context: object) -> pb.ListDatasetsResponse:
        self._serve("ListDatasets")
        response = pb.ListDatasetsResponse()
        item = response.datasets.add(name="datasets/digits", description="digits", sample_dims=[1, 8, 8], classes=10)
        item.available = True
        item.splits.add(split=measurement_pb2.SPLIT_TRAIN, samples=1295)
        return response

    def GetDataset(self, request: pb.GetDatasetRequest, context: object) -> pb.GetDatasetResponse:
        return pb.GetDatasetResponse(dataset=self.ListDatasets(pb.ListDatasetsRequest(), context).datasets[0])

    def ListGenerators(self, request: pb.ListGeneratorsRequest, context: object) -> pb.ListGeneratorsResponse:
        self._serve("ListGenerators")
        response = pb.ListGeneratorsResponse()
        item = response.generators.add(
            name="generators/nac", version="1", description="EnvelopeNets", spaces=["envelope"]
        )
        item.settings_schema.update(
            {
                "properties": {
                    "iterations": {"type": "integer", "minimum": 0, "default": 5, "description": "Restructurings."}
                }
            }
        )
        return response

    def ListAgents(self, request: pb.ListAgentsRequest, context: object) -> pb.ListAgentsResponse:
        self._serve("ListAgents")
        response = pb.ListAgentsResponse()
        agent = response.agents.add(name="agents/here-train-7402", connected=True)
        agent.slots.add(kind=search_pb2.TASK_KIND_TRAIN, slots=1)
        agent.server.engine = "torch 2.13.0"
        agent.server.devices.add(id="cpu")
        return response

    def GetServerInfo(self, request: pb.GetServerInfoRequest, context: object) -> pb.GetServerInfoResponse:
        self._serve("GetServerInfo")
        return pb.GetServerInfoResponse(version="0.1.0", epoch=3, journal="sqlite", store="directory", compiled=True)


def serve_fake(fake: FakeScheduler, listen: str = "127.0.0.1:0") -> RunningServer:
    """Serve a fake scheduler."""
    add = scheduler_service_pb2_grpc.add_SchedulerServiceServicer_to_server
    return serve_threads([Service(NAME, add, fake)], listen)


@contextmanager
def running_fake() -> Iterator[tuple[FakeScheduler, str]]:
    """Yield a fake scheduler and its address."""
    fake = FakeScheduler()
    server = serve_fake(fake)
    try:
        yield fake, server.address
    finally:
        server.stop(0.0)


@contextmanager
def played_search() -> Iterator[tuple[FakeScheduler, Client]]:
    """Yield a fake scheduler whose search "one" of examples/digits.yaml has ended, and a client of it."""
    with running_fake() as (fake, address), Client(address, patience_s=1.0) as client:
        client.create_search(read_spec(EXAMPLES / "digits.yaml"), search_id="one")
        fake.play("searches/one")
        yield fake, client
