"""Every contradiction in an architecture is refused with its reason and the block's id."""

import math
from collections.abc import Callable

import pytest

from nasmesh.errors import Rejected
from nasmesh.model.architecture import check, shapes
from nasmesh.model.transform import scale_width
from nasmesh.v1 import architecture_pb2 as pb
from tests.builders.architectures import activation, architecture, block, conv, random_architecture, small_cnn

Change = Callable[[pb.Architecture], object]


def _refused(change: Change, *, base: pb.Architecture | None = None) -> tuple[str, str]:
    spoiled = base or small_cnn()
    change(spoiled)
    with pytest.raises(Rejected) as caught:
        check(spoiled)
    assert caught.value.message
    return caught.value.reason, caught.value.field


def _conv(a: pb.Architecture) -> pb.Conv:
    return a.blocks[0].operation.conv_unit.conv


CASES: dict[str, tuple[Change, str, str]] = {
    "no blocks": (lambda a: a.ClearField("blocks"), "ARCHITECTURE_EMPTY", "blocks"),
    "two inputs": (lambda a: a.inputs.append(a.inputs[0]), "INPUT_INVALID", "inputs"),
    "input name": (lambda a: setattr(a.inputs[0], "id", "data"), "INPUT_INVALID", "inputs"),
    "input type": (lambda a: a.inputs[0].ClearField("data_type"), "ENUM_UNSPECIFIED", "x"),
    "input dims": (lambda a: a.inputs[0].ClearField("dims"), "INPUT_INVALID", "x"),
    "input size 0": (lambda a: a.inputs[0].dims.__setitem__(1, 0), "VALUE_OUT_OF_RANGE", "x"),
    "input size -1": (lambda a: a.inputs[0].dims.__setitem__(1, -1), "VALUE_OUT_OF_RANGE", "x"),
    "unknown source": (lambda a: setattr(a.blocks[1].inputs[0], "source", "y"), "EDGE_SOURCE_UNKNOWN", "pool"),
    "self loop": (lambda a: setattr(a.blocks[1].inputs[0], "source", "pool"), "EDGE_ORDER", "pool"),
    "later source": (lambda a: setattr(a.blocks[1].inputs[0], "source", "body"), "EDGE_ORDER", "pool"),
    "no source": (lambda a: a.blocks[1].ClearField("inputs"), "EDGE_MISSING", "pool"),
    "duplicate id": (lambda a: setattr(a.blocks[1], "id", "stem_conv"), "BLOCK_ID_DUPLICATE", "stem_conv"),
    "id of the input": (lambda a: setattr(a.blocks[0], "id", "x"), "BLOCK_ID_DUPLICATE", "x"),
    "id with a dot": (lambda a: setattr(a.blocks[0], "id", "a.b"), "BLOCK_ID_INVALID", "a.b"),
    "id in capitals": (lambda a: setattr(a.blocks[0], "id", "Conv"), "BLOCK_ID_INVALID", "Conv"),
    "empty id": (lambda a: setattr(a.blocks[0], "id", ""), "BLOCK_ID_INVALID", "blocks"),
    "long id": (lambda a: setattr(a.blocks[0], "id", "a" * 65), "BLOCK_ID_INVALID", "a" * 64),
    "extra merge": (lambda a: setattr(a.blocks[1], "merge", pb.MERGE_SUM), "MERGE_UNEXPECTED", "pool"),
    "missing merge": (lambda a: a.blocks[1].inputs.add(source="x"), "MERGE_MISSING", "pool"),
    "source twice": (lambda a: a.blocks[1].inputs.add(source="stem_conv"), "EDGE_DUPLICATE", "pool"),
    "unset op": (lambda a: a.blocks[1].operation.ClearField("pool"), "OPERATION_MISSING", "pool"),
    "unit without conv": (
        lambda a: a.blocks[0].operation.conv_unit.ClearField("conv"),
        "OPERATION_MISSING",
        "stem_conv",
    ),
    "order": (lambda a: a.blocks[0].operation.conv_unit.ClearField("order"), "ENUM_UNSPECIFIED", "stem_conv"),
    "padding": (lambda a: _conv(a).ClearField("padding"), "ENUM_UNSPECIFIED", "stem_conv"),
    "unknown padding": (lambda a: setattr(_conv(a), "padding", 77), "ENUM_UNSPECIFIED", "stem_conv"),
    "channels": (lambda a: setattr(_conv(a), "channels", 0), "VALUE_OUT_OF_RANGE", "stem_conv"),
    "negative channels": (lambda a: setattr(_conv(a), "channels", -8), "VALUE_OUT_OF_RANGE", "stem_conv"),
    "no kernel": (lambda a: setattr(_conv(a), "kernel_w", 0), "VALUE_OUT_OF_RANGE", "stem_conv"),
    "kernel 51": (lambda a: setattr(_conv(a), "kernel_h", 51), "VALUE_OUT_OF_RANGE", "stem_conv"),
    "negative stride": (lambda a: setattr(_conv(a), "stride", -1), "VALUE_OUT_OF_RANGE", "stem_conv"),
    "negative groups": (lambda a: setattr(_conv(a), "groups", -1), "VALUE_OUT_OF_RANGE", "stem_conv"),
    "dilation": (lambda a: setattr(_conv(a), "dilation", 17), "VALUE_OUT_OF_RANGE", "stem_conv"),
    "groups": (lambda a: setattr(_conv(a), "groups", 3), "GROUPS_DO_NOT_DIVIDE", "stem_conv"),
    "separable groups": (
        lambda a: setattr(a.blocks[2].operation.conv_unit.conv, "groups", 2),
        "VALUE_OUT_OF_RANGE",
        "body",
    ),
    "momentum": (
        lambda a: setattr(a.blocks[0].operation.conv_unit.norm, "momentum", 1.0),
        "VALUE_OUT_OF_RANGE",
        "stem_conv",
    ),
    "epsilon NaN": (
        lambda a: setattr(a.blocks[0].operation.conv_unit.norm, "epsilon", math.nan),
        "VALUE_OUT_OF_RANGE",
        "stem_conv",
    ),
    "activation": (
        lambda a: a.blocks[0].operation.conv_unit.activation.ClearField("kind"),
        "ENUM_UNSPECIFIED",
        "stem_conv",
    ),
    "alpha of relu": (
        lambda a: setattr(a.blocks[0].operation.conv_unit.activation, "alpha", 0.1),
        "VALUE_OUT_OF_RANGE",
        "stem_conv",
    ),
    "dropout 1": (
        lambda a: setattr(a.blocks[0].operation.conv_unit.dropout, "rate", 1.0),
        "VALUE_OUT_OF_RANGE",
        "stem_conv",
    ),
    "pool kind": (lambda a: a.blocks[1].operation.pool.ClearField("kind"), "ENUM_UNSPECIFIED", "pool"),
    "global pool kind": (
        lambda a: a.blocks[3].operation.global_pool.ClearField("kind"),
        "ENUM_UNSPECIFIED",
        "head_pool",
    ),
    "no features": (lambda a: setattr(a.blocks[4].operation.linear, "features", 0), "VALUE_OUT_OF_RANGE", "head_fc"),
    "linear on image": (lambda a: setattr(a.blocks[4].inputs[0], "source", "body"), "SHAPE_MISMATCH", "head_fc"),
    "unused block": (lambda a: setattr(a.blocks[2].inputs[0], "source", "stem_conv"), "BLOCK_UNUSED", "pool"),
    "unknown output": (lambda a: setattr(a, "output", "nothing"), "OUTPUT_UNKNOWN", "output"),
    "input as output": (lambda a: setattr(a, "output", "x"), "OUTPUT_UNKNOWN", "output"),
    "image as output": (lambda a: setattr(a, "output", "body"), "OUTPUT_NOT_LOGITS", "body"),
    "unknown group": (lambda a: setattr(a.blocks[0], "group", "s1"), "GROUP_UNKNOWN", "stem_conv"),
    "group kind": (lambda a: a.groups.add(id="s1"), "ENUM_UNSPECIFIED", "s1"),
    "group parent": (lambda a: a.groups.add(id="s1", kind=2, parent="s2"), "GROUP_UNKNOWN", "s1"),
    "group in itself": (lambda a: a.groups.add(id="s1", kind=2, parent="s1"), "GROUP_INVALID", "s1"),
    "group id": (lambda a: a.groups.add(id="S", kind=2), "GROUP_INVALID", "S"),
    "mean": (lambda a: a.preprocessing.mean.extend([0.5, 0.5]), "PREPROCESSING_INVALID", "preprocessing"),
    "std": (lambda a: a.preprocessing.std.append(0.0), "PREPROCESSING_INVALID", "preprocessing"),
    "per image and mean": (
        lambda a: (a.preprocessing.mean.append(0.5), setattr(a.preprocessing, "per_image", True)),
        "PREPROCESSING_INVALID",
        "preprocessing",
    ),
    "scale NaN": (
        lambda a: setattr(a.blocks[1].inputs[0].scale, "init_mean", math.nan),
        "VALUE_OUT_OF_RANGE",
        "pool",
    ),
    "resize of the first": (
        lambda a: setattr(a.blocks[1].inputs[0], "resize", pb.RESIZE_MAX_POOL_2X2),
        "EDGE_RESIZE_IMPOSSIBLE",
        "pool",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_check_when_contradictory_then_refused_with_reason_and_block(name: str) -> None:
    change, reason, field = CASES[name]
    assert _refused(change) == (reason, field)


def _merging(merge: int, *edges: pb.Edge) -> pb.Architecture:
    """conv of 4 and of 6 channels at 8x8, a pooled one at 4x4, merged as asked."""
    pool = pb.Pool(kind=pb.POOL_KIND_MAX, kernel=3, stride=3, padding=pb.PADDING_SAME)
    merged = pb.Block(id="m", inputs=edges, merge=merge, operation=pb.Operation(flatten=pb.Flatten()))
    return architecture(
        (4, 8, 8), "m", block("a", "x", conv=conv(4)), block("b", "a", conv=conv(6)), block("p", "b", pool=pool), merged
    )


def test_check_when_merged_sizes_differ_then_refused() -> None:
    for merge, first, second in [(pb.MERGE_SUM, "a", "b"), (pb.MERGE_CONCAT, "a", "p"), (pb.MERGE_SUM, "b", "p")]:
        with pytest.raises(Rejected, match="add an adapter") as caught:
            check(_merging(merge, pb.Edge(source=first), pb.Edge(source=second)))
        assert (caught.value.reason, caught.value.field) == ("MERGE_MISMATCH", "m")


def test_check_when_halving_never_meets_the_size_then_refused() -> None:
    edges = pb.Edge(source="p"), pb.Edge(source="b", resize=pb.RESIZE_MAX_POOL_2X2)
    with pytest.raises(Rejected) as caught:
        check(_merging(pb.MERGE_CONCAT, *edges))  # 8 -> 4 -> 2, never 3
    assert (caught.value.reason, caught.value.field) == ("EDGE_RESIZE_IMPOSSIBLE", "m")


def test_check_when_window_larger_than_input_without_padding_then_refused() -> None:
    wide = block("c", "x", conv=conv(2, 9, padding=pb.PADDING_VALID))
    with pytest.raises(Rejected) as caught:
        check(architecture((1, 8, 8), "f", wide, block("f", "c", flatten=pb.Flatten())))
    assert (caught.value.reason, caught.value.field) == ("SHAPE_MISMATCH", "c")


def _mixed(*candidates: pb.MixedCandidate) -> pb.Architecture:
    return architecture((3,), "m", block("m", "x", mixed=pb.MixedOp(candidates=candidates)))


def test_check_when_mixed_operation_contradicts_then_refused() -> None:
    plain = pb.MixedCandidate(id="a", operation=pb.Operation(identity=pb.Identity()))
    wider = pb.MixedCandidate(id="b", operation=pb.Operation(linear=pb.Linear(features=4)))
    nested = pb.MixedCandidate(id="b", operation=pb.Operation(mixed=pb.MixedOp(candidates=[plain, plain])))
    reserved = pb.MixedCandidate(id="alpha", operation=plain.operation)
    unset = pb.MixedCandidate(id="b")
    cases = [
        ((plain,), "VALUE_OUT_OF_RANGE", "m"),
        ((plain, plain), "BLOCK_ID_DUPLICATE", "m"),
        ((plain, wider), "MIXED_MISMATCH", "m"),
        ((plain, nested), "MIXED_NESTED", "m"),
        ((plain, reserved), "BLOCK_ID_INVALID", "m"),
        ((plain, unset), "OPERATION_MISSING", "m.b"),
    ]
    for candidates, reason, field in cases:
        with pytest.raises(Rejected) as caught:
            check(_mixed(*candidates))
        assert (caught.value.reason, caught.value.field) == (reason, field)


def test_check_when_lrn_size_even_then_says_how_to_mend() -> None:
    norm = pb.LocalResponseNorm(size=4, alpha=1e-3, beta=0.75, bias=1.0)
    base = architecture(
        (3, 8, 8), "f", block("n", "x", local_response_norm=norm), block("f", "n", flatten=pb.Flatten())
    )
    with pytest.raises(Rejected, match=r"2 \* radius \+ 1"):
        check(base)
    base.blocks[0].operation.local_response_norm.size = 9
    check(base)


def test_shapes_gives_every_block_without_batch() -> None:
    assert shapes(small_cnn()) == {
        "x": (1, 8, 8),
        "stem_conv": (8, 8, 8),
        "pool": (8, 4, 4),
        "body": (16, 4, 4),
        "head_pool": (16,),
        "head_fc": (10,),
    }


def test_scale_width_doubles_widths_and_keeps_classes_ids_and_depthwise() -> None:
    base = architecture(
        (3, 8, 8),
        "fc",
        block("a", "x", conv=conv(8)),
        block("dw", "a", conv=conv(8, groups=8)),
        block("act", "dw", activation=activation()),
        block("gap", "act", global_pool=pb.GlobalPool(kind=pb.POOL_KIND_MAX)),
        block("hidden", "gap", linear=pb.Linear(features=5)),
        block("fc", "hidden", linear=pb.Linear(features=10)),
    )
    scaled = scale_width(base, 2.0)
    sizes = shapes(scaled)
    assert [block.id for block in scaled.blocks] == [block.id for block in base.blocks]
    assert (sizes["a"], sizes["dw"], sizes["hidden"], sizes["fc"]) == ((16, 8, 8), (16, 8, 8), (10,), (10,))
    assert scaled.blocks[1].operation.conv.groups == 16
    assert scale_width(base, 1.0) == base
    assert base.blocks[0].operation.conv.channels == 8


@pytest.mark.parametrize("multiplier", [0.0, -1.0, math.nan, math.inf])
def test_scale_width_when_multiplier_makes_no_sense_then_refused(multiplier: float) -> None:
    with pytest.raises(Rejected):
        scale_width(small_cnn(), multiplier)


def test_random_architecture_is_a_function_of_its_seed() -> None:
    assert random_architecture(7) == random_architecture(7)
    assert random_architecture(7) != random_architecture(8)
