"""Mutants of good objects: admission and import give a verdict or a typed refusal, never another exception."""

import random
from collections import Counter

import numpy as np
import onnx
import pytest

from nasmesh.errors import Rejected
from nasmesh.model.admission import admit
from nasmesh.model.encode import to_bytes
from nasmesh.model.imported import import_onnx
from nasmesh.model.inference import infer_dims
from nasmesh.model.lower import lower
from nasmesh.model.reasons import Reason
from tests.builders.architectures import random_architecture, small_cnn
from tests.builders.inference import randomised, run

SEED = 2
OPERATIONS = ("Relu", "Conv", "MatMul", "Concat", "Softmax", "Split", "Dropout", "Shape", "NonZero", "Flatten")


def _bases() -> list[onnx.ModelProto]:
    models = [lower(random_architecture(seed, blocks=4)) for seed in range(20)] + [randomised(lower(small_cnn()))]
    for model in models[::2]:
        del model.metadata_props[:]  # else the recovered architecture betrays every change
    return models


def _verdict(content: bytes) -> str:
    verdicts = []
    for gate in (admit, import_onnx):
        try:
            gate(content)
            verdicts.append("ADMITTED")
        except Rejected as error:
            verdicts.append(Reason(error.reason).value if error.message else "WITHOUT MESSAGE")
    assert "WITHOUT MESSAGE" not in verdicts
    return verdicts[0]


def test_gates_when_bytes_are_flipped_then_a_verdict_or_a_typed_refusal() -> None:
    rng = random.Random(SEED)
    bases = [to_bytes(model) for model in _bases()]
    seen: Counter[str] = Counter()
    for _ in range(400):
        content = bytearray(rng.choice(bases))
        for _ in range(rng.randint(1, 3)):
            content[rng.randrange(len(content))] = rng.randrange(rng.choice([8, 256]))
        seen[_verdict(bytes(content))] += 1
    assert len(seen) >= 6, seen


def _mutate(model: onnx.ModelProto, rng: random.Random) -> None:
    node = rng.choice(model.graph.node)
    values = [name for other in model.graph.node for name in (*other.input, *other.output)]
    choice = rng.randrange(6)
    if choice == 0:
        node.op_type = rng.choice(OPERATIONS)
    elif choice == 1 and node.attribute:
        attribute = rng.choice(node.attribute)
        attribute.i = rng.choice([-1, 0, 1, 2, 2**40])
        if attribute.ints:
            attribute.ints[0] = rng.choice([-1, 0, 1, 2, 2**40])
    elif choice == 2:
        dims = rng.choice(model.graph.input).type.tensor_type.shape.dim
        if dims:
            rng.choice(dims).dim_value = rng.choice([-1, 0, 1, 3, 65_537])
    elif choice == 3 and node.input:
        node.input[0] = rng.choice(values)
    elif choice == 4 and model.graph.initializer:
        rng.choice(model.graph.initializer).dims.append(rng.choice([0, 1, -1, 2**40]))
    else:
        node.input.append(rng.choice(values))


def test_gates_when_structure_is_changed_then_what_passes_runs() -> None:
    rng = random.Random(SEED)
    bases = _bases()
    seen: Counter[str] = Counter()
    for _ in range(200):
        model = onnx.ModelProto.FromString(to_bytes(rng.choice(bases)))
        for _ in range(rng.randint(1, 2)):
            _mutate(model, rng)
        verdict = _verdict(to_bytes(model))
        seen[verdict] += 1
        if verdict == "ADMITTED":
            dims = infer_dims(model, 2)
            logits = run(randomised(model), np.ones(dims["x"], np.float32))[0]
            assert logits.shape == dims[model.graph.output[0].name]
    assert seen["ADMITTED"] > 5, seen
    assert len(seen) >= 6, seen


def test_admit_when_a_name_is_not_utf8_then_refused() -> None:
    content = to_bytes(lower(small_cnn()))
    with pytest.raises(Rejected, match="not UTF-8"):
        admit(content.replace(b"head_fc.bias", b"head_\xff\xfe.bias"[:11] + b"s"))
