"""Counts are exact: published figures are met to the last digit."""

import pytest

from nasmesh.model.counting import count, peak_activation_bytes
from nasmesh.model.inference import infer_dims
from nasmesh.model.lower import lower
from nasmesh.v1 import architecture_pb2 as pb
from tests.builders.architectures import architecture, block, conv
from tests.builders.networks import nasbench201, resnet8


def test_count_resnet8_gives_the_published_figures() -> None:
    counts = count(lower(resnet8()))
    assert (counts.parameters, counts.macs) == (78_042, 12_501_632)


def test_count_nasbench201_optimum_gives_the_published_figures() -> None:
    counts = count(lower(nasbench201("333132")))
    assert counts.parameters == 1_073_466
    assert counts.macs / 1e6 == pytest.approx(153.27, abs=0.01)


def test_count_nasbench201_without_convolutions_gives_the_published_figures() -> None:
    # The table's smallest network: 0.073306 M parameters, 7.78 M multiply-accumulates.
    counts = count(lower(nasbench201("111111")))
    assert counts.parameters == 73_306
    assert counts.macs / 1e6 == pytest.approx(7.78, abs=0.01)


def test_count_separable_grouped_and_linear_by_hand() -> None:
    made = architecture(
        (4, 6, 6),
        "fc",
        block("sep", "x", conv=conv(8, 3, separable=True, bias=True)),
        block("grp", "sep", conv=conv(6, 1, groups=2, stride=2)),
        block("flat", "grp", flatten=pb.Flatten()),
        block("fc", "flat", linear=pb.Linear(features=5, bias=True)),
    )
    counts = count(lower(made))
    assert counts.parameters == (4 * 9 + 4 * 8 + 8) + 6 * 4 + (54 * 5 + 5)
    assert counts.macs == 36 * (4 * 9 + 4 * 8) + 9 * 6 * 4 + 54 * 5
    # Each product keeps its input: the image, what the depthwise part put out, and so on.
    assert counts.activations == 4 * 36 + 4 * 36 + 8 * 36 + 6 * 9


def test_peak_activation_frees_what_is_no_longer_needed() -> None:
    made = architecture(
        (1, 4, 4),
        "flat",
        block("a", "x", conv=conv(10)),
        block("b", "a", conv=conv(1)),
        block("c", "b", conv=conv(10)),
        block("flat", "c", flatten=pb.Flatten()),
    )
    model = lower(made)
    # Widest moment: 160 floats of c and their flat copy.
    assert peak_activation_bytes(model, infer_dims(model, 1)) == 4 * (160 + 160)
