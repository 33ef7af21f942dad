"""The engine against onnxruntime on random architectures, and against modules written by hand."""

import sys

import numpy as np
import pytest
import torch
from torch.nn import functional

from benchmarks import networks
from nasmesh.model.engine.checkpoint import write_back
from nasmesh.model.engine.convert import to_module
from nasmesh.model.engine.shape_check import meta_check
from nasmesh.model.lower import lower
from tests.builders.architectures import random_architecture
from tests.builders.training import batch, disturb, serve

torch.set_num_threads(1)


def _tell(text: str) -> None:
    sys.stdout.write(f"\n{text}\n")


def _difference(seed: int) -> tuple[float, float]:
    architecture = random_architecture(seed)
    model = lower(architecture)
    module = to_module(model, seed=seed)
    disturb(module, seed=seed)
    module.eval()
    dims = tuple(architecture.inputs[0].dims)
    assert meta_check(model) == (architecture.blocks[-1].operation.linear.features,)
    x, _ = batch(dims, seed=seed)
    with torch.no_grad():
        found = module(x).numpy()
    expected = serve(write_back(model, module.state_dict()), x)
    return float(np.abs(found - expected).max()), float(np.abs(expected).max())


def test_random_architectures_when_evaluated_then_onnxruntime_agrees():
    found = {seed: _difference(seed) for seed in range(50)}
    worst = max(found, key=lambda seed: found[seed][0])
    difference, size = found[worst]
    _tell(
        f"onnxruntime: {len(found)} random networks, max abs diff {difference:.3g} (seed {worst}, values to {size:.3g})"
    )
    assert found[worst][0] <= 1e-5, worst


@pytest.mark.parametrize(
    ("architecture", "by_hand"),
    [
        (networks.resnet8_architecture(8), networks.ResNet8(8)),
        (networks.nac_architecture(16, 1), networks.Nac(16, 1)),
        (networks.depthwise_architecture(8), networks.Depthwise(8)),
    ],
    ids=["resnet8", "nac", "depthwise"],
)
def test_gradients_when_trained_then_equal_those_of_a_module_by_hand(architecture, by_hand):
    converted = to_module(lower(architecture), seed=3)
    disturb(converted)
    result = by_hand.load_state_dict(converted.state_dict(), strict=False)
    assert not result.unexpected_keys
    assert all(name.endswith("num_batches_tracked") for name in result.missing_keys)
    x, y = batch(networks.INPUT_DIMS, seed=1)
    for module in (converted, by_hand):
        functional.cross_entropy(module.train()(x), y).backward()
    expected = {name: parameter.grad for name, parameter in by_hand.named_parameters()}
    differences = {
        name: float((parameter.grad - expected.pop(name)).abs().max())
        for name, parameter in converted.named_parameters()
    }
    assert not expected
    statistics = dict(by_hand.named_buffers())
    moved = max(
        float((value - statistics[name]).abs().max())
        for name, value in converted.state_dict().items()
        if "running" in name
    )
    _tell(f"gradients by hand and converted: max abs diff {max(differences.values()):.3g}; statistics {moved:.3g}")
    # 0.0 where this was written; another processor may sum a mean in another order.
    assert max(differences.values()) <= 1e-6
    assert moved <= 1e-6
