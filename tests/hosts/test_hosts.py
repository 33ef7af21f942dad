"""A search over separate hosts gives the same networks, scores and weights whatever becomes of hosts and links."""

import json
import time
from collections.abc import Callable

import pytest

from tests.hosts import partitions, refusals, scenario
from tests.hosts.fleet import Fleet, agent_name
from tests.hosts.partitions import ALL, EACH_CHANGE, Case
from tests.hosts.refusals import MISTAKES
from tests.hosts.scenario import Trials

# In the order of this file: the last test leaves the hosts in pieces.


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        cases = ALL if metafunc.config.getoption("--long") else EACH_CHANGE
        metafunc.parametrize("case", cases, ids=map(str, cases))


@pytest.fixture(scope="module")
def reference(fleet: Fleet) -> Trials:
    """Return what the search gives when nobody disturbs it."""
    found = scenario.undisturbed(fleet, "undisturbed")
    assert [trial["final"] for trial in found] == [False] * 3 + [True]
    assert all(trial["outcome"] == "TRIAL_OUTCOME_SUCCEEDED" and trial["model"] for trial in found), found
    return found


def test_hosts_are_listed_with_what_they_are(fleet: Fleet) -> None:
    found = {host["host"]: host for host in json.loads(scenario.nasmesh(fleet, "hosts", "--json"))}
    assert set(found) == set(scenario.SERVERS)
    for name, kind in scenario.SERVERS.items():
        assert found[name]["address"] == fleet[name].address
        (server,) = found[name]["servers"]
        assert (server["slots"], server["state"], server["isSchedulersVersion"]) == ({kind: 1}, "connected", True)
        assert server["labels"] == {"room": name[-1]}
    assert next(device["id"] for device in found["gpu1"]["devices"]) == "cpu"


def test_nobody_dials_a_server(fleet: Fleet) -> None:
    assert scenario.dial(fleet, "hub", "7400") == "answered"
    before = fleet["gpu1"].refused()
    for host, port in (("gpu1", "7402"), ("gpu1", "22"), ("eval1", "7403")):
        assert scenario.dial(fleet, host, port) == "timed out"
    assert fleet["gpu1"].refused() > before


def test_hosts_that_should_not_be_let_in_are_told_why(fleet: Fleet) -> None:
    refusals.prepare(fleet)
    tried = {name: refusals.start(fleet, number, wrong) for number, (name, wrong) in enumerate(MISTAKES.items())}
    before = set(fleet.desk.agents())
    for name, attempt in tried.items():
        wrong = MISTAKES[name]
        sentence = wrong.sentence.replace("GPU1", fleet["gpu1"].address)
        said = refusals.await_text(attempt, sentence)
        assert sentence in said, f"{name}: {said[-2000:]}"
        assert wrong.reason in said or wrong.is_final, said
        assert "Traceback" not in said
        if wrong.is_final:
            assert attempt.program.process.wait(60) in (1, 2, 3)
        else:
            assert attempt.program.process.poll() is None
            attempt.program.kill9()
    fleet[refusals.HOST].kill()
    agents = fleet.desk.agents()
    assert set(agents) == before
    assert agents[agent_name("gpu1", "train")]["host"] == "gpu1"


def test_partition_then_the_same_results(
    fleet: Fleet, reference: Trials, case: Case, record_property: Callable[[str, object], None]
) -> None:
    search_id = str(case).replace(" ", "-")
    began, struck, dropped = time.monotonic(), "", 0
    fleet.desk.create(search_id, scenario.SPEC)
    for change in fleet.desk.watch(search_id):
        if not struck and (struck := partitions.is_moment(case, change)):
            dropped = partitions.strike(fleet, case, struck)
    assert struck, "the search never came to the moment of the partition"
    # Agents tell that they live every second; whether a server had something for the object store just then is chance.
    assert dropped or case.link == "train-store", "the partition was none"
    assert fleet.desk.trials(search_id) == reference
    record_property(
        "counts", f"T6: {case}, {struck} struck, {dropped} packets dropped, {time.monotonic() - began:.1f} s"
    )


def test_hosts_killed_cut_off_drained_and_added_then_the_same_results(fleet: Fleet, reference: Trials) -> None:
    assert scenario.disturbed(fleet, "disturbed") == reference
    fleet.await_lost("gpu1", "train")  # the search may end before the scheduler is sure of it
    agents = fleet.desk.agents()
    states = {host: agents[f"agents/{host}-train"] for host in ("gpu1", "gpu2", "gpu3")}
    assert [bool(states[host].get("connected")) for host in states] == [False, True, True]
    assert [bool(states[host].get("draining")) for host in states] == [False, True, False]
