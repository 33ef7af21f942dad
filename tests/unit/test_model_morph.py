"""Function-preserving transforms: a child computes what its parent does, over random networks of every space."""

import math
from collections import Counter
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nasmesh import spaces
from nasmesh.errors import Rejected
from nasmesh.model import morph, runtime
from nasmesh.model.architecture import shapes
from nasmesh.model.encode import to_bytes
from nasmesh.model.engine.convert import to_module
from nasmesh.model.initializers import parameters
from nasmesh.model.lower import lower
from nasmesh.model.weights import with_weights
from nasmesh.v1 import architecture_pb2 as arch
from nasmesh.v1 import space_pb2
from tests.builders.architectures import (
    activation,
    architecture,
    block,
    conv,
    random_architecture,
    small_cnn,
)
from tests.builders.generating import build, chain, envelope
from tests.builders.networks import resnet8

TOLERANCE = 1e-5
_REFUSALS = ("TRANSFORM_IMPOSSIBLE", "EDGE_RESIZE_IMPOSSIBLE", "VALUE_OUT_OF_RANGE")
_NORM = arch.BatchNorm(scale=True, offset=True)
_ORDER = arch.CONV_ORDER_CONV_NORM_ACT


def _cell(**fields: object) -> space_pb2.Space:
    return space_pb2.Space(cell=space_pb2.CellSpace(**{"width": 4, "cells": [1, 1], **fields}))


SPACES = {
    "chain": chain(max_layers=3, channels=[4, 6]),
    "envelope": envelope((1, 2, True), (1, 2, False), palette=["1x1", "3x3", "3x3sep", "5x5sep"], width=12),
    "cell": _cell(),
}


def trained(network: arch.Architecture, seed: int = 0) -> dict[str, np.ndarray]:
    """Weights off their start, so that no norm is neutral."""
    draw = np.random.default_rng(seed)
    found = {}
    for name, dims in parameters(lower(network)).items():
        noise = draw.standard_normal(dims) * 0.1
        if len(dims) > 1:
            noise *= 10 * math.sqrt(2 / math.prod(dims[1:]))
        elif name.endswith(("running_var", "weight", "alpha")) or ".scale." in name:
            noise = np.exp(noise)
        found[name] = np.asarray(noise, np.float32)
    return found


def outputs(network: arch.Architecture, weights: dict[str, np.ndarray]) -> np.ndarray:
    """What onnxruntime makes of three samples: what is served."""
    x = np.random.default_rng(5).standard_normal((3, *network.inputs[0].dims)).astype(np.float32)
    session = runtime.open_session(to_bytes(with_weights(lower(network), weights)))
    return session.run(None, {"x": x})[0]


def check_same(parent: tuple[arch.Architecture, dict[str, np.ndarray]], child: morph.Morph) -> None:
    before, after = outputs(*parent), outputs(child.architecture, child.weights)
    assert np.isfinite(before).all()
    difference = np.abs(after - before).max() / max(1.0, np.abs(before).max())
    assert difference < TOLERANCE


def one_of_each(
    network: arch.Architecture, weights: dict[str, np.ndarray], rng: Random
) -> list[tuple[str, morph.Morph]]:
    """Every kind of transform at a random place where it is possible; at most eight places are tried."""
    known = shapes(network)
    ids = [one.id for one in network.blocks]
    tries = {
        "deepen": lambda: morph.deepen(
            network, weights, rng.choice(ids), kernel=rng.choice([1, 3, 4, 5]), separable=rng.random() < 0.5
        ),
        "widen": lambda: morph.widen(
            network, weights, at := rng.choice(ids), known[at][0] + rng.randint(1, 2 * known[at][0]), seed=3
        ),
        "skip": lambda: morph.add_skip(network, weights, rng.choice(["x", *ids]), rng.choice(ids), seed=3),
    }
    made = []
    for name, attempt in tries.items():
        for _ in range(8):
            try:
                made.append((name, attempt()))
                break
            except Rejected as error:
                if error.reason not in _REFUSALS:
                    raise
    return made


@pytest.mark.parametrize("space", SPACES)
@settings(max_examples=10, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1))
def test_child_when_network_is_of_a_space_then_computes_what_its_parent_does(space, seed):
    rng = Random(seed)
    network = build(SPACES[space], spaces.sample(SPACES[space], rng), (2, 9, 9))
    weights = trained(network, seed % 1000)
    kinds = set()
    for name, child in one_of_each(network, weights, rng):
        kinds.add(name)
        check_same((network, weights), child)
        # And the children of children: what a transform makes, the next one can change.
        for _, grandchild in one_of_each(child.architecture, child.weights, rng)[:1]:
            check_same((network, weights), grandchild)
    assert kinds


def test_child_when_any_operation_is_there_then_computes_what_its_parent_does():
    done = Counter()
    for seed in range(120):
        network = random_architecture(seed, blocks=6)
        weights = trained(network, seed)
        for name, child in one_of_each(network, weights, Random(seed)):
            done[name] += 1
            check_same((network, weights), child)
    assert min(done[name] for name in ("deepen", "widen", "skip")) >= 8, done


def test_deepen_when_training_goes_on_then_the_new_norm_finds_what_it_expects():
    """In training mode the child's batch norm standardises by the batch, so its scale and offset must undo that."""
    network = resnet8()
    weights = trained(network)
    child = morph.deepen(network, weights, "s1_a")
    assert child.architecture.blocks[[b.id for b in child.architecture.blocks].index("s1_a_deeper")].operation.conv_unit
    x = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    outs = []
    for made, values in ((network, weights), (child.architecture, child.weights)):
        module = to_module(with_weights(lower(made), values), seed=None).train()
        with torch.no_grad():
            outs.append(module(x))
    apart = float((outs[0] - outs[1]).norm() / outs[0].norm())
    neutral = dict(child.weights)
    for role, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
        neutral[f"s1_a_deeper.norm.{role}"] = np.full(32, value, np.float32)
    module = to_module(with_weights(lower(child.architecture), neutral), seed=None).train()
    with torch.no_grad():
        naive = float((outs[0] - module(x)).norm() / outs[0].norm())
    assert apart < 0.05
    assert apart < 0.2 * naive


def test_deepen_when_a_cell_begins_with_relu_then_the_unit_stands_before_it_and_takes_its_inputs():
    unit = arch.ConvUnit(conv=conv(4), norm=_NORM, activation=activation(), order=arch.CONV_ORDER_ACT_CONV_NORM)
    joined = arch.Block(
        id="b",
        inputs=[arch.Edge(source="a"), arch.Edge(source="x", scale=arch.EdgeScale(init_mean=0.5))],
        merge=arch.MERGE_CONCAT,
        operation=arch.Operation(conv_unit=unit),
    )
    network = architecture(
        (2, 6, 6),
        "fc",
        block("a", "x", conv=conv(3)),
        joined,
        block("gap", "b", global_pool=arch.GlobalPool(kind=arch.POOL_KIND_AVERAGE)),
        block("fc", "gap", linear=arch.Linear(features=5, bias=True)),
    )
    weights = trained(network)
    child = morph.deepen(network, weights, "b")
    check_same((network, weights), child)
    assert [one.id for one in child.architecture.blocks] == ["a", "b_deeper", "b", "gap", "fc"]
    assert child.weights["b_deeper.scale.x"] == weights["b.scale.x"]
    with pytest.raises(Rejected) as caught:
        morph.deepen(network, weights, "a")
    assert "may be negative" in caught.value.message


def test_widen_when_blocks_are_summed_then_all_grow_alike_and_copies_part_in_training():
    network = resnet8()
    weights = trained(network)
    child = morph.widen(network, weights, "s1_b", 40)
    check_same((network, weights), child)
    dims = shapes(child.architecture)
    assert [dims[name][0] for name in ("s1_b", "s1_short", "s1_sum", "s1_a", "s2_a")] == [40, 40, 40, 32, 64]
    module = to_module(with_weights(lower(child.architecture), child.weights), seed=None).train()
    x = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.nn.functional.cross_entropy(module(x), torch.arange(8)).backward()
    gradient = module.get_parameter("s1_b.conv.weight").grad
    value = child.weights["s1_b.conv.weight"]
    twin = next(place for place in range(1, 40) if np.array_equal(value[place], value[place - 1]))
    assert not torch.allclose(gradient[twin], gradient[twin - 1])


def test_widen_when_convolutions_are_separable_or_depthwise_then_channels_stay_with_their_filters():
    network = architecture(
        (3, 7, 7),
        "fc",
        block("a", "x", conv_unit=arch.ConvUnit(conv=conv(4, separable=True), norm=_NORM, order=_ORDER)),
        block("b", "a", conv=conv(4, groups=4, bias=True)),
        block("c", "b", conv=conv(6, separable=True, bias=True)),
        block("flat", "c", flatten=arch.Flatten()),
        block("hidden", "flat", linear=arch.Linear(features=7, bias=True)),
        block("act", "hidden", activation=activation()),
        block("fc", "act", linear=arch.Linear(features=5)),
    )
    weights = trained(network)
    for name, channels in (("a", 9), ("b", 5), ("c", 20), ("hidden", 8)):
        child = morph.widen(network, weights, name, channels)
        check_same((network, weights), child)
        assert shapes(child.architecture)[name][0] == channels
    assert morph.widen(network, weights, "a", 9).weights["b.weight"].shape == (9, 1, 3, 3)


@pytest.mark.parametrize(
    ("name", "channels", "reason", "said"),
    [
        ("fc", 12, "TRANSFORM_IMPOSSIBLE", "the logits"),
        ("grouped", 8, "TRANSFORM_IMPOSSIBLE", "the groups of 'grouped'"),
        ("a", 8, "TRANSFORM_IMPOSSIBLE", "the groups of 'grouped'"),
        ("c", 6, "TRANSFORM_IMPOSSIBLE", "the normalisation 'norm'"),
        ("pool", 8, "TRANSFORM_IMPOSSIBLE", "width of their own"),
        ("c", 4, "VALUE_OUT_OF_RANGE", "not more than the 4"),
        ("nope", 8, "TRANSFORM_IMPOSSIBLE", "no such block"),
    ],
)
def test_widen_when_that_cannot_be_then_says_what_stands_against_it(name, channels, reason, said):
    network = architecture(
        (2, 6, 6),
        "fc",
        block("a", "x", conv=conv(4)),
        block("grouped", "a", conv=conv(6, groups=2)),
        block("c", "grouped", conv=conv(4)),
        block("norm", "c", layer_norm=arch.LayerNorm()),
        block("pool", "norm", global_pool=arch.GlobalPool(kind=arch.POOL_KIND_AVERAGE)),
        block("fc", "pool", linear=arch.Linear(features=5)),
    )
    with pytest.raises(Rejected) as caught:
        morph.widen(network, trained(network), name, channels)
    assert caught.value.reason == reason
    assert said in caught.value.message


def test_skip_when_sizes_differ_then_pools_and_adapts_and_its_scale_can_learn():
    network = small_cnn()
    weights = trained(network)
    child = morph.add_skip(network, weights, "x", "body", seed=1)
    check_same((network, weights), child)
    assert [one.id for one in child.architecture.blocks][-4:] == ["body_adapter", "body_joined", "head_pool", "head_fc"]
    module = to_module(with_weights(lower(child.architecture), child.weights), seed=None).train()
    x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.nn.functional.cross_entropy(module(x), torch.arange(4)).backward()
    assert float(module.get_parameter("body_joined.scale.body_adapter").grad) != 0


@pytest.mark.parametrize(("source", "target"), [("body", "stem_conv"), ("body", "body"), ("x", "head_pool")])
def test_skip_when_it_would_lead_back_or_out_of_the_maps_then_is_refused(source, target):
    with pytest.raises(Rejected) as caught:
        morph.add_skip(small_cnn(), {}, source, target)
    assert caught.value.reason == "TRANSFORM_IMPOSSIBLE"


def test_transforms_when_there_are_no_weights_then_change_the_form_alone():
    network = small_cnn()
    weights = trained(network)
    for change in (
        lambda values: morph.deepen(network, values, "stem_conv"),
        lambda values: morph.widen(network, values, "stem_conv", 12),
        lambda values: morph.add_skip(network, values, "x", "body"),
    ):
        bare = change({})
        assert bare.weights == {}
        assert bare.architecture == change(weights).architecture


def test_transforms_when_repeated_then_find_free_ids_and_the_parent_stays_as_it_was():
    network, weights = small_cnn(), trained(small_cnn())
    before = network.SerializeToString(deterministic=True)
    made = morph.Morph(network, weights)
    for _ in range(3):
        made = morph.deepen(made.architecture, made.weights, "stem_conv")
    check_same((network, weights), made)
    names = [one.id for one in made.architecture.blocks]
    assert len(names) == len(set(names)) == 8
    assert network.SerializeToString(deterministic=True) == before
