"""Drop-path marks and auxiliary classifiers of the built-in spaces: where they are, what they cost, how they train."""

import random
import sys
from pathlib import Path

import onnx
import pytest

from generate_svc.profile import profile
from nasmesh import spaces
from nasmesh.client.spec import parse_spec
from nasmesh.errors import Invalid
from nasmesh.model.admission import admit_lowered
from nasmesh.model.auxiliary import served
from nasmesh.model.counting import count
from nasmesh.model.lower import lower
from nasmesh.model.metadata import AUXILIARY_KEY, DROP_PATH_KEY, metadata_value, named_values
from nasmesh.model.runtime import fused
from nasmesh.model.transform import fit_to, scale_width
from nasmesh.spaces import cell
from nasmesh.v1 import architecture_pb2 as arch
from nasmesh.v1 import space_pb2 as pb
from scheduler.validate_space import space_faults
from tests.builders import training_jobs as jobs
from tests.builders.generating import DIGITS, build, envelope
from tests.e2e.specs import TINY

SEED = 20
BOTH = {"drop_path": True, "auxiliary_head": True}


def cells(*numbers: int, **fields: object) -> pb.Space:
    return pb.Space(cell=pb.CellSpace(cells=numbers or (1, 1), width=4, **fields))


def branches(*stages: tuple[int, int, bool], **fields: object) -> pb.Space:
    return envelope(*(stages or ((1, 2, True), (1, 1, False))), width=8, palette=["1x1", "3x3", "3x3sep"], **fields)


SPACES = {"cell": cells, "envelope": branches}


def of_cell(space: pb.Space, code: str) -> arch.Architecture:
    """Return the network of a cell, its edges by their numbers in the benchmark's order of operations."""
    names = [choice.name for choice in spaces.choices(space, input_dims=DIGITS, classes=10)]
    values = {name: cell.OPERATIONS[int(digit)] for name, digit in zip(names, code, strict=True)}
    return build(space, pb.ChoiceValues(values=values))


def drawn(kind: str, number: int, **fields: object) -> list[arch.Architecture]:
    sys.stdout.write(f"seed {SEED}\n")
    rng, space = random.Random(SEED), SPACES[kind](**fields)
    return [build(space, spaces.sample(space, rng)) for _ in range(number)]


def marks(architecture: arch.Architecture) -> set[tuple[str, str]]:
    return {(block.id, edge.source) for block in architecture.blocks for edge in block.inputs if edge.drop_path}


@pytest.mark.parametrize("kind", SPACES)
def test_networks_without_their_marks_and_heads_are_those_of_the_plain_space(kind: str) -> None:
    for plain, full in zip(drawn(kind, 20), drawn(kind, 20, **BOTH), strict=True):
        assert full.drop_path
        assert len(full.auxiliary_outputs) == 1
        counted, estimate = count(lower(full)), profile(full)
        assert (counted.parameters, counted.macs) == (estimate.parameters, estimate.macs) == _costs(plain)
        bare = served(full)
        bare.drop_path = False
        for block in bare.blocks:
            for edge in block.inputs:
                edge.drop_path = False
        assert bare == plain


def _costs(architecture: arch.Architecture) -> tuple[int, int]:
    counts = count(lower(architecture))
    return counts.parameters, counts.macs


@pytest.mark.parametrize("kind", SPACES)
def test_where_paths_meet_one_of_them_always_stays(kind: str) -> None:
    seen = 0
    for architecture in drawn(kind, 30, drop_path=True):
        assert lower(architecture)
        for block in architecture.blocks:
            marked = [edge for edge in block.inputs if edge.drop_path]
            seen += len(marked)
            assert len(marked) < len(block.inputs)
    assert seen > 30


def test_marks_are_on_operations_that_meet_others() -> None:
    space = cells(1, drop_path=True)  # edges 0_1, 0_2, 1_2, 0_3, 1_3, 2_3
    convolutions = {("s1_c1_n2", "s1_c1_e1_2"), ("s1_c1_n3", "s1_c1_e1_3"), ("s1_c1_n3", "s1_c1_e2_3")}
    assert marks(of_cell(space, "333333")) == convolutions  # 0_2 and 0_3 stay; 0_1 is alone in its node
    with_skip = {("s1_c1_n2", "s1_c1_e1_2"), ("s1_c1_n3", "s1_c1_e0_3"), ("s1_c1_n3", "s1_c1_e2_3")}
    assert marks(of_cell(space, "333413")) == with_skip  # 1_3 is the skip; an average pool is an operation
    assert marks(of_cell(space, "111111")) == set()
    assert marks(of_cell(cells(1), "333333")) == set()


def test_marks_of_branches_spare_the_first_that_a_cell_has() -> None:
    space = branches((1, 1, True), drop_path=True)
    values = {"stage_1.cells": "1", "s1_c1.1x1": "off", "s1_c1.3x3": "on", "s1_c1.3x3sep": "on"}
    assert marks(build(space, pb.ChoiceValues(values=values))) == {("s1_c1_cat", "s1_c1_b3x3sep")}
    values["s1_c1.3x3"] = "off"
    assert marks(build(space, pb.ChoiceValues(values=values))) == set()


@pytest.mark.parametrize(
    ("space", "place"),
    [
        (cells(5, 5, 5, auxiliary_head=True), "s2_c5"),
        (cells(1, 1, auxiliary_head=True), "s1_c1"),
        (cells(1, 1, 1, auxiliary_head=True), "s2_c1"),
        (cells(3, auxiliary_head=True), "s1_c2"),
        (branches((2, 2, False), (2, 2, False), (2, 2, False), auxiliary_head=True), "s2_c2"),
        (branches((1, 1, False), (1, 1, False), auxiliary_head=True), "s1_c1"),
    ],
)
def test_an_auxiliary_classifier_stands_behind_the_first_two_thirds(space: pb.Space, place: str) -> None:
    built = build(space, spaces.sample(space, random.Random(SEED)))
    assert list(built.auxiliary_outputs) == [f"{place}_aux_linear"]
    order = [block.id for block in built.blocks]
    assert order.index(f"{place}_aux_linear") < order.index(built.output)
    assert named_values(lower(built), AUXILIARY_KEY) == [f"{place}_aux_linear.logits"]
    assert admit_lowered(built).architecture == built


@pytest.mark.parametrize("space", [cells(1, **BOTH), branches((1, 4, True), **BOTH)], ids=SPACES)
def test_an_auxiliary_classifier_behind_the_only_cell_is_refused(space: pb.Space) -> None:
    field = f"space.{space.WhichOneof('kind')}.auxiliary_head"
    with pytest.raises(Invalid, match="cell") as caught:
        spaces.check(space)
    assert [violation.field for violation in caught.value.violations] == [field]
    assert [name for name, _ in space_faults(space, None)] == [field]


def test_a_chain_has_no_such_options() -> None:
    for name in ("dropPath", "auxiliaryHead"):
        with pytest.raises(Invalid, match=name):
            parse_spec(TINY.replace("pooling: true", f"pooling: true, {name}: true"))


@pytest.mark.parametrize("kind", SPACES)
def test_series_other_data_and_other_widths_keep_them(kind: str) -> None:
    space = SPACES[kind](**BOTH)
    values = spaces.sample(space, random.Random(SEED))
    image, series = build(space, values), build(space, values, (2, 16))
    assert admit_lowered(series).counts.macs < admit_lowered(image).counts.macs
    assert marks(series) == marks(image)
    fitted = fit_to(image, (3, 12, 12), 7, arch.Preprocessing())
    wider = scale_width(fitted, 2.0)
    for changed in (fitted, wider):
        assert [value.type.tensor_type.shape.dim[1].dim_value for value in lower(changed).graph.output] == [7, 7]
        assert marks(changed) == marks(image)
        assert changed.drop_path
    scaled = spaces.overlay(SPACES[kind](), space)
    assert (getattr(scaled, kind).drop_path, getattr(scaled, kind).auxiliary_head) == (True, True)


@pytest.mark.usefixtures("job_home")
@pytest.mark.parametrize("kind", SPACES)
def test_networks_train_with_both_and_are_published_as_if_they_had_neither(store, tmp_path: Path, kind: str) -> None:
    (full,), (plain,) = (drawn(kind, 1, **fields) for fields in (BOTH, {}))
    assert marks(full)
    config = {"steps": 3, "drop_path_rate": 0.5, "auxiliary_weight": 0.3}
    result = jobs.run(jobs.request(jobs.stored(store, full), **config), store)
    other = jobs.run(jobs.request(jobs.stored(store, full), **{**config, "drop_path_rate": 0.0}), store)
    assert result.model.sha256 != other.model.sha256
    simplified = []
    for content in (store.get(result.model), store.get(jobs.run(jobs.request(jobs.stored(store, plain)), store).model)):
        assert len(onnx.ModelProto.FromString(content).graph.output) == 1
        fused(content, str(tmp_path / "fused.onnx"))
        simplified.append([node.op_type for node in onnx.load(tmp_path / "fused.onnx").graph.node])
    assert simplified[0] == simplified[1]
    assert "Dropout" not in simplified[0]


@pytest.mark.usefixtures("job_home")
def test_a_network_without_two_paths_trains_like_others_of_its_space(store) -> None:
    alone = of_cell(cells(drop_path=True), "000300")
    assert marks(alone) == set()
    assert metadata_value(lower(alone), DROP_PATH_KEY) == "[]"
    assert jobs.run(jobs.request(jobs.stored(store, alone), steps=2, drop_path_rate=0.3), store).steps == 2


@pytest.mark.usefixtures("job_home")
def test_a_network_built_without_marks_is_refused_with_the_spaces_option(store) -> None:
    plain = jobs.stored(store, of_cell(cells(), "333333"))
    with pytest.raises(Invalid, match=r"set drop_path in its space \(cell, envelope\)") as caught:
        jobs.run(jobs.request(plain, steps=1, drop_path_rate=0.3), store)
    assert caught.value.field == "config.drop_path_rate"
