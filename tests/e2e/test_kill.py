"""kill -9 of every process in the middle of a search: it ends as if nothing had happened, to the last bit."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass

import onnx
import pytest

from nasmesh.client import Client, read_spec
from nasmesh.v1 import measurement_pb2, search_pb2
from nasmesh.v1 import scheduler_service_pb2 as pb
from tests.e2e.mesh import Mesh
from tests.e2e.specs import TINY

Change = pb.WatchSearchResponse


@dataclass(frozen=True, slots=True)
class Result:
    network: str
    accuracy: dict[int, float]
    """By split: of a final network on the validation split too."""
    model: str
    """SHA-256 of the network as served: its trained weights."""
    checkpoint: str
    """Digest of weights, optimiser and position together."""
    final: bool


Results = dict[int, Result]
# Long enough that a kill lands in the middle of a training, with checkpoints to resume from.
EPOCHS = 20


def create(mesh: Mesh, search_id: str, epochs: int = EPOCHS) -> None:
    path = mesh.home / f"{search_id}.yaml"
    path.write_text(TINY)
    overrides = [f"train.epochs={epochs}", "train.checkpointIntervalS=0.05", "budget.maxTrials=2"]
    # Each test runs the same search: measured before, it would train nothing.
    spec = read_spec(path, [*overrides, "cache=CACHE_MODE_REPEAT"])
    with mesh.client() as client:
        client.create_search(spec, search_id=search_id)


def run(
    mesh: Mesh, search_id: str, when: Callable[[Change], bool], strike: Callable[[], None], epochs: int = EPOCHS
) -> Results:
    """Run a search, strike once at the first change that `when` accepts, and return its results."""
    create(mesh, search_id, epochs)
    struck = False
    with mesh.client() as client:
        for change in client.watch(search_id):
            if not struck and when(change):
                struck = True
                strike()
        assert struck, "the search never came to the moment of the kill"
        search = client.get_search(search_id)
        assert search.state == search_pb2.SEARCH_STATE_SUCCEEDED, search.reason
        return results(client, search_id)


def results(client: Client, search_id: str) -> Results:
    found: Results = {}
    for trial in client.list_trials(search_id):
        assert trial.outcome == search_pb2.TRIAL_OUTCOME_SUCCEEDED, trial.failure.message
        scored = [(int(m.split), m.value) for m in trial.measurements if m.metric == "accuracy"]
        validation, test = measurement_pb2.SPLIT_VALIDATION, measurement_pb2.SPLIT_TEST
        splits = [validation, test] if trial.final else [validation]
        assert sorted(split for split, _ in scored) == splits, "one score a trial and split, whatever was repeated"
        assert trial.number not in found
        state = timeless_digest(client.export(trial.name, pb.EXPORT_FORM_CHECKPOINT).content)
        found[trial.number] = Result(trial.network.name, dict(scored), trial.model.sha256, state, trial.final)
    return found


def timeless_digest(checkpoint: bytes) -> str:
    """Return the digest of a checkpoint without the one thing in it that a repetition changes: the seconds it took."""
    model = onnx.load_from_string(checkpoint)
    scalars = next(prop for prop in model.metadata_props if prop.key == "nasmesh.training")
    known = json.loads(scalars.value)
    assert known.pop("elapsed_s") > 0
    scalars.value = json.dumps(known, sort_keys=True)
    return hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()


@pytest.fixture(scope="module")
def reference(mesh: Mesh) -> Results:
    """Return what the search gives when nobody disturbs it."""
    found = run(mesh, "undisturbed", lambda _: True, lambda: None)
    assert [entry.final for entry in found.values()] == [False, False, True]
    return found


def in_phase(phase: search_pb2.TrialPhase.ValueType, number: int) -> Callable[[Change], bool]:
    return lambda change: change.trial.number == number and change.trial.phase == phase


def trains(number: int) -> Callable[[Change], bool]:
    """Accept a progress mark of a training that is under way; its end, where it was over before its first mark."""
    over = in_phase(search_pb2.TRIAL_PHASE_EVALUATE_QUEUED, number)
    return lambda change: (
        over(change) or (change.progress.trial.endswith(f"/trials/{number}") and change.progress.train.step > 0)
    )


MOMENTS: dict[str, tuple[str, Callable[[Change], bool]]] = {
    "scheduler while a network trains": ("scheduler", trains(1)),
    "scheduler in the final phase": ("scheduler", in_phase(search_pb2.TRIAL_PHASE_TRAINING, 3)),
    "generate before the first network": ("generate", lambda change: change.HasField("search")),
    "generate between two calls": ("generate", in_phase(search_pb2.TRIAL_PHASE_EVALUATING, 1)),
    "train while a network trains": ("train", trains(2)),
    "evaluate while a network is scored": ("evaluate", in_phase(search_pb2.TRIAL_PHASE_EVALUATING, 1)),
    "evaluate at the one score on the test split": ("evaluate", in_phase(search_pb2.TRIAL_PHASE_EVALUATING, 3)),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_and_restarted_then_the_same_results(mesh: Mesh, reference: Results, moment: str) -> None:
    name, when = MOMENTS[moment]

    def strike() -> None:
        mesh.kill9(name)
        mesh.restart(name)

    assert run(mesh, moment.replace(" ", "-"), when, strike) == reference


def test_train_child_killed_then_the_same_results_and_the_server_lives(mesh: Mesh, reference: Results) -> None:
    server = mesh.pid("train")
    killed = []

    def strike() -> None:
        # The oldest is at work; a younger one is the spare, which takes over at once.
        child = min(mesh.children("train"), key=lambda process: process.create_time())
        child.kill()
        killed.append(child.pid)

    assert run(mesh, "child-of-train", in_phase(search_pb2.TRIAL_PHASE_TRAINING, 1), strike) == reference
    assert killed
    assert mesh.pid("train") == server
    assert killed[0] not in [child.pid for child in mesh.children("train")]
