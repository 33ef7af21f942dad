"""NAC through the whole mesh: growth by its rule, statistics by element id, weights inherited, one look at the test."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from nasmesh.client import Client, read_spec
from nasmesh.v1 import measurement_pb2, search_pb2
from tests.e2e.mesh import Mesh
from tests.e2e.specs import NAC

Ended = tuple[search_pb2.Search, list[search_pb2.Trial]]

PALETTE = ("1x1", "3x3", "3x3sep")
# By the rule of Kamath et al.: of n branches floor(n / 3) are pruned, no cell loses its last, then a full cell comes.
GROWTH = [(1, 3), (2, 3 - 1 + 3), (3, 5 - 1 + 3)]


@pytest.fixture(scope="module")
def ended(mesh: Mesh) -> Ended:
    path = mesh.home / "nac.yaml"
    path.write_text(NAC)
    with mesh.client() as client:
        name = client.create_search(read_spec(path, []), search_id="nac").name
        for _ in client.watch(name):
            pass
        search, trials = client.get_search(name), list(client.list_trials(name))
    assert search.state == search_pb2.SEARCH_STATE_SUCCEEDED, search.reason
    return search, trials


def of_search(trials: list[search_pb2.Trial]) -> list[search_pb2.Trial]:
    return [trial for trial in trials if not trial.final]


def live(trial: search_pb2.Trial, stage: int) -> tuple[int, int]:
    """Return cells and live branches of a stage, read from the values of its choices."""
    values = trial.choices.values
    branches = [
        key
        for key, value in values.items()
        if re.fullmatch(rf"s{stage}_c\d+\.({'|'.join(PALETTE)})", key) and value == "on"
    ]
    return int(values[f"stage_{stage}.cells"]), len(branches)


def test_networks_grow_by_the_rule(ended: Ended) -> None:
    search, trials = ended
    assert [trial.iteration for trial in of_search(trials)] == [1, 2, 3]
    assert search.iterations == 3
    assert [live(trial, 1) for trial in of_search(trials)] == GROWTH
    assert [live(trial, 2) for trial in of_search(trials)] == [(1, 3)] * 3, "a frozen stage stays as it is"
    assert len({trial.network.name for trial in trials}) == len(trials)


def test_the_smallest_branch_is_what_was_pruned(ended: Ended) -> None:
    _, trials = ended
    first, second = of_search(trials)[:2]
    squares = {
        measurement.element: measurement.value
        for measurement in first.measurements
        if measurement.metric == "mean_square" and measurement.element.startswith("s1_")
    }
    assert set(squares) == {f"s1_c1_b{branch}" for branch in PALETTE}
    gone = [branch for branch in PALETTE if second.choices.values[f"s1_c1.{branch}"] == "off"]
    assert [f"s1_c1_b{branch}" for branch in gone] == [min(squares, key=lambda element: squares[element])]


def test_statistics_are_recorded_at_the_ids_of_live_branches(
    ended: Ended,
) -> None:
    for trial in of_search(ended[1]):
        values = trial.choices.values
        wanted = {
            f"{match[1]}_b{match[2]}"
            for key, value in values.items()
            if value == "on" and (match := re.fullmatch(rf"(s\d+_c\d+)\.({'|'.join(PALETTE)})", key))
        }
        for metric in ("mean", "variance", "mean_square"):
            found = [m for m in trial.measurements if m.metric == metric and m.element]
            assert {m.element for m in found} == wanted, metric
            assert all(m.split == measurement_pb2.SPLIT_TRAIN for m in found)


def test_networks_start_from_their_parents_weights(ended: Ended) -> None:
    first, *others = of_search(ended[1])
    assert not first.HasField("initial_weights")
    for parent, trial in zip([first, *others], others, strict=False):
        assert list(trial.parents) == [parent.name]
        assert trial.initial_weights.sha256 in (parent.checkpoint.sha256, parent.model.sha256)


def test_the_final_network_is_enlarged_and_the_test_split_used_once(
    ended: Ended,
) -> None:
    search, trials = ended
    final = [trial for trial in trials if trial.final]
    assert [trial.name for trial in final] == list(search.final_trials)
    assert len(final) == 1
    source = next(trial for trial in trials if trial.name == final[0].parents[0])
    assert final[0].network.parameters > 2 * source.network.parameters
    assert final[0].choices == source.choices
    splits = Counter(
        (trial.final, measurement.split)
        for trial in trials
        for measurement in trial.measurements
        if measurement.metric == "accuracy"
    )
    validation, test = measurement_pb2.SPLIT_VALIDATION, measurement_pb2.SPLIT_TEST
    assert splits == {(False, validation): 3, (True, validation): 1, (True, test): 1}
    assert not [m for trial in of_search(trials) for m in trial.measurements if m.split == measurement_pb2.SPLIT_TEST]


@pytest.mark.usefixtures("ended")
def test_the_same_search_again_gives_the_same_networks_and_scores(mesh: Mesh, tmp_path: Path) -> None:
    path = tmp_path / "nac.yaml"
    path.write_text(NAC)
    with mesh.client() as client:
        # Trained again: taken over from the first, the results would be the same whatever training does.
        spec = read_spec(path, ["cache=CACHE_MODE_REPEAT"])
        name = client.create_search(spec, search_id="again").name
        for _ in client.watch(name):
            pass
        again = scores(client, name)
        assert again == scores(client, "searches/nac")


def scores(client: Client, name: str) -> list[tuple[str, str, float]]:
    return [
        (
            trial.network.name,
            trial.model.sha256,
            next(m.value for m in trial.measurements if m.metric == "accuracy"),
        )
        for trial in client.list_trials(name)
    ]


@pytest.mark.usefixtures("ended")
def test_every_restructuring_is_derived_again_from_the_live_journal(mesh: Mesh) -> None:
    journal = ("--journal", str(mesh.home / "journal.db"))
    done = mesh.nasmesh("replay", "nac", *journal, "--target", mesh.addresses["generate"], "--json")
    found = json.loads(done.stdout)
    assert (done.code, found["differences"]) == (0, []), found
    assert (found["calls"], found["proposals"], found["storedTrials"]) == (4, 4, 4)  # three of NAC, one enlarged
    checked = mesh.nasmesh("admin", "check", *journal, "--store", f"dir:{mesh.home / 'objects'}", "--json")
    assert (checked.code, json.loads(checked.stdout)["violations"]) == (0, []), checked.stdout
    assert json.loads(checked.stdout)["objects"] >= 12
