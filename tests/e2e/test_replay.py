"""`nasmesh replay`: after kills of everything at random, every decision comes out again; what was changed is found."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nasmesh.client import parse_spec
from nasmesh.clock import seeded_random
from nasmesh.v1 import journal_pb2, search_pb2
from tests.builders.journals import edit_event, events_of
from tests.e2e.mesh import ROOT, await_port_file, clean_environment, nasmesh
from tests.e2e.toys import Toys

SEED = 11
TRIALS = 30
KILLS = 8
SPEC = f"""
data: {{ dataset: datasets/digits }}
generator: {{ generator: generators/random }}
space: {{ chain: {{ minLayers: 1, maxLayers: 4, kernels: [1, 3, 5], channels: [4, 8, 16], pooling: true }} }}
objectives: [{{ metric: accuracy, goal: GOAL_MAXIMIZE }}]
constraints: [{{ metric: parameters, max: 20000 }}]
budget: {{ maxTrials: {TRIALS} }}
parallelism: 4
train: {{ epochs: 1 }}
final: {{ scaleUp: {{ widthMultiplier: 2 }}, train: {{ epochs: 2 }} }}
seed: 3
"""


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the journal of a search that everything was killed under."""
    home = tmp_path_factory.mktemp("killed")
    rng = seeded_random(SEED)
    # Each of them twice, at trials that the seed picks.
    victims = ["scheduler", "generate", "0", "1"] * (KILLS // 4)
    rng.shuffle(victims)
    strikes = dict(zip(sorted(rng.sample(range(3, TRIALS - 5), KILLS)), victims, strict=True))
    sys.stdout.write(f"seed {SEED}: kills at {strikes}\n")
    with Toys(home) as mesh:
        with mesh.client() as client:
            client.create_search(parse_spec(SPEC), search_id="killed")
            done = 0
            for change in client.watch("killed"):
                if change.HasField("trial") and change.trial.outcome:
                    done += 1
                    victim = strikes.pop(done, "")
                    if victim:
                        mesh.strike(victim)
            search = client.get_search("killed")
            assert search.state == search_pb2.SEARCH_STATE_SUCCEEDED, search.reason
        assert not strikes
        mesh.stop("scheduler")
        return Path(shutil.copy(home / "journal.db", home / "saved.db"))


@contextmanager
def generate_server(home: Path) -> Iterator[str]:
    """One generate server for all replays here, which spares its start."""
    home.mkdir(parents=True, exist_ok=True)
    flags = ["--listen", "127.0.0.1:0", "--port-file", str(home / "port"), "--store", "memory:"]
    with (home / "log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "generate_svc", *flags],
            env=clean_environment(home),
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        yield await_port_file(process, home / "port")
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with generate_server(tmp_path_factory.mktemp("generate")) as address:
        yield address


def replayed(journal: Path, *flags: str) -> tuple[int, dict[str, object]]:
    done = nasmesh(clean_environment(journal.parent), "replay", "killed", "--journal", str(journal), "--json", *flags)
    assert done.stdout, done.stderr
    return done.code, json.loads(done.stdout)


def test_replay_when_everything_was_killed_then_no_decision_differs(journal: Path) -> None:
    code, found = replayed(journal)
    assert (code, found["differences"]) == (0, []), found
    assert found["state"] == "SUCCEEDED"
    assert found["trials"] == TRIALS + 1
    assert found["proposals"] == TRIALS + 1
    assert found["storedTrials"] == TRIALS + 1
    assert int(str(found["calls"])) > TRIALS / 4
    assert int(str(found["boots"])) == 2
    assert int(str(found["lostAttempts"])) >= 1


def test_replay_when_the_seed_was_another_then_the_first_call_is_named(
    journal: Path, tmp_path: Path, target: str
) -> None:
    copy = Path(shutil.copy(journal, tmp_path / "copy.db"))
    for sequence, body in events_of(copy).items():
        event = journal_pb2.JournalEvent.FromString(body)
        if event.HasField("search_created"):
            event.search_created.spec.seed += 1
            edit_event(copy, sequence, event.SerializeToString())
    code, found = replayed(copy, "--target", target)
    first = found["differences"][0]  # type: ignore[index]
    assert code == 1
    assert first["where"].startswith("killed-g1, attempt 1.trials[0]")
    assert first["recorded"] != first["replayed"]


def test_replay_when_it_cannot_be_then_says_why(journal: Path, tmp_path: Path) -> None:
    environment = clean_environment(tmp_path)
    done = nasmesh(environment, "replay", "nowhere", "--journal", str(journal), "--json", "--target", "127.0.0.1:1")
    assert done.code == 3, "the generator is asked first"
    copy = Path(shutil.copy(journal, tmp_path / "copy.db"))
    assert nasmesh(environment, "admin", "compact", "--journal", str(copy)).code == 0
    done = nasmesh(environment, "replay", "killed", "--journal", str(copy), "--json")
    assert (done.code, json.loads(done.stdout)["error"]["reason"]) == (1, "JOURNAL_COMPACTED")
    assert os.linesep not in done.stderr.strip()
