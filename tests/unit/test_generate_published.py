"""The authors' final CIFAR-10 network, expressed in our space, against the figures that they published."""

import pytest

from nasmesh import spaces
from nasmesh.model.counting import count
from nasmesh.model.lower import lower
from tests.builders.generating import CIFAR, build
from tests.builders.published_nac import published_network, published_space

PUBLISHED_PARAMETERS = 10.94e6
PUBLISHED_MACS = 2.62e9


def test_final_cifar_network_has_its_published_size() -> None:
    architecture = build(published_space(), published_network(), CIFAR)
    found = count(lower(architecture))
    print(f"parameters {found.parameters} (published {PUBLISHED_PARAMETERS:.0f})")  # noqa: T201 - the figures are asked for
    print(f"multiply-accumulates {found.macs} (published {PUBLISHED_MACS:.0f})")  # noqa: T201 - the figures are asked for
    assert found.parameters == pytest.approx(PUBLISHED_PARAMETERS, rel=0.01)
    assert found.macs == pytest.approx(PUBLISHED_MACS, rel=0.01)
    words = spaces.summary(architecture)
    assert words["skips"] == "55"
    assert (words["stage_1"], words["stage_3"]) == ("7 cells, 18 branches", "2 cells, 12 branches")
