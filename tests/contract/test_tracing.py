"""Traces in this process: where spans go, how they travel over gRPC, what is kept, what is refused."""

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from nasmesh.agent.targets import TRAIN, RemoteTarget
from nasmesh.clock import SystemClock
from nasmesh.errors import Invalid, NotFound
from nasmesh.rpc.observing import observers
from nasmesh.rpc.server import Door, Service, serve_threads
from nasmesh.settings import read_settings
from nasmesh.store.keys import ObjectKind
from nasmesh.store.open import open_store
from nasmesh.telemetry import tracing
from nasmesh.telemetry.calls import Calls
from nasmesh.telemetry.tracing import Place
from nasmesh.v1 import train_service_pb2 as pb
from nasmesh.v1 import train_service_pb2_grpc as rpc
from scheduler.__main__ import main
from tests.builders.spans import PARENT, rows, traced_to


@pytest.fixture
def spans(tmp_path: Path) -> Iterator[Path]:
    with traced_to(tmp_path / "spans.jsonl") as path:
        yield path


class Servicer(rpc.TrainServiceServicer):
    """Knows no training, and remembers what it was called within."""

    seen = ""

    def GetTraining(self, request: pb.GetTrainingRequest, context: object) -> pb.GetTrainingResponse:  # noqa: N802, ARG002
        self.seen = tracing.current()
        if request.training_id == "none":
            raise NotFound("TRAINING_UNKNOWN", "there is none")
        return pb.GetTrainingResponse()


def test_call_when_within_a_span_then_the_server_goes_on_with_the_trace(spans: Path) -> None:
    servicer, calls = Servicer(), Calls()
    door = Door(around=observers(calls, ""))
    server = serve_threads([Service(TRAIN, rpc.add_TrainServiceServicer_to_server, servicer)], "127.0.0.1:0", door=door)
    try:
        target = RemoteTarget(server.address, TRAIN)
        ask = pb.GetTrainingRequest(training_id="t")
        with tracing.continued(PARENT, "attempt"):
            target.unary("GetTraining", ask, pb.GetTrainingResponse)
            with pytest.raises(NotFound):
                target.unary("GetTraining", pb.GetTrainingRequest(training_id="none"), pb.GetTrainingResponse)
        within = servicer.seen
        target.unary("GetTraining", ask, pb.GetTrainingResponse)
        assert servicer.seen == "", "a call that nobody traces begins no trace"
    finally:
        server.stop(0)
    told = rows(spans)
    assert {row["trace"] for row in told} == {PARENT[3:35]}
    by_kind = {kind: [row for row in told if row["kind"] == kind] for kind in ("internal", "client", "server")}
    attempt = by_kind["internal"][0]
    assert attempt["parent"] == PARENT[36:52]
    assert [row["parent"] for row in by_kind["client"]] == [attempt["span"]] * 2
    assert [row["parent"] for row in by_kind["server"]] == [row["span"] for row in by_kind["client"]]
    assert [row["ok"] for row in by_kind["server"]] == [True, False]
    assert [row["attributes"].get("error.type") for row in by_kind["server"]] == [None, "TRAINING_UNKNOWN"]
    assert [row["attributes"].get("error.type") for row in by_kind["client"]] == [None, "NOT_FOUND"]
    assert within.split("-")[2] == by_kind["server"][1]["span"]


def test_store_when_within_a_span_then_reads_and_writes_are_told(spans: Path, tmp_path: Path) -> None:
    store = open_store(f"dir:{tmp_path / 'objects'}")
    ref = store.put(ObjectKind.NETWORK, b"outside any trace")
    with tracing.continued(PARENT, "job"):
        assert store.get(ref) == b"outside any trace"
        store.put(ObjectKind.NETWORK, b"within")
    assert [row["name"] for row in rows(spans)] == ["store get", "store put", "job"]


def test_place_when_told_then_has_the_id_that_was_named_before(spans: Path) -> None:
    place = Place(PARENT, "task", "s-t1-train")
    assert place.traceparent == Place(PARENT, "task", "s-t1-train").traceparent
    assert place.traceparent != Place(PARENT, "task", "s-t2-train").traceparent
    below = Place(place.traceparent, "lease", "1")
    assert below.traceparent != Place(Place(PARENT, "task", "s-t2-train").traceparent, "lease", "1").traceparent
    tracing.emit("lease", below, (100.0, 102.5), {})
    tracing.emit("task", place, (99.0, 103.0), {})
    lease, task = rows(spans)
    assert (lease["parent"], task["parent"]) == (place.span_id, PARENT[36:52])
    assert (lease["span"], task["span"]) == (below.span_id, place.span_id)
    assert (lease["start_s"], lease["end_s"]) == (100.0, 102.5)


def test_ratio_when_zero_then_nothing_is_told_by_anybody_below(tmp_path: Path) -> None:
    path = tmp_path / "spans.jsonl"
    environment = {"NASMESH_TRACES": f"file:{path}", "NASMESH_TRACES_RATIO": "0"}
    tracing.configure_tracing("test", read_settings(environment))
    try:
        with tracing.span("CreateSearch") as root:
            assert int(root.traceparent[-2:], 16) & 1 == 0, "not sampled"
            tracing.emit("task", Place(root.traceparent, "task"), (1.0, 2.0), {})
        with tracing.continued(PARENT, "sampled by whoever began it"):
            pass
    finally:
        tracing.stop_tracing()
    assert [row["name"] for row in rows(path)] == ["sampled by whoever began it"]


@pytest.mark.parametrize(
    "text",
    ["", "nonsense", PARENT[:-3], PARENT.replace("00-0", "ff-0", 1), "00-" + "0" * 32 + PARENT[35:], PARENT + "\n"],
)
def test_traceparent_when_malformed_then_ignored(spans: Path, text: str) -> None:
    assert tracing.checked(text) == ""
    with tracing.continued(text, "nothing") as span:
        assert span.traceparent == ""
    assert rows(spans) == []


@pytest.mark.parametrize(
    "target", ["zipkin:http://127.0.0.1:9411", "otlp:", "otlp:127.0.0.1:4318", "otlp:ftp://host/x", "file:", "nowhere"]
)
def test_target_when_unknown_then_refused_naming_the_variable(target: str) -> None:
    with pytest.raises(Invalid) as caught:
        tracing.configure_tracing("test", read_settings({"NASMESH_TRACES": target}))
    assert (caught.value.reason, caught.value.field) == ("TRACES_INVALID", "NASMESH_TRACES")
    assert not tracing.enabled()


def test_target_when_a_directory_is_in_the_way_then_refused(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="cannot be written"):
        tracing.configure_tracing("test", read_settings({"NASMESH_TRACES": f"file:{tmp_path}"}))


def test_program_when_the_target_is_unknown_then_a_sentence_and_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NASMESH_HOME", str(tmp_path))
    monkeypatch.setenv("NASMESH_TRACES", "jaeger:here")
    assert main(["--listen", "127.0.0.1:0"]) == 2
    assert "NASMESH_TRACES: 'jaeger:here' is not otlp:http://HOST:PORT or file:PATH" in capsys.readouterr().err


def test_collector_when_it_listens_then_gets_spans() -> None:
    came: list[tuple[str, str, int]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            size = len(self.rfile.read(int(self.headers["Content-Length"])))
            came.append((self.path, self.headers["Content-Type"], size))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    settings = read_settings({"NASMESH_TRACES": f"otlp:http://127.0.0.1:{server.server_port}"})
    try:
        tracing.configure_tracing("test", settings)
        with tracing.span("CreateSearch"):
            pass
        tracing.stop_tracing()
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert [(path, kind) for path, kind, _ in came] == [("/v1/traces", "application/x-protobuf")]
    assert came[0][2] > 50


def test_collector_when_it_is_away_then_work_goes_on_and_the_end_does_not_wait() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        nobody = probe.getsockname()[1]
    tracing.configure_tracing("test", read_settings({"NASMESH_TRACES": f"otlp:http://127.0.0.1:{nobody}"}))
    clock = SystemClock()
    began = clock.monotonic()
    with tracing.span("CreateSearch") as span:
        assert span.traceparent
    assert clock.monotonic() - began < 1.0
    tracing.stop_tracing()
    assert clock.monotonic() - began < 10.0
