"""Wrong input through the real command line and mesh: an exit code, one sentence with field and fix, nothing lost."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
import pytest
from onnx import helper

from nasmesh.client import Client
from nasmesh.v1 import object_pb2, search_pb2
from nasmesh.v1 import scheduler_service_pb2 as pb
from tests.e2e.mesh import ROOT, Finished, Mesh, clean_environment, command, nasmesh
from tests.e2e.specs import TINY

SPACE = TINY[TINY.index("space:") : TINY.index("objectives:")]
EXAMPLE = (ROOT / "examples" / "fixed.yaml").read_text()

TABLE = ["evaluate={table: tables/digits-cell}", "train={}", "final={train: {}}"]

# What is changed in the specification; the exit code; what the one sentence must name: the field, then the fix.
SPECS: dict[str, tuple[list[str], int, list[str]]] = {
    "unknown data set": (["data.dataset=datasets/cifar99"], 2, ["data.dataset", "cifar99", "datasets/digits"]),
    "unknown generator": (["generator.generator=generators/nacc"], 3, ["generators/nacc", "generators/nac,", "serve"]),
    "unknown setting": (["generator.settings.drwas=3"], 2, ["generator.settings.drwas", "draws"]),
    "wrong setting": (["generator.settings.draws=-3"], 2, ["generator.settings.draws"]),
    "negative budget": (["budget.maxTrials=-1"], 2, ["budget.max_trials", "positive"]),
    "NaN budget": (["budget.maxWallTimeS=.nan"], 2, ["budget.maxWallTimeS", "finite"]),
    "infinite budget": (["budget.maxDeviceTimeS=.inf"], 2, ["budget.maxDeviceTimeS", "finite"]),
    "NaN learning rate": (["train.optimizer.learningRate=.nan"], 2, ["train.optimizer.learningRate", "finite"]),
    "negative epochs": (["train.epochs=-1"], 2, ["train.epochs", "above 0"]),
    "no budget": (["budget={}"], 2, ["budget"]),
    "objective that is not produced": (["objectives.0.metric=acuracy"], 2, ["objectives[0].metric", "accuracy?"]),
    "no objective": (["objectives=[]"], 2, ["objectives", "at least one"]),
    "loss that no server has": (["train.loss=huberr"], 3, ["train.loss", "cross_entropy", "did you mean huber?"]),
    "table of other data": ([*TABLE, "data.dataset=synthetic"], 2, ["data.dataset", "digits-cell", "datasets/digits"]),
    "table of another space": (TABLE, 2, ["spec.space", "of a cell space", "nasmesh table spec digits-cell"]),
    "chain without kernels": (["space.chain.kernels=[]"], 2, ["space.chain.kernels", "at least one"]),
    "envelope without stages": (["space={envelope: {stages: []}}"], 2, ["space.envelope.stages", "at least one"]),
    "no space": (["space={}"], 2, ["space", "envelope, chain, fixed or cell"]),
    "unknown field": (["train.epoch=1"], 2, ["train.epoch", "epochs"]),
    "wrong enum value": (["objectives.0.goal=UP"], 2, ["objectives", "goal"]),
    "fraction above one": (["train.dataFraction=2", "final.train.dataFraction=1"], 2, ["train.data_fraction"]),
}  # fmt: skip

FILES: dict[str, tuple[str | None, list[str]]] = {
    "missing file": (None, ["spec.yaml", "cannot be read", "give a YAML file"]),
    "bad YAML": ("data: [unclosed", ["spec.yaml, line 1"]),
    "not a mapping": ("- 1", ["spec.yaml: is not a mapping", "examples/"]),
    "empty file": ("", ["spec.yaml: is not a mapping", "examples/"]),
    "no text": ("\x00\x01", ["spec.yaml: is no YAML text"]),
    "code in YAML": ('seed: !!python/object/apply:os.system ["true"]', ["spec.yaml, line 1", "tag"]),
    "a field twice": (TINY + "seed: 2\n", ["seed"]),
}


def check_refused(done: Finished, code: int, words: list[str]) -> None:
    """Assert one sentence on standard error with these words, this exit code, and no stack trace anywhere."""
    assert "Traceback" not in done.stdout + done.stderr
    assert done.code == code, done
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    for word in words:
        assert word in lines[0], f"{word!r} is not in: {lines[0]}"


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "spec.yaml"
    path.write_text(TINY)
    return path


@pytest.mark.parametrize("case", SPECS)
def test_wrong_specification(mesh: Mesh, spec: Path, case: str) -> None:
    changes, code, words = SPECS[case]
    flags = [flag for change in changes for flag in ("--set", change)]
    check_refused(mesh.nasmesh("search", "create", "-f", str(spec), *flags), code, words)


@pytest.mark.parametrize("case", FILES)
def test_wrong_file(mesh: Mesh, spec: Path, case: str) -> None:
    text, words = FILES[case]
    if text is None:
        spec.unlink()
    else:
        spec.write_text(text)
    check_refused(mesh.nasmesh("search", "create", "-f", str(spec)), 2, words)


def test_refused_specifications_have_created_nothing(mesh: Mesh, spec: Path) -> None:
    before = mesh.nasmesh("search", "list", "--json").stdout
    for changes, _, _ in list(SPECS.values())[:3]:
        mesh.nasmesh("search", "create", "-f", str(spec), "--set", changes[0])
    assert mesh.nasmesh("search", "list", "--json").stdout == before


def test_duplicate_search_id(mesh: Mesh, spec: Path) -> None:
    create = ["search", "create", "-f", str(spec), "--id", "twice"]
    assert mesh.nasmesh(*create).code == 0
    check_refused(mesh.nasmesh(*create, "--set", "seed=2"), 5, ["searches/twice exists", "choose another id"])
    assert json.loads(mesh.nasmesh("search", "show", "twice", "--json").stdout)["spec"]["seed"] == "1"
    assert mesh.nasmesh("search", "cancel", "twice").code == 0


def test_things_that_are_not_there(mesh: Mesh, tmp_path: Path) -> None:
    check_refused(mesh.nasmesh("search", "show", "nope"), 4, ["searches/nope"])
    check_refused(mesh.nasmesh("search", "cancel", "nope"), 4, ["searches/nope"])
    check_refused(mesh.nasmesh("network", "show", "0" * 64), 4, ["0" * 64])
    check_refused(mesh.nasmesh("search", "list", "--scheduler", "127.0.0.1:1"), 3, ["127.0.0.1:1", "nasmesh up"])
    check_refused(mesh.nasmesh("search", "list", "--scheduler", "nowhere"), 2, ["nowhere", "HOST:PORT"])
    check_refused(mesh.nasmesh("network", "import", str(tmp_path / "none.onnx")), 2, ["none.onnx", "cannot be read"])
    check_refused(mesh.nasmesh("search", "frobnicate"), 2, ["frobnicate", "--help"])


def test_port_in_use(mesh: Mesh, tmp_path: Path) -> None:
    for program in ("generate", "train", "evaluate"):
        flags = ["--listen", mesh.addresses[program], "--work-dir", str(tmp_path / program)]
        port = mesh.addresses[program].rpartition(":")[2]
        check_refused(mesh.nasmesh("serve", program, *flags), 3, [f"port {port}", "in use", "choose another"])
    done = mesh.nasmesh("serve", "scheduler", "--listen", mesh.addresses["scheduler"], "--journal", "memory:")
    assert (done.code, "in use" in done.stderr, "Traceback" in done.stderr) == (3, True, False)
    assert mesh.nasmesh("search", "list").code == 0


# --- networks -------------------------------------------------------------------------------------------------------


def fixed(object: object_pb2.ObjectRef) -> str:
    """Return a specification of the one network that is this object."""
    ref = f'{{ key: "{object.key}", sha256: "{object.sha256}", sizeBytes: {object.size_bytes} }}'
    one = TINY.replace("generators/random", "generators/fixed").replace("maxTrials: 3", "maxTrials: 1")
    return one.replace(SPACE, f"space: {{ fixed: {{ object: {ref} }} }}\n")


def ended(mesh: Mesh, path: Path, text: str) -> tuple[Finished, search_pb2.Search]:
    """Run a search to its end through the command line and return what it said and what is recorded."""
    path.write_text(text)
    done = mesh.nasmesh("search", "create", "-f", str(path), "--wait")
    name = re.search(r"searches/[a-z0-9-]+", done.stdout)
    assert name is not None, done
    with mesh.client() as client:
        return done, client.get_search(name[0])


def check_failed(mesh: Mesh, path: Path, text: str, words: list[str]) -> None:
    done, search = ended(mesh, path, text)
    assert "Traceback" not in done.stdout + done.stderr
    assert (done.code, search.state) == (1, search_pb2.SEARCH_STATE_FAILED)
    for word in words:
        assert word in search.reason, search.reason
        assert word in done.stdout


def stored(mesh: Mesh, path: Path, content: bytes, words: list[str]) -> object_pb2.ObjectRef:
    """Store what the command refuses to, as another program might."""
    path.write_bytes(content)
    check_refused(mesh.nasmesh("network", "import", str(path)), 2, [path.name, "not stored", *words])
    with mesh.client() as client:
        return client.import_(content)


def test_network_with_an_unknown_operator_is_refused_by_name(mesh: Mesh, spec: Path, tmp_path: Path) -> None:
    node = helper.make_node("NonMaxSuppression", ["x", "scores"], ["logits"], name="suppress")
    floats, integers = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
    inputs = [
        helper.make_tensor_value_info("x", floats, [1, 8, 4]),
        helper.make_tensor_value_info("scores", floats, [1, 1, 8]),
    ]
    graph = helper.make_graph([node], "g", inputs, [helper.make_tensor_value_info("logits", integers, None)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    ref = stored(mesh, tmp_path / "n.onnx", model.SerializeToString(), ["NonMaxSuppression"])
    check_failed(mesh, spec, fixed(ref), ["OP_NOT_ALLOWED", "NonMaxSuppression", "suppress"])


def test_junk_as_onnx(mesh: Mesh, spec: Path, tmp_path: Path) -> None:
    junk = tmp_path / "junk.onnx"
    with junk.open("wb") as file:
        file.truncate(100 << 20)
    check_refused(mesh.nasmesh("network", "import", str(junk)), 2, ["100 MiB", "64 MiB"])
    ref = stored(mesh, junk, os.urandom(32 << 20), ["not an ONNX model"])
    check_failed(mesh, spec, fixed(ref), ["NOT_ONNX", "not an ONNX model"])


def test_mismatched_shapes_name_the_block(mesh: Mesh, spec: Path) -> None:
    two = "inputs: [{ source: mean }, { source: conv1 }]\n          merge: MERGE_CONCAT"
    bad = EXAMPLE.replace("inputs: [{ source: mean }]", two)
    assert bad != EXAMPLE
    check_failed(mesh, spec, bad, ["MERGE_MISMATCH", "logits: ", "'conv1' is (16, 8, 8)"])
    check_failed(mesh, spec, EXAMPLE.replace("source: conv1 ", "source: conv9 "), ["pool1: ", "conv9"])


@pytest.fixture
def network(mesh: Mesh, spec: Path) -> Iterator[tuple[object_pb2.ObjectRef, Path]]:
    """A stored network with its file, which is put back as it was."""
    spec.write_text(EXAMPLE.replace("epochs: 10", "epochs: 1").partition("final:")[0] + "seed: 1\n")
    done, search = ended(mesh, spec, spec.read_text())
    assert search.state == search_pb2.SEARCH_STATE_SUCCEEDED, done
    with mesh.client() as client:
        ref = client.get_trial(f"{search.name}/trials/1").network.object
    path = mesh.home / "objects" / ref.key
    content = path.read_bytes()
    yield ref, path
    replace(path, content)


def replace(path: Path, content: bytes | None) -> None:
    """Change a stored file behind everybody's back; None: remove it."""
    path.unlink(missing_ok=True)
    if content is not None:
        path.write_bytes(content)


DAMAGE: dict[str, tuple[Callable[[bytes], bytes | None], str]] = {
    "missing": (lambda _: None, "OBJECT_MISSING"),
    "with the wrong digest": (lambda content: content[:-1] + bytes([content[-1] ^ 1]), "OBJECT_CORRUPT"),
    "cut short": (lambda content: content[: len(content) // 2], "OBJECT_CORRUPT"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_an_object_is_damaged_before_the_search(
    mesh: Mesh, spec: Path, network: tuple[object_pb2.ObjectRef, Path], damage: str
) -> None:
    (ref, path), (change, reason) = network, DAMAGE[damage]
    replace(path, change(path.read_bytes()))
    check_failed(mesh, spec, fixed(ref), [reason, ref.sha256])


@pytest.mark.parametrize("damage", DAMAGE)
def test_an_object_is_damaged_before_it_is_trained(mesh: Mesh, spec: Path, damage: str) -> None:
    change, reason = DAMAGE[damage]
    spec.write_text(TINY.replace("maxTrials: 3", "maxTrials: 1"))
    mesh.stop("train")
    try:
        created = mesh.nasmesh("search", "create", "-f", str(spec), "--json", "--set", f"seed={len(damage)}")
        name = json.loads(created.stdout)["name"]
        with mesh.client() as client:
            trial = next(found.trial for found in client.watch(name) if found.HasField("trial"))
            path = mesh.home / "objects" / trial.network.object.key
            content = path.read_bytes()
            replace(path, change(content))
            mesh.restart("train")
            _watch_to_the_end(client, name)
            trial = client.get_trial(trial.name)
            replace(path, content)
    finally:
        if "train" not in mesh.running:
            mesh.restart("train")
    assert trial.outcome == search_pb2.TRIAL_OUTCOME_FAILED
    assert (trial.failure.reason, trial.network.object.sha256 in trial.failure.message) == (reason, True)


def _watch_to_the_end(client: Client, name: str) -> list[pb.WatchSearchResponse]:
    return list(client.watch(name))


# --- disks and signals ------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of sixteen megabytes: the journal's log is cut back at four."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(path)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"a disk that is full needs the right to mount one: {mounted.stderr.strip()}")
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def fill(path: Path) -> None:
    """Write until nothing more fits."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        while True:
            os.write(descriptor, b"x" * 4096)
    except OSError:
        return
    finally:
        os.close(descriptor)


def test_a_full_disk_under_the_journal_loses_nothing(small_disk: Path, tmp_path: Path, spec: Path) -> None:
    journal = ("--journal", f"sqlite:{small_disk / 'journal.db'}")
    with Mesh(tmp_path / "home", {"scheduler": journal}) as mesh:
        assert mesh.nasmesh("search", "create", "-f", str(spec), "--id", "before", "--wait").code == 0
        fill(small_disk / "filler")
        create = ["search", "create", "-f", str(spec), "--id", "during"]
        check_refused(mesh.nasmesh(*create), 3, ["journal"])
        (small_disk / "filler").unlink()
        done = mesh.nasmesh(*create, "--wait")
        assert done.code == 0, done
        with mesh.client() as client:
            states = {search.name: search.state for search in client.list_searches()}
        succeeded = search_pb2.SEARCH_STATE_SUCCEEDED
        assert states == {"searches/before": succeeded, "searches/during": succeeded}


def test_ctrl_c_while_a_command_waits_leaves_the_search_running(mesh: Mesh, spec: Path) -> None:
    create = command("search", "create", "-f", str(spec), "--id", "waited", "--wait", "--set", "train.epochs=2000")
    process = subprocess.Popen(
        create, env=mesh.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "trial 1" in line:
            break
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=20)
    assert (process.returncode, "Traceback" in stderr) == (130, False)
    assert json.loads(mesh.nasmesh("search", "show", "waited", "--json").stdout)["state"] == "SEARCH_STATE_RUNNING"
    done = mesh.nasmesh("search", "cancel", "waited")
    assert (done.code, "cancelled" in done.stdout) == (0, True)


@pytest.mark.parametrize("arguments", [["version"], ["up", "--any-port"]], ids=lambda arguments: arguments[0])
def test_ctrl_c_while_modules_load_prints_no_stack_trace(tmp_path: Path, arguments: list[str]) -> None:
    """The signal comes with the first of our modules, long before there is anything to interrupt."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == os.environ['INTERRUPT_AT']:\n"
        "            sys.meta_path.remove(self)\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())\n"
    )
    for module in ("typer", "nasmesh.settings", "clients.cli.commands"):
        environment = {
            **clean_environment(tmp_path / "home"),
            "PYTHONPATH": f"{tmp_path}:{ROOT}",
            "INTERRUPT_AT": module,
        }
        done = nasmesh(environment, *arguments)
        assert (done.code, done.stderr) == (130, ""), module
