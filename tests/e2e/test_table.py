"""A search over a benchmark table: real scheduler, generator, agents and evaluate server, and nobody who trains."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from nasmesh.client import Client, parse_spec
from nasmesh.errors import Invalid
from nasmesh.tables import shelf
from nasmesh.tables.table import to_bytes
from nasmesh.v1 import measurement_pb2, search_pb2
from tests.e2e.mesh import OPEN, Mesh

VALIDATION, TEST = ("accuracy", measurement_pb2.SPLIT_VALIDATION), ("accuracy", measurement_pb2.SPLIT_TEST)
# More draws than any network can hide from: all 79 distinct ones of the 125 are proposed.
SPEC = """
data: { dataset: datasets/digits }
generator: { generator: generators/random, settings: { draws: 10000 } }
space: { cell: { nodes: 3, cells: [1, 1], width: 4 } }
objectives: [{ metric: accuracy, goal: GOAL_MAXIMIZE }]
budget: { maxTrials: 79 }
parallelism: 8
evaluate: { table: tables/digits-cell, tableSeed: -1, latency: false }
final: { topK: 1 }
seed: 5
"""


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A mesh without a train server."""
    mesh = Mesh(tmp_path_factory.mktemp("mesh"))
    OPEN.append(mesh)
    try:
        _put_untested(mesh.home / "tables")
        mesh.start("scheduler")
        for name in ("generate", "evaluate"):
            mesh.spawn(name)
        for name in ("generate", "evaluate"):
            mesh.await_serving(name)
        with mesh.client() as found:
            yield found
    finally:
        mesh.close()


def _run(client: Client, name: str, spec: str) -> search_pb2.Search:
    client.create_search(parse_spec(spec), search_id=name)
    for _ in client.watch(name):
        pass
    return client.get_search(name)


def test_search_over_a_table_when_it_tries_every_network_then_it_finds_the_known_optimum(client: Client) -> None:
    search = _run(client, "table", SPEC)
    assert search.state == search_pb2.SEARCH_STATE_SUCCEEDED, search.reason
    trials = list(client.list_trials("table"))
    table = shelf.load("tables/digits-cell")
    tried, final = trials[:-1], trials[-1]
    assert len({trial.network.name for trial in tried}) == 79
    best = next(trial for trial in tried if trial.name == search.best_trial)
    row = table.row_of(best.choices)
    optimum = table.best(VALIDATION, maximize=True)
    assert _value(best, "accuracy") == table.value(VALIDATION, optimum, -1) == table.value(VALIDATION, row, -1)
    for trial in tried:
        assert not trial.HasField("checkpoint")
        assert not trial.HasField("model")
        assert trial.device_time_s == pytest.approx(table.cost_s(table.row_of(trial.choices), -1))
        assert trial.data_digest == table.digest
    assert search.device_time_s >= sum(trial.device_time_s for trial in tried) > 30
    assert final.final
    assert _value(final, "accuracy", measurement_pb2.SPLIT_TEST) == table.value(TEST, row, -1)


@pytest.mark.parametrize(
    ("old", "new", "reason", "field"),
    [
        ("width: 4", "width: 5", "TABLE_SPACE_MISMATCH", "spec.space.cell.width"),
        ("datasets/digits }", "datasets/synthetic }", "TABLE_DATA_MISMATCH", "spec.data.dataset"),
        ("tableSeed: -1", "tableSeed: 5", "TABLE_SEED_ABSENT", "spec.evaluate.table_seed"),
        ("metric: accuracy", "metric: ece", "TABLE_METRIC_ABSENT", "spec.objectives[0].metric"),
    ],
)
def test_search_over_a_table_when_that_cannot_answer_it_then_is_not_made(
    client: Client, old: str, new: str, reason: str, field: str
) -> None:
    assert old in SPEC
    with pytest.raises(Invalid) as caught:
        client.create_search(parse_spec(SPEC.replace(old, new)), search_id="other")
    assert (caught.value.reason, caught.value.field) == (reason, field)
    assert not [search.name for search in client.list_searches() if search.name == "searches/other"]


def test_final_when_the_table_has_no_test_split_then_refused_and_without_it_the_search_is_made(client: Client) -> None:
    spec = SPEC.replace("digits-cell", "untested").replace("maxTrials: 79", "maxTrials: 3")
    with pytest.raises(Invalid) as caught:
        client.create_search(parse_spec(spec), search_id="untested")
    assert (caught.value.reason, caught.value.field) == ("TABLE_SPLIT_ABSENT", "spec.final")
    assert "only on SPLIT_VALIDATION; leave final out" in caught.value.message
    search = _run(client, "untested", spec.replace("final: { topK: 1 }", ""))
    assert (search.state, search.trials.succeeded) == (search_pb2.SEARCH_STATE_SUCCEEDED, 3), search.reason


def _put_untested(folder: Path) -> None:
    """Write our own table without what was measured on the test split, as NAS-Bench-201 has none."""
    table = shelf.load("tables/digits-cell")
    figures = {figure: values for figure, values in table.figures.items() if figure == VALIDATION}
    folder.mkdir(parents=True)
    about = dataclasses.replace(table.about, table_id="untested")
    (folder / "untested.npz").write_bytes(to_bytes(dataclasses.replace(table, about=about, figures=figures)))


def test_bound_on_latency_when_no_network_keeps_it_then_none_is_trained(client: Client) -> None:
    """There is nobody who could train; the evaluate server measures the untrained networks, and that is the end."""
    spec = SPEC.replace(
        "evaluate: { table: tables/digits-cell, tableSeed: -1, latency: false }", "train: { epochs: 1 }"
    )
    spec = spec.replace("maxTrials: 79", "maxTrials: 3").replace("final: { topK: 1 }", "")
    spec += "constraints: [{ metric: latency_p50, max: 0.000001 }, { metric: parameters, max: 1000000 }]\n"
    search = _run(client, "bound", spec)
    assert search.trials.infeasible == 3, search.reason
    for trial in client.list_trials("bound"):
        assert trial.violation.constraint.metric == "latency_p50"
        assert trial.violation.value == _value(trial, "latency_p50") > 0
        assert trial.environment["profile.cpu"]
        assert trial.device_time_s > 0


def _value(trial: search_pb2.Trial, metric: str, split: int | None = None) -> float:
    found = [m.value for m in trial.measurements if m.metric == metric and split in (None, m.split)]
    assert len(found) == 1, trial
    return found[0]
