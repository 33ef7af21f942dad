"""Metrics as Prometheus reads them: a real scrape of real programs, the documented table, bad addresses."""

import asyncio
import re
import socket
from pathlib import Path

import grpc
import pytest

from nasmesh.errors import Invalid, NasmeshError, NotFound, Unavailable
from nasmesh.rpc.channel import errors_from_rpc
from nasmesh.rpc.observing import metrics_address
from nasmesh.store.memory import MemoryStore
from nasmesh.telemetry.calls import Calls
from nasmesh.telemetry.catalog import METRICS, Kind
from nasmesh.telemetry.exposition import serve_metrics
from nasmesh.telemetry.samples import Histogram, Sample
from nasmesh.v1 import scheduler_service_pb2 as api
from scheduler.activity import OTHER, REASONS, Counts
from scheduler.program import Options, start
from tests.builders import scheduling as make
from tests.builders.addresses import free_address
from tests.builders.scheduler_calls import go
from tests.builders.scheduler_server import client, create, ended, working
from tests.builders.scraping import known_names, scrape

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "observability.md"
_ROW = re.compile(r"^\| `(nasmesh_\w+)` \| (\w+) \| (.*?) \| (.+?) \|$", re.MULTILINE)
_UNITS = ("_seconds", "_bytes")


def test_scheduler_when_scraped_after_a_search_then_numbers_are_those_of_the_search() -> None:
    async def body() -> None:
        metrics = free_address()
        options = Options("127.0.0.1:0", "memory:", "memory:", metrics=metrics)
        scheduler = await start(options, store=MemoryStore())
        async with client(scheduler.address) as stub, working(scheduler.address):
            created = await create(stub, make.make_spec(max_trials=3))
            await ended(stub, created.name)
            with pytest.raises(NotFound), errors_from_rpc():
                await stub.GetSearch(api.GetSearchRequest(name="searches/none"))
            info = await stub.GetServerInfo(api.GetServerInfoRequest())
            found = await asyncio.to_thread(scrape, metrics)
        await scheduler.stop(0)
        assert found["nasmesh_outcomes_total"]["recorded",] == info.activity.outcomes_recorded >= 7
        assert found["nasmesh_events_total"][()] == info.activity.events
        assert found["nasmesh_commit_seconds_count"][()] == info.activity.commits > 0
        assert found["nasmesh_agents_connected"][()] == 1.0
        assert found["nasmesh_serving"][()] == 1.0
        assert found["nasmesh_tasks"]["train", "queued"] == 0.0
        calls = found["nasmesh_rpc_calls_total"]
        assert calls["OK", "/nasmesh.v1.SchedulerService/CreateSearch"] == 1.0
        assert calls["NOT_FOUND", "/nasmesh.v1.SchedulerService/GetSearch"] == 1.0
        assert found["nasmesh_rpc_seconds_count"]["/nasmesh.v1.SchedulerService/CreateSearch",] == 1.0
        assert ("/nasmesh.v1.SchedulerService/WatchSearch",) not in found["nasmesh_rpc_seconds_count"], "a stream"
        assert known_names(found) <= set(METRICS)

    go(body())


def test_document_when_compared_with_the_code_then_the_same_table() -> None:
    documented = {name: (kind, labels, help_) for name, kind, labels, help_ in _ROW.findall(DOCUMENT.read_text())}
    defined = {
        metric.name: (metric.kind.value, ", ".join(f"`{label}`" for label in metric.labels), metric.help)
        for metric in METRICS.values()
    }
    assert documented == defined


def test_names_when_they_measure_something_then_end_in_its_unit() -> None:
    for metric in METRICS.values():
        assert not metric.name.endswith("_total"), "the scrape adds it"
        if metric.kind is Kind.HISTOGRAM:
            assert metric.name.endswith(_UNITS), metric.name


def test_reasons_when_too_many_then_counted_together() -> None:
    counts = Counts()
    for number in range(REASONS + 10):
        counts.add(f"REASON_{number}")
    counts.add("REASON_0")
    assert len(counts) == REASONS + 1
    assert (counts["REASON_0"], counts[OTHER]) == (2, 10)


def test_histogram_when_values_come_then_cumulated_in_the_scrape() -> None:
    histogram = Histogram((0.1, 1.0))
    for value in (0.05, 0.1, 0.5, 7.0):
        histogram.observe(value)
    readings = [histogram.reading("nasmesh_job_seconds"), Sample("nasmesh_slots", 2)]
    with_one = serve_metrics("127.0.0.1:0", [lambda: readings])
    try:
        found = scrape(with_one.address)
    finally:
        with_one.close()
    assert [value for _, value in sorted(found["nasmesh_job_seconds_bucket"].items())] == [4.0, 2.0, 3.0], "+Inf first"
    assert found["nasmesh_job_seconds_sum"][()] == pytest.approx(7.65)
    assert found["nasmesh_slots"][()] == 2.0
    assert found["nasmesh_build_info"]


def test_calls_when_streams_end_then_counted_without_a_duration() -> None:
    calls = Calls()
    calls.answered("/a/B", "OK", None)
    calls.answered("/a/B", grpc.StatusCode.CANCELLED.name, None)
    assert [reading.metric for reading in calls.readings()] == ["nasmesh_rpc_calls", "nasmesh_rpc_calls"]


@pytest.mark.parametrize(
    ("address", "kind", "reason"),
    [
        ("nowhere", Invalid, "ADDRESS_INVALID"),
        ("127.0.0.1:99999", Invalid, "ADDRESS_INVALID"),
        ("0.0.0.0:9400", Invalid, "METRICS_PLAINTEXT"),
        ("192.0.2.1:9400", Invalid, "METRICS_PLAINTEXT"),
    ],
)
def test_address_when_it_is_wrong_or_open_then_refused(address: str, kind: type[NasmeshError], reason: str) -> None:
    with pytest.raises(kind) as caught:
        metrics_address(address, insecure=False)
    assert caught.value.reason == reason
    assert caught.value.field == "metrics"


def test_address_when_insecure_is_given_or_none_then_allowed() -> None:
    assert metrics_address("0.0.0.0:9400", insecure=True) == "0.0.0.0:9400"
    assert metrics_address("", insecure=False) == ""


def test_port_when_in_use_then_says_so_and_the_scheduler_does_not_half_start() -> None:
    async def body() -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            metrics = f"127.0.0.1:{taken.getsockname()[1]}"
            with pytest.raises(Unavailable) as caught:
                await start(Options("127.0.0.1:0", "memory:", "memory:", metrics=metrics), store=MemoryStore())
            assert (caught.value.reason, caught.value.field) == ("PORT_IN_USE", "metrics")

    go(body())


def test_address_when_this_machine_does_not_have_it_then_invalid() -> None:
    with pytest.raises(Invalid) as caught:
        serve_metrics("192.0.2.1:0", [])
    assert caught.value.reason == "METRICS_INVALID"
