"""Networks of the spaces on series and on columns of tables: the same in both engines."""

from random import Random

import numpy as np
import pytest
import torch
from google.protobuf import text_format

from nasmesh import spaces
from nasmesh.errors import Invalid
from nasmesh.model import runtime
from nasmesh.model.admission import admit_lowered
from nasmesh.model.encode import to_bytes
from nasmesh.model.engine.checkpoint import write_back
from nasmesh.model.engine.convert import to_module
from nasmesh.v1 import architecture_pb2, space_pb2

CHAIN = "chain { min_layers: 1 max_layers: 3 kernels: [3, 5] channels: [8, 16] pooling: true }"
COLUMNS = "chain { min_layers: 1 max_layers: 3 kernels: [1] channels: [8, 16] }"
ENVELOPE = (
    "envelope { stages { initial_cells: 2 max_cells: 3 construct: true } stages { initial_cells: 1 max_cells: 1 } }"
)
CELL = "cell { }"


def space_of(text: str) -> space_pb2.Space:
    return text_format.Parse(text, space_pb2.Space())


def build(text: str, dims: list[int], seed: int) -> architecture_pb2.Architecture:
    space = space_of(text)
    rule = architecture_pb2.Preprocessing(mean=[0.5] * dims[0], std=[2.0] * dims[0])
    return spaces.build(space, spaces.sample(space, Random(seed)), input_dims=dims, classes=4, preprocessing=rule)


@pytest.mark.parametrize(
    ("text", "dims"), [(CHAIN, [3, 41]), (ENVELOPE, [2, 33]), (CELL, [1, 32]), (COLUMNS, [7]), (COLUMNS, [1])]
)
def test_networks_on_series_and_tables_when_built_then_both_engines_agree(text: str, dims: list[int]) -> None:
    for seed in range(3):
        built = build(text, dims, seed)
        admitted = admit_lowered(built)
        module = to_module(admitted.model, seed=seed).eval()
        x = np.random.default_rng(seed).normal(size=(4, *dims)).astype(np.float32)
        with torch.no_grad():
            ours = module(torch.from_numpy(x)).numpy()
        session = runtime.open_session(to_bytes(write_back(admitted.model, module.state_dict())))
        assert session.get_inputs()[0].shape[1:] == dims
        assert session.run(None, {"x": x})[0] == pytest.approx(ours, rel=1e-4, abs=1e-4)
        assert ours.shape == (4, 4)
        for block in built.blocks:
            conv = block.operation.conv_unit.conv
            assert conv.kernel_h in (0, 1)


def test_spaces_that_cannot_take_columns_are_refused() -> None:
    for text, reason in ((ENVELOPE, "TASK_INVALID"), (CELL, "TASK_INVALID"), (CHAIN, "SPACE_INVALID")):
        with pytest.raises(Invalid) as caught:
            build(text, [7], 0)
        assert caught.value.reason == reason
