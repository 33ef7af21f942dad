import math

import pytest

from nasmesh import spaces
from nasmesh.errors import Invalid
from nasmesh.model.architecture import shapes
from nasmesh.spaces import envelope as rules
from nasmesh.spaces.envelope_network import decode, encode, initial_network
from nasmesh.v1 import architecture_pb2 as arch
from nasmesh.v1 import space_pb2 as pb
from tests.builders.generating import CIFAR, DIGITS, build, envelope


def start_values(space: pb.Space) -> pb.ChoiceValues:
    full = spaces.complete(space).envelope
    return encode(full, initial_network(full))


def start(space: pb.Space, dims: tuple[int, ...] = DIGITS) -> arch.Architecture:
    return build(space, start_values(space), dims)


def by_id(architecture: arch.Architecture) -> dict[str, arch.Block]:
    return {block.id: block for block in architecture.blocks}


@pytest.mark.parametrize(("width", "limited"), [(64, 26), (128, 53), (256, 106)])
def test_parameter_limit_at_three_cells_is_the_papers(width: int, limited: int) -> None:
    assert rules.limited_width(width, 3) == limited


@pytest.mark.parametrize("cells", [1, 2])
def test_parameter_limit_when_at_most_two_cells_then_no_limit(cells: int) -> None:
    assert rules.limited_width(64, cells) == 64


def test_limited_stage_keeps_the_width_of_its_last_cell_only() -> None:
    space = envelope((3, 3, False), limit_parameters=True)
    known = shapes(start(space))
    assert [known[f"s1_c{k}_cat"][0] for k in (1, 2, 3)] == [26 // 6 * 6, 26 // 6 * 6, 64 // 6 * 6]


def test_complete_fills_the_defaults_and_is_idempotent() -> None:
    full = spaces.complete(pb.Space(envelope=pb.EnvelopeSpace(stages=[pb.EnvelopeStage(initial_cells=2)])))
    found = full.envelope
    assert list(found.palette) == ["1x1", "3x3", "3x3sep", "5x5", "5x5sep", "7x7sep"]
    assert (found.stem.width, found.stem.kernel, found.stem.local_response_norm) == (64, 1, True)
    assert (found.branch_dropout, found.head_dropout, found.skips) == (0.2, 0.2, True)
    assert found.stages[0].max_cells == 2
    assert spaces.complete(full) == full


def test_explicit_zeros_are_kept() -> None:
    full = spaces.complete(envelope(branch_dropout=0.0, skips=False)).envelope
    assert (full.branch_dropout, full.skips) == (0.0, False)


def test_branch_is_conv_norm_relu_dropout_without_gamma_by_default() -> None:
    unit = by_id(start(envelope()))["s1_c1_b5x5sep"].operation.conv_unit
    assert unit.order == arch.CONV_ORDER_CONV_NORM_ACT
    assert (unit.conv.kernel_h, unit.conv.separable, unit.conv.channels) == (5, True, 64 // 6)
    assert unit.HasField("norm")
    assert not unit.norm.scale
    assert not unit.norm.offset
    assert unit.activation.kind == arch.ACTIVATION_KIND_RELU
    assert math.isclose(unit.dropout.rate, 0.2)


def test_branch_norm_affine_learns_scale_and_offset() -> None:
    norm = by_id(start(envelope(branch_norm_affine=True)))["s1_c1_b1x1"].operation.conv_unit.norm
    assert norm.scale
    assert norm.offset


def test_live_branches_share_the_width_rounded_down() -> None:
    space = envelope((1, 3, True), width=64)
    values = start_values(space)
    for off in ("1x1", "5x5", "7x7sep"):
        values.values[f"s1_c1.{off}"] = "off"
    assert by_id(build(space, values))["s1_c1_b3x3"].operation.conv_unit.conv.channels == 21


def test_stages_halve_the_image_and_wideners_double_what_they_add() -> None:
    architecture = start(envelope(), CIFAR)
    known = shapes(architecture)
    assert known["s1_c2_cat"] == (60, 32, 32)
    assert known["w1"] == (60 + 64, 16, 16)
    assert known["s2_c2_cat"] == (126, 16, 16)
    assert known["w2"] == (126 + 128, 8, 8)
    assert known["s3_c2_cat"] == (252, 8, 8)
    assert known[architecture.output] == (10,)
    assert "w3" not in known


def test_three_stages_work_on_8x8_images() -> None:
    known = shapes(start(envelope(), DIGITS))
    assert known["s3_c2_cat"] == (252, 2, 2)


def test_one_pixel_images_work() -> None:
    assert shapes(start(envelope(), (1, 1, 1)))["s3_c2_cat"] == (252, 1, 1)


def test_skips_are_pooled_scaled_joined_and_mixed_back() -> None:
    architecture = start(envelope(), CIFAR)
    blocks = by_id(architecture)
    joined = blocks["s2_c2_skip"]
    assert [edge.source for edge in joined.inputs] == ["s2_c1_cat", "s1_c1_cat", "s1_c2_cat", "w1"]
    assert not joined.inputs[0].HasField("scale")
    for edge in joined.inputs[1:]:
        assert (edge.scale.init_mean, edge.scale.init_std) == (0.5, 0.01)
        assert edge.resize == arch.RESIZE_MAX_POOL_2X2
    assert joined.merge == arch.MERGE_CONCAT
    mix = blocks["s2_c2_mix"].operation.conv_unit.conv
    assert (mix.kernel_h, mix.channels) == (1, shapes(architecture)["s2_c1_cat"][0])
    assert blocks["s2_c2_b3x3"].inputs[0].source == "s2_c2_mix"


def test_without_skips_branches_read_the_direct_input() -> None:
    blocks = by_id(start(envelope(skips=False)))
    assert blocks["s1_c1_b1x1"].inputs[0].source == "stem_norm"
    assert not [name for name in blocks if "skip" in name or "mix" in name]


def test_stem_without_normalisation() -> None:
    space = envelope()
    space.envelope.stem.local_response_norm = False
    blocks = by_id(start(space))
    assert "stem_norm" not in blocks
    assert blocks["s1_c1_mix"].inputs[0].source == "stem_conv"


def test_choices_are_stable_and_conditional() -> None:
    found = spaces.choices(envelope((1, 2, True), (1, 1, False)), input_dims=DIGITS, classes=10)
    known = {choice.name: choice for choice in found}
    assert [name for name in known if name.endswith("cells")] == ["stage_1.cells", "stage_2.cells"]
    assert (known["stage_1.cells"].integer.min, known["stage_1.cells"].integer.max) == (1, 3)
    assert not known["s1_c1.3x3"].conditions
    assert known["s1_c3.3x3"].conditions[0].choice == "stage_1.cells"
    assert known["s1_c3.3x3"].conditions[0].at_least == 3
    # A skip needs both its ends; the direct input is no skip.
    skip = known["s2_c1.skip.s1_c3"]
    assert [(c.choice, c.at_least) for c in skip.conditions] == [("stage_1.cells", 3)]
    assert "s2_c1.skip.w1" not in known
    assert "s1_c2.skip.s1_c1" not in known
    assert "s1_c2.skip.stem" in known
    # A frozen stage keeps its cells full.
    assert list(known["s2_c1.3x3"].categorical.values) == ["on"]


def test_longer_space_keeps_the_names_of_the_shorter() -> None:
    short = spaces.choices(envelope((1, 2, True)), input_dims=DIGITS, classes=10)
    longer = spaces.choices(envelope((1, 5, True)), input_dims=DIGITS, classes=10)
    assert {c.name for c in short} < {c.name for c in longer}


def test_encode_and_decode_are_inverse() -> None:
    full = spaces.complete(envelope()).envelope
    network = initial_network(full)
    assert decode(full, encode(full, network)) == network


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("s1_c1.3x3", "maybe", "CHOICE_OUT_OF_DOMAIN"),
        ("stage_1.cells", "9", "CHOICE_OUT_OF_DOMAIN"),
        ("stage_1.cells", "02", "CHOICE_OUT_OF_DOMAIN"),
        ("stage_1.cells", "two", "CHOICE_OUT_OF_DOMAIN"),
        ("s1_c1.9x9", "on", "CHOICE_UNKNOWN"),
        ("s1_c3.3x3", "on", "CHOICE_INACTIVE"),
        ("s1_c1.3x3", None, "CHOICE_MISSING"),
        ("s3_c1.3x3", "off", "CHOICE_OUT_OF_DOMAIN"),
    ],
)
def test_build_when_a_value_is_wrong_then_the_choice_is_named(name: str, value: str | None, reason: str) -> None:
    space = envelope()
    values = start_values(space)
    if value is None:
        del values.values[name]
    else:
        values.values[name] = value
    with pytest.raises(Invalid) as caught:
        build(space, values)
    assert caught.value.reason == reason
    assert caught.value.violations[0].field == f"choices.{name}"
    assert name in caught.value.message


def test_build_when_a_cell_has_no_branch_then_refused() -> None:
    space = envelope()
    values = start_values(space)
    for branch in spaces.complete(space).envelope.palette:
        values.values[f"s1_c2.{branch}"] = "off"
    with pytest.raises(Invalid, match="s1_c2 has no branch"):
        build(space, values)


def _broken(field: str) -> pb.Space:
    space = envelope()
    env = space.envelope
    if field == "stages":
        del env.stages[:]
    elif field == "stages[0].initial_cells":
        env.stages[0].initial_cells = 0
    elif field == "stages[1].max_cells":
        env.stages[1].max_cells = 1
    elif field == "palette[1]":
        env.palette.extend(["3x3", "3x3"])
    elif field == "palette[0]":
        env.palette.extend(["9x9"])
    elif field == "stem.width":
        env.stem.width = 5
    elif field == "stem.kernel":
        env.stem.kernel = -1
    elif field == "branch_dropout":
        env.branch_dropout = math.nan
    elif field == "head_dropout":
        env.head_dropout = 1.0
    return space


@pytest.mark.parametrize(
    "field",
    [
        "stages",
        "stages[0].initial_cells",
        "stages[1].max_cells",
        "palette[1]",
        "palette[0]",
        "stem.width",
        "stem.kernel",
        "branch_dropout",
        "head_dropout",
    ],
)
def test_check_names_the_field(field: str) -> None:
    with pytest.raises(Invalid) as caught:
        spaces.check(_broken(field))
    assert caught.value.reason == "SPACE_INVALID"
    assert f"space.envelope.{field}" in [violation.field for violation in caught.value.violations]


def test_check_when_the_flat_view_would_not_fit_a_message_then_refused() -> None:
    with pytest.raises(Invalid, match="at most 128 in all"):
        spaces.check(envelope(*[(1, 63, True)] * 3))
    largest = envelope(*[(1, 63, True)] * 2)
    view = spaces.choices(largest, input_dims=DIGITS, classes=10)
    assert sum(choice.ByteSize() for choice in view) < 1 << 20


def test_check_when_the_parameter_limit_starves_branches_then_stem_width() -> None:
    with pytest.raises(Invalid, match=r"stem\.width"):
        spaces.check(envelope((1, 20, True), width=16, limit_parameters=True))


def test_summary_counts_cells_branches_and_skips() -> None:
    words = spaces.summary(start(envelope(), CIFAR))
    assert words["stage_1"] == "2 cells, 12 branches"
    assert words["stage_3"] == "2 cells, 12 branches"
    # Entries 4, 5, 7, 8 of 8 have 2, 3, 5, 6 earlier ones besides stem and predecessor.
    assert words["skips"] == "16"


def test_overlay_replaces_fields_and_lists_and_keeps_the_rest() -> None:
    space = spaces.complete(envelope())
    changes = pb.Space()
    changes.envelope.stem.width = 128
    changes.envelope.stem.local_response_norm = False
    changes.envelope.palette.extend(["3x3"])
    merged = spaces.overlay(space, changes)
    assert (merged.envelope.stem.width, merged.envelope.stem.kernel) == (128, 1)
    assert not merged.envelope.stem.local_response_norm
    assert list(merged.envelope.palette) == ["3x3"]
    assert len(merged.envelope.stages) == 3
    with pytest.raises(Invalid, match="kind"):
        spaces.overlay(space, pb.Space(chain=pb.ChainSpace(min_layers=1)))


@pytest.mark.parametrize(("dims", "classes"), [((8,), 10), ((1, 8, 0), 10), ((1, 8, 8), 0), ((), 10)])
def test_build_when_the_task_is_no_image_classification_then_refused(dims: tuple[int, ...], classes: int) -> None:
    space = envelope()
    with pytest.raises(Invalid) as caught:
        spaces.build(space, start_values(space), input_dims=dims, classes=classes, preprocessing=arch.Preprocessing())
    assert caught.value.reason == "TASK_INVALID"
