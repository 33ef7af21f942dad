import pytest

from nasmesh import spaces
from nasmesh.errors import Invalid
from nasmesh.model.architecture import shapes
from nasmesh.spaces.domains import in_domain
from nasmesh.v1 import architecture_pb2 as arch
from nasmesh.v1 import space_pb2 as pb
from tests.builders.generating import DIGITS, build, chain


def values(**chosen: str) -> pb.ChoiceValues:
    return pb.ChoiceValues(values={name.replace("__", "."): value for name, value in chosen.items()})


ONE = {"layers": "1", "layer_1__kernel": "3", "layer_1__channels": "8", "layer_1__pool": "on"}


def test_chain_builds_units_pools_and_classifier() -> None:
    architecture = build(chain(), values(**ONE))
    known = shapes(architecture)
    assert [block.id for block in architecture.blocks] == ["layer_1_conv", "layer_1_pool", "head_pool", "head_linear"]
    assert known["layer_1_pool"] == (8, 4, 4)
    assert known["head_linear"] == (10,)
    assert spaces.summary(architecture) == {"stage_1": "1 cell", "blocks": "4"}


def test_chain_without_pooling_has_no_pool_choice() -> None:
    found = spaces.choices(chain(pooling=False), input_dims=DIGITS, classes=10)
    assert [choice.name for choice in found if "pool" in choice.name] == []
    assert "layer_1_pool" not in shapes(build(chain(pooling=False), values(**dict(list(ONE.items())[:3]))))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"layer_1__kernel": "7"}, "CHOICE_OUT_OF_DOMAIN"),
        ({"layers": "2"}, "CHOICE_MISSING"),
        ({"layer_2__kernel": "3"}, "CHOICE_INACTIVE"),
        ({"layer_9__kernel": "3"}, "CHOICE_UNKNOWN"),
    ],
)
def test_chain_when_a_value_is_wrong_then_refused(change: dict[str, str], reason: str) -> None:
    with pytest.raises(Invalid) as caught:
        build(chain(), values(**{**ONE, **change}))
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"min_layers": 0}, "min_layers"),
        ({"max_layers": 33}, "max_layers"),
        ({"min_layers": 4}, "max_layers"),
        ({"kernels": []}, "kernels"),
        ({"kernels": [3, 51]}, "kernels[1]"),
        ({"channels": [8, 8]}, "channels[1]"),
    ],
)
def test_chain_check_names_the_field(fields: dict[str, object], field: str) -> None:
    with pytest.raises(Invalid) as caught:
        spaces.check(chain(**fields))
    assert [violation.field for violation in caught.value.violations] == [f"space.chain.{field}"]


def fixed() -> pb.Space:
    return pb.Space(fixed=pb.FixedSpace(architecture=build(chain(), values(**ONE))))


def test_fixed_gives_back_its_architecture_with_its_preprocessing() -> None:
    space = fixed()
    space.fixed.architecture.preprocessing.mean.extend([0.5])
    assert build(space, pb.ChoiceValues()) == space.fixed.architecture
    assert spaces.choices(space, input_dims=DIGITS, classes=10) == []


def test_fixed_when_values_are_given_then_refused() -> None:
    with pytest.raises(Invalid) as caught:
        build(fixed(), values(layers="1"))
    assert caught.value.reason == "CHOICE_UNKNOWN"


@pytest.mark.parametrize(("dims", "classes"), [((3, 8, 8), 10), (DIGITS, 7)])
def test_fixed_when_it_does_not_fit_the_data_then_refused(dims: tuple[int, ...], classes: int) -> None:
    with pytest.raises(Invalid, match="do not fit"):
        spaces.build(fixed(), pb.ChoiceValues(), input_dims=dims, classes=classes, preprocessing=arch.Preprocessing())


def test_fixed_object_cannot_be_built_here() -> None:
    space = pb.Space()
    space.fixed.object.key = "networks/x"
    with pytest.raises(Invalid) as caught:
        build(space, pb.ChoiceValues())
    assert caught.value.reason == "SPACE_NOT_BUILDABLE"


@pytest.mark.parametrize("space", [pb.Space(), pb.Space(fixed=pb.FixedSpace()), pb.Space(chain=pb.ChainSpace())])
def test_empty_space_is_refused(space: pb.Space) -> None:
    with pytest.raises(Invalid) as caught:
        spaces.check(space)
    assert caught.value.reason == "SPACE_INVALID"


@pytest.mark.parametrize(
    ("value", "inside"), [("0.5", True), ("0", True), ("1.5", False), ("nan", False), ("inf", False), ("x", False)]
)
def test_real_domains(value: str, inside: bool) -> None:
    choice = pb.Choice(name="rate", real=pb.RealDomain(min=0, max=1))
    assert in_domain(choice, value) is inside
