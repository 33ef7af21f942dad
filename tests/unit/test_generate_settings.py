"""Requests and settings that are refused before an algorithm looks at them, and the descriptions of generators."""

import itertools
import math

import pytest
from google.protobuf import json_format
from jsonschema import Draft202012Validator

from generate_svc import registry
from generate_svc.nac_settings import SCHEMA, read
from generate_svc.settings import read_settings
from generate_svc.state import dump_state, load_state
from nasmesh.errors import Invalid, NasmeshError, NotFound
from nasmesh.v1 import generate_service_pb2 as pb
from nasmesh.v1 import space_pb2
from tests.builders.generating import DIGITS, chain, envelope, request

_PLAIN = {"count", "call", "classes", "input_dims"}


@pytest.mark.parametrize("name", sorted(registry.GENERATORS))
def test_schema_is_valid_json_schema_with_sound_defaults(name: str) -> None:
    generator = registry.GENERATORS[name].describe()
    assert generator.name == f"generators/{name}"
    assert generator.version
    assert generator.description
    schema = json_format.MessageToDict(generator.settings_schema)
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["additionalProperties"] is False
    for property_name, rule in schema["properties"].items():
        assert rule["description"], property_name
        if "default" in rule:
            Draft202012Validator(rule).validate(rule["default"])


def test_nac_defaults_are_the_papers() -> None:
    found = read(request("nac", envelope()).settings)
    assert (found.iterations, found.rules.max_filter_prune, found.rules.descending) == (5, 6, False)
    assert int(18 * found.rules.prune_fraction) == 6
    assert (found.statistic, found.rules.skip_ranking, found.inherit) == ("mean_square", "signed", False)


@pytest.mark.parametrize(
    ("settings", "field", "words"),
    [
        ({"iteration": 5}, "settings.iteration", "did you mean iterations?"),
        ({"zzz": 5}, "settings.zzz", "known: "),
        ({"iterations": -1}, "settings.iterations", "minimum"),
        ({"iterations": 1.5}, "settings.iterations", "integer"),
        ({"iterations": "5"}, "settings.iterations", "integer"),
        ({"iterations": True}, "settings.iterations", "integer"),
        ({"iterations": None}, "settings.iterations", "integer"),
        ({"order": "up"}, "settings.order", "ascending"),
        ({"prune_fraction": 0}, "settings.prune_fraction", "minimum"),
        ({"prune_fraction": math.nan}, "settings.prune_fraction", "finite"),
        ({"prune_fraction": math.inf}, "settings.prune_fraction", "finite"),
    ],
)
def test_wrong_setting_is_named(settings: dict[str, object], field: str, words: str) -> None:
    with pytest.raises(Invalid) as caught:
        registry.propose(request("nac", envelope(), settings=settings))
    assert caught.value.reason == "SETTINGS_INVALID"
    assert caught.value.field == field
    assert words in caught.value.message


def test_all_wrong_settings_are_named_at_once() -> None:
    with pytest.raises(Invalid) as caught:
        registry.propose(request("nac", envelope(), settings={"iterations": -1, "order": "up", "nothing": 1}))
    fields = {violation.field for violation in caught.value.violations}
    assert fields == {"settings.iterations", "settings.order", "settings.nothing"}


def test_settings_with_and_without_defaults_mean_the_same() -> None:
    filled = dict(read_settings(SCHEMA, request("nac", envelope()).settings).values)
    plain = registry.propose(request("nac", envelope()))
    assert registry.propose(request("nac", envelope(), settings=filled)) == plain


@pytest.mark.parametrize(
    ("changed", "reason", "field"),
    [
        ({"generator": "generators/nacc"}, "GENERATOR_UNKNOWN", "generator"),
        ({"generator": "nac"}, "GENERATOR_UNKNOWN", "generator"),
        ({"space": chain()}, "SPACE_UNSUPPORTED", "space"),
        ({"space": space_pb2.Space()}, "SPACE_INVALID", "space"),
        ({"count": 0}, "COUNT_INVALID", "count"),
        ({"count": 100_000}, "COUNT_INVALID", "count"),
        ({"call": 0}, "CALL_INVALID", "call"),
        ({"classes": 0}, "TASK_INVALID", "classes"),
        ({"input_dims": ()}, "TASK_INVALID", "input_dims"),
    ],
)
def test_request_that_no_call_could_mean_is_refused(changed: dict[str, object], reason: str, field: str) -> None:
    space = changed.get("space", envelope())
    assert isinstance(space, space_pb2.Space)
    asked = request("nac", space, **{name: value for name, value in changed.items() if name in _PLAIN})
    asked.generator = str(changed.get("generator", asked.generator))
    with pytest.raises(NasmeshError) as caught:
        registry.propose(asked)
    assert (caught.value.reason, caught.value.field) == (reason, field)


def test_unknown_generator_lists_the_known() -> None:
    with pytest.raises(NotFound, match="generators/fixed, generators/nac, generators/random"):
        registry.describe(pb.GetGeneratorRequest(name="generators/genetic"))


def test_equal_states_are_equal_bytes_whatever_the_order() -> None:
    items = [("b", 1), ("a", [1, "x"])]
    assert len({dump_state(dict(order), 1) for order in itertools.permutations(items)}) == 1
    assert load_state(dump_state(dict(items), 1), 1) == {"a": [1, "x"], "b": 1, "v": 1}


def test_digits_dims_are_what_the_data_has() -> None:
    assert request("nac", envelope()).input_dims == list(DIGITS)
