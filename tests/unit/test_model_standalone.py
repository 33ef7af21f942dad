"""The stand-alone file of a network: runs where this package is not, and computes what onnxruntime computes."""

import random
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from nasmesh import spaces
from nasmesh.data.preprocessing import Preprocessing
from nasmesh.errors import Invalid, Rejected
from nasmesh.model import runtime
from nasmesh.model.engine.checkpoint import write_back
from nasmesh.model.engine.convert import convert, to_module
from nasmesh.model.lower import lower
from nasmesh.model.operators import OPERATORS
from nasmesh.model.standalone import Standalone, standalone, write_source
from nasmesh.model.standalone_proof import largest_difference
from nasmesh.v1 import architecture_pb2 as arch
from nasmesh.v1 import space_pb2
from tests.builders.architectures import architecture, block, random_architecture, small_cnn
from tests.builders.networks import resnet8
from tests.unit.test_engine_conformance import _array, _cases

TOLERANCE = 1e-4  # of the largest number of the output
# Without the site module nothing that was installed for development is found.
BARE = """
import importlib.util, sys
sys.path.append(sys.argv.pop(1))
assert importlib.util.find_spec("nasmesh") is None, "nasmesh can be imported"
"""
CHECK = f"""{BARE}
import pathlib
import numpy, torch
torch.set_num_threads(1)
for folder in sorted(path for path in pathlib.Path(".").iterdir() if path.is_dir()):
    spec = importlib.util.spec_from_file_location("model", folder / "model.py")
    model = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(model)
    samples, expected = numpy.load(folder / "samples.npy"), numpy.load(folder / "expected.npy")
    found = model.predict(samples)
    worst = abs(found - expected).max() / max(1.0, abs(expected).max())
    print(folder.name, worst)
    names = [name for name, _ in model.load().named_parameters()]
    assert names and len(names) == len(set(names))
assert not [name for name in sys.modules if name.startswith(("nasmesh", "onnx"))]
"""
PROGRAM = f"""{BARE}
import runpy
sys.argv.pop(0)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def bare(code: str, where: Path, *arguments: str) -> str:
    """Run Python in an environment of torch and numpy alone, isolated from the user's; return what it prints."""
    command = [sys.executable, "-I", "-S", "-c", code, sysconfig.get_path("purelib"), *arguments]
    done = subprocess.run(command, cwd=where, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


SPACES = {
    "envelope": space_pb2.Space(
        envelope=space_pb2.EnvelopeSpace(
            stages=[space_pb2.EnvelopeStage(initial_cells=1, max_cells=2, construct=True) for _ in range(2)],
            stem=space_pb2.EnvelopeStem(width=8),
        )
    ),
    "chain": space_pb2.Space(
        chain=space_pb2.ChainSpace(min_layers=2, max_layers=5, kernels=[1, 3, 5], channels=[4, 8], pooling=True)
    ),
    "cell": space_pb2.Space(cell=space_pb2.CellSpace(cells=[1, 1], width=4)),
    "fixed": space_pb2.Space(fixed=space_pb2.FixedSpace(architecture=resnet8())),
}


def trained(built: arch.Architecture, seed: int = 3) -> onnx.ModelProto:
    """Return a network whose every tensor, running statistics too, has left its start value."""
    model = lower(built)
    module = to_module(model, seed=seed)
    draw = torch.Generator().manual_seed(seed)
    state = {
        name: tensor + torch.rand(tensor.shape, generator=draw) / 10 for name, tensor in module.state_dict().items()
    }
    return write_back(model, state)


def put(folder: Path, model: onnx.ModelProto, samples: np.ndarray, facts: dict[str, object]) -> None:
    made = standalone(model, facts)
    folder.mkdir()
    (folder / "model.py").write_text(made.source)
    (folder / "model.npz").write_bytes(made.weights)
    rule = Preprocessing((0.3,) * samples.shape[1], (0.4,) * samples.shape[1])
    session = runtime.open_session(model.SerializeToString())
    np.save(folder / "samples.npy", samples)
    np.save(folder / "expected.npy", session.run(None, {session.get_inputs()[0].name: rule.apply(samples)})[0])


def built(kind: str, rng: random.Random) -> arch.Architecture:
    dims = (3, 32, 32) if kind == "fixed" else (3, 12, 12)
    for _ in range(20):  # some cells of the cell space compute nothing
        try:
            return spaces.build(
                SPACES[kind],
                spaces.sample(SPACES[kind], rng),
                input_dims=dims,
                classes=10,
                preprocessing=arch.Preprocessing(mean=[0.3] * 3, std=[0.4] * 3),
            )
        except Invalid:
            continue
    raise AssertionError(f"no network of {kind}")


def test_networks_of_every_space_when_run_without_the_package_then_they_agree_with_onnxruntime(tmp_path: Path) -> None:
    seed = 20
    sys.stdout.write(f"seed {seed}\n")
    rng, draw = random.Random(seed), np.random.default_rng(seed)
    for kind in SPACES:
        for number in range(1 if kind == "fixed" else 4):
            made = built(kind, rng)
            made.preprocessing.CopyFrom(arch.Preprocessing(mean=[0.3] * 3, std=[0.4] * 3))
            dims = tuple(made.inputs[0].dims)
            samples = draw.integers(0, 256, (5, *dims), dtype=np.uint8)
            put(tmp_path / f"{kind}-{number}", trained(made, number), samples, {"title": f"{kind} {number}"})
    found = dict(line.split() for line in bare(CHECK, tmp_path).splitlines())
    assert len(found) == 13
    assert max(map(float, found.values())) < TOLERANCE, found


def test_the_file_run_as_a_program_names_classes_and_nothing_else_is_needed(tmp_path: Path) -> None:
    names = [f'the "{number}"' for number in range(10)]
    samples = np.random.default_rng(2).integers(0, 256, (3, 1, 8, 8), dtype=np.uint8)
    made = small_cnn()
    made.preprocessing.CopyFrom(arch.Preprocessing(mean=[0.3], std=[0.4]))
    facts = {"title": 'quotes """ and \\ braces {x}', "class_names": names, "sample_type": "uint8"}
    put(tmp_path / "one", trained(made), samples, facts)
    expected = np.load(tmp_path / "one" / "expected.npy").argmax(axis=1)
    np.save(tmp_path / "grey.npy", samples[:, 0])
    told = bare(PROGRAM, tmp_path, "one/model.py", "grey.npy")
    assert [line.split("class ")[1].split(" (")[0] for line in told.splitlines()] == [
        names[label] for label in expected
    ]


def run(made: Standalone | str, *inputs: torch.Tensor, module: torch.nn.Module) -> object:
    """Execute a file's text here, with the tensors of a converted network."""
    space: dict[str, object] = {"__file__": "model.py", "__name__": "model"}
    exec(compile(made if isinstance(made, str) else made.source, "model.py", "exec"), space)
    network = space["Model"]().eval()
    tensors = {**dict(module.named_buffers()), **dict(module.named_parameters())}
    with torch.no_grad():
        for name, value in tensors.items():
            network.tensor(name).copy_(value)
        return network(*inputs)


def test_every_operator_that_is_converted_can_be_written_out_and_computes_the_same() -> None:
    torch.set_num_threads(1)
    seen: set[str] = set()
    for case in _cases():
        model, (inputs, _) = case.model, case.data_sets[0]
        arrays = dict(zip([value.name for value in model.graph.input], map(_array, inputs), strict=False))
        fixed = {name for name, array in arrays.items() if array.dtype.kind in "iub" or array.ndim == 0}
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        if model.graph.node[0].op_type == "LayerNormalization":  # networks use its first output only
            del copy.graph.output[1:], copy.graph.node[0].output[1:]
        copy.graph.initializer.extend(onnx.numpy_helper.from_array(arrays[name], name) for name in sorted(fixed))
        dynamic = [name for name in arrays if name not in fixed]
        try:
            module = convert(copy, dynamic, seed=None).eval()
            tensors = [torch.from_numpy(arrays[name].copy()) for name in dynamic]
            expected = module(*tensors)
        except (Rejected, RuntimeError, ValueError, IndexError, TypeError):
            continue  # refused as it is in training
        found = run(write_source(module, {"input_dims": [1], "preprocessing": {}}), *tensors, module=module)
        many = expected if isinstance(expected, tuple) else (expected,)
        for ours, theirs in zip(found if isinstance(found, tuple) else (found,), many, strict=True):
            assert torch.equal(ours, theirs) or torch.allclose(ours, theirs, equal_nan=True), case.name
        seen.add(model.graph.node[0].op_type)
    assert set(OPERATORS) - seen <= {"Constant", "Identity"}, set(OPERATORS) - seen


@pytest.mark.parametrize("seed", range(8))
def test_random_architectures_over_all_operations_when_written_out_then_they_compute_the_same(seed: int) -> None:
    model = trained(random_architecture(seed, blocks=10), seed)
    module = to_module(model, seed=None).eval()
    dims = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim[1:]]
    x = torch.from_numpy(np.random.default_rng(seed).standard_normal((2, *dims), np.float32))
    with torch.no_grad():
        expected = module(x)
    torch.testing.assert_close(run(standalone(model, {}), x, module=module), expected, equal_nan=True)


def test_names_that_the_file_uses_itself_may_be_those_of_blocks() -> None:
    fc = arch.Linear(features=3, bias=True)
    made = architecture(
        (2, 4, 4),
        "model",
        block("torch", "x", conv_unit=small_cnn().blocks[0].operation.conv_unit),
        block("flatten", "torch", global_pool=arch.GlobalPool(kind=arch.POOL_KIND_AVERAGE)),
        block("model", "flatten", linear=fc),
    )
    model = trained(made)
    module = to_module(model, seed=None).eval()
    x = torch.ones(2, 2, 4, 4)
    torch.testing.assert_close(run(standalone(model, {}), x, module=module), module(x))


def test_a_network_without_weights_is_refused() -> None:
    with pytest.raises(Invalid) as caught:
        standalone(lower(small_cnn()), {})
    assert caught.value.reason == "SEED_MISSING"


def test_the_file_is_seen_to_agree_with_onnxruntime_and_refused_where_it_does_not(tmp_path: Path) -> None:
    model, other = trained(small_cnn()), trained(small_cnn(), seed=4)
    made = standalone(model, {})
    (tmp_path / "model.py").write_text(made.source)
    (tmp_path / "model.npz").write_bytes(made.weights)
    found = largest_difference(model.SerializeToString(), tmp_path / "model.py")
    assert found is not None
    assert found < 1e-4
    with pytest.raises(Rejected, match="its outputs differ by") as caught:
        largest_difference(other.SerializeToString(), tmp_path / "model.py")
    assert caught.value.reason == "STANDALONE_DIFFERS"
