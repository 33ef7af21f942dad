"""Fetches the best network in every form that is left with its user, and checks each as its user will meet it."""

import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from clients.cli.report.collect import Collected, facts_of
from clients.cli.report.copying import copy_afterwards
from clients.cli.report.loader import predict_py
from clients.cli.report.verify import Verification, agree, check_runs, verify
from nasmesh.client import Client
from nasmesh.errors import Invalid, NasmeshError, Stale
from nasmesh.v1 import measurement_pb2
from nasmesh.v1 import scheduler_service_pb2 as pb

MODEL, CHECKPOINT, INT8 = "best.onnx", "checkpoint.onnx", "best.int8.onnx"
PYTHON, WEIGHTS, LOADER, EVALUATION = "model.py", "model.npz", "predict.py", "evaluation.json"
_CONVERT_S = 300.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for: a version of ONNX's operator set (0: as trained), an 8-bit copy also where none was made."""

    opset: int = 0
    int8: bool = False


AS_TRAINED = Wanted()


@dataclass(frozen=True, slots=True)
class Artefacts:
    """Files by name, what was checked of them, what the evaluation reported, and why a file is missing.

    `copied` are the scores of an 8-bit copy that the search did not make.
    """

    files: Mapping[str, bytes]
    verification: Verification
    evaluation: Mapping[str, object]
    missing: Sequence[str]
    copied: Sequence[measurement_pb2.Measurement] = ()


def gather(client: Client, collected: Collected, wanted: Wanted) -> Artefacts:
    """Return the best network as its user gets it.

    Raises Stale (NOT_TRAINED, NOT_QUANTIZED), NasmeshError (MODEL_UNVERIFIED), Invalid (OPSET_INVALID, ONNX_MISSING),
    Rejected (OPSET_UNREACHABLE).
    """
    best = collected.best
    if best.evaluate.table:
        raise Stale(
            "NOT_TRAINED",
            f"{best.name} was looked up in {best.evaluate.table}, where nothing is trained; nasmesh network export "
            "--form network writes what was found",
            field="search",
        )
    exported = client.export(best.name, pb.EXPORT_FORM_MODEL)
    verification = verify(exported.content, exported.object, best)
    checks, missing = list(verification.checks), []
    copied: Sequence[measurement_pb2.Measurement] = ()
    model = exported.content
    if wanted.opset:
        model = in_opset(exported.content, wanted.opset)
        checks.append(agree(exported.content, model, f"best.onnx in opset {wanted.opset}"))
    files = {MODEL: model, LOADER: _loader(collected).encode()}
    if best.checkpoint.key:
        files[CHECKPOINT] = client.export(best.name, pb.EXPORT_FORM_CHECKPOINT).content
    if best.quantized.key:
        files[INT8] = client.export(best.name, pb.EXPORT_FORM_QUANTIZED).content
        checks.append(check_runs(files[INT8], INT8))
    elif wanted.int8:
        copy = copy_afterwards(collected.search, best, exported.content)
        files[INT8], copied = copy.content, copy.measurements
        checks += [copy.sentence(INT8), check_runs(files[INT8], INT8)]
    evaluation: dict[str, object] = {}
    if best.report.key:
        files[EVALUATION] = client.export(best.name, pb.EXPORT_FORM_REPORT).content
        evaluation = _parsed(files[EVALUATION])
    try:
        written = written_out(exported.content, facts_of(best, collected.search, collected.dataset), PYTHON)
        files |= written.files
        checks.append(f"{PYTHON} {written.check}; it needs torch and numpy")
    except Invalid as error:
        missing.append(f"{PYTHON}: {error.message}")
    return Artefacts(files, Verification(checks, verification.facts), evaluation, missing, copied)


def _loader(collected: Collected) -> str:
    return predict_py(collected.dataset, collected.class_names)


def in_opset(content: bytes, opset: int) -> bytes:
    """Return a network in another version of the operator set.

    Raises Invalid (ONNX_MISSING, OPSET_INVALID), Rejected (OPSET_UNREACHABLE).
    """
    if importlib.util.find_spec("onnx") is None:
        raise Invalid(
            "ONNX_MISSING", "--opset: onnx, which converts, is not installed here; pip install onnx", field="opset"
        )
    from nasmesh.model.opset import to_opset

    return to_opset(content, opset)


class WrittenOut(NamedTuple):
    """A network as Python: the file and its archive of weights by name, and what was seen of them."""

    files: Mapping[str, bytes]
    check: str


def written_out(content: bytes, facts: Mapping[str, object], name: str) -> WrittenOut:
    """Return the stand-alone PyTorch file of a trained network, called `name`, run beside it where onnxruntime is.

    A process of its own does it: torch is large, and not needed for anything else here. Raises Invalid (TORCH_MISSING),
    NasmeshError (STANDALONE_FAILED).
    """
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("onnx") is None:
        raise Invalid("TORCH_MISSING", "it is written where torch is installed (pip install 'nasmesh[train]')")
    with tempfile.TemporaryDirectory(prefix="nasmesh-") as text:
        folder = Path(text)
        (folder / "network.onnx").write_bytes(content)
        (folder / "facts.json").write_text(json.dumps(facts), encoding="utf-8")
        command = [sys.executable, "-m", "nasmesh.model.standalone", *(str(folder / part) for part in _PARTS)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_CONVERT_S)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise _failed(str(error)) from error
        if done.returncode:
            raise _failed(done.stderr.strip()[-300:])
        python, weights = (folder / PYTHON).read_bytes(), (folder / WEIGHTS).read_bytes()
    difference = done.stdout.strip()
    check = f"computes what best.onnx does (largest difference {difference})" if difference else "was not run"
    return WrittenOut({name: python, str(Path(name).with_suffix(".npz")): weights}, check)


_PARTS = ("network.onnx", ".", "facts.json")


def _failed(why: str) -> NasmeshError:
    return NasmeshError("STANDALONE_FAILED", f"the network cannot be written out as Python ({why[:300]})")


def _parsed(content: bytes) -> dict[str, object]:
    try:
        found = json.loads(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
