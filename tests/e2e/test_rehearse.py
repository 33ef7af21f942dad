"""`nasmesh rehearse` against the real thing: the same specification, the same networks, one after the other."""

import json
import subprocess
from pathlib import Path

import numpy as np
import psutil
import pytest

from nasmesh.client import parse_spec
from nasmesh.v1 import search_pb2
from tests.builders.specs import chains
from tests.e2e.mesh import ROOT, clean_environment, command, survivors
from tests.e2e.toys import Toys

SPEC = chains(trials=12, layers=3, channels=(4, 8), more="parallelism: 1\nseed: 9")


def test_rehearsal_when_trials_come_one_by_one_then_it_proposes_what_a_real_search_does(tmp_path: Path) -> None:
    """With one trial in flight every order of results is the same, so the generator must be asked the same."""
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC)
    with Toys(tmp_path / "mesh") as mesh:
        with mesh.client() as client:
            client.create_search(parse_spec(SPEC), search_id="real")
            for _ in client.watch("real"):
                pass
            assert client.get_search("real").state == search_pb2.SEARCH_STATE_SUCCEEDED
            real = [trial.network.name for trial in client.list_trials("real")]
        flags = ("-f", str(path), "--target", mesh.addresses["generate"], "--networks", "--json")
        done = mesh.nasmesh("rehearse", *flags, "--agents", "1,3")
        assert done.code == 0, done.stderr
        told = json.loads(done.stdout)
        assert {"trainS", "secondsPerMac", "noise"} <= told["model"].keys()
        found = told["rehearsals"]
        assert {"wallTimeS", "generatorTookS", "boundS", "limit"} <= found[0].keys()
        assert [row["networks"] for row in found] == [real, real]
        assert [row["agents"] for row in found] == [1, 3]
        table = mesh.nasmesh("rehearse", *flags[:4], "--agents", "1,3").stdout.splitlines()
        assert table[0].split()[:3] == ["agents", "time", "speed-up"]
        assert [line.split()[0] for line in table[1:3]] == ["1", "3"]


def test_rehearsal_when_the_data_was_added_then_its_size_and_classes_are_known(tmp_path: Path) -> None:
    draw = np.random.default_rng(1)
    pixels, labels = draw.integers(0, 256, (300, 1, 8, 8), dtype=np.uint8), np.arange(300) % 4
    np.savez(tmp_path / "mine.npz", x_train=pixels, y_train=labels)
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC.replace("datasets/digits", "datasets/mine"))
    with Toys(tmp_path / "mesh") as mesh:
        added = mesh.nasmesh("dataset", "add", "mine", str(tmp_path / "mine.npz"))
        assert added.code == 0, added.stderr
        flags = ("rehearse", "-f", str(path), "--target", mesh.addresses["generate"], "--json")
        figures = ("--train-model", "noise=0,train_s=0,seconds_per_mac=1e-6")
        found = json.loads(mesh.nasmesh(*flags, *figures).stdout)["rehearsals"][0]
        assert (found["state"], found["trials"]) == ("SUCCEEDED", 12), found
        half = mesh.nasmesh(*flags, *figures, "--set", "data.view.classes=[0, 1]")
        assert 0.4 < json.loads(half.stdout)["rehearsals"][0]["deviceTimeS"] / found["deviceTimeS"] < 0.6
        done = mesh.nasmesh(*flags, "--journal", f"sqlite:{tmp_path / 'none.db'}")
        assert (done.code, "'mine'" in done.stderr) == (2, True), done.stderr
        done = mesh.nasmesh(*flags, "--set", "generator.generator=generators/mine")
        assert (done.code, "with --target HOST:PORT" in done.stderr) == (3, True), done.stderr


@pytest.mark.parametrize("victim", ["scheduler.rehearsal", "nasmesh.agent.piped"])
def test_rehearsal_when_part_of_it_is_killed_then_nothing_is_left(tmp_path: Path, victim: str) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC.replace("maxTrials: 12", "maxTrials: 5000"))
    flags = command("rehearse", "-f", str(path), "--agents", "4")
    process = subprocess.Popen(
        flags, env=clean_environment(tmp_path), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        family = [psutil.Process(process.pid)]
        for _ in range(600):
            family = [family[0], *family[0].children(recursive=True)]
            if any("generate_svc" in member.cmdline() for member in family):
                break
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.1)
        assert len(family) == 3
        next(member for member in family if victim in member.cmdline()).kill()
        process.wait(30)
        assert survivors(family) == []
    finally:
        process.kill()
        process.wait()
