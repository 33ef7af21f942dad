"""Schemas of settings from elsewhere: what would keep whoever computes by them busy is refused, with its place."""

import time

import pytest
from google.protobuf import struct_pb2

from nasmesh.errors import Invalid
from nasmesh.settings_schema import read_settings_schema
from scheduler.generator_settings import complete_settings
from scheduler.validate import complete_spec
from tests.builders import scheduling as make

CATASTROPHIC = "(a+)+$"


def struct(**values: object) -> struct_pb2.Struct:
    made = struct_pb2.Struct()
    made.update(values)
    return made


def nested(levels: int) -> dict[str, object]:
    """What takes twice as long with each level: what is not evaluated is found by evaluating once more."""
    return {"allOf": [nested(levels - 1)], "unevaluatedProperties": False} if levels else {"properties": {"a": {}}}


@pytest.mark.parametrize(
    ("rule", "place"),
    [
        ({"type": "string", "pattern": CATASTROPHIC}, "pattern"),
        ({"type": "object", "patternProperties": {CATASTROPHIC: {}}}, "patternProperties"),
        ({"anyOf": [{"type": "null"}, {"items": {"pattern": CATASTROPHIC}}]}, "anyOf[1].items.pattern"),
        ({"properties": {"b": {"pattern": CATASTROPHIC}}}, "properties.b.pattern"),
        ({"$defs": {"b": {"$ref": "#"}}}, "$defs.b.$ref"),
        ({"dependentSchemas": {"b": {"format": "regex"}}}, "dependentSchemas.b.format"),
        (nested(1), "unevaluatedProperties"),
        (nested(14), None),
    ],
)
def test_a_rule_that_could_keep_its_reader_busy_is_refused_at_once_with_its_place(
    rule: dict[str, object], place: str | None
) -> None:
    schema = make.make_generator(a=rule).settings_schema
    start = time.monotonic()
    faults = complete_settings(struct(a="a" * 40 + "!"), schema)
    assert time.monotonic() - start < 1.0
    assert len(faults) == 1
    assert faults[0][1].startswith("the generator's own schema is broken: settings_schema.")
    with pytest.raises(Invalid, match="may not be used; ") as caught:
        read_settings_schema(schema, field="schema")
    assert caught.value.reason == "SETTINGS_SCHEMA_INVALID"
    assert caught.value.field.startswith("schema.properties.a.")
    if place is not None:  # else it may be any of many
        assert caught.value.field == f"schema.properties.a.{place}"


def test_a_search_by_such_a_generator_is_refused_and_says_where() -> None:
    generator = make.make_generator(width={"type": "string", "pattern": CATASTROPHIC})
    with pytest.raises(Invalid, match=r"settings_schema\.properties\.width\.pattern: pattern may not be used"):
        complete_spec(make.make_spec(), [generator])


def test_settings_may_be_called_as_the_words_are_and_values_may_hold_them() -> None:
    rules = {
        "pattern": {"type": "string", "enum": ["a", "$ref"], "default": "a"},
        "format": {"type": "object", "default": {"$ref": "b", "pattern": CATASTROPHIC}},
    }
    settings = struct()
    assert complete_settings(settings, make.make_generator(**rules).settings_schema) == []
    assert settings["pattern"] == "a"


def test_a_schema_that_goes_on_for_ever_is_refused() -> None:
    schema = make.make_generator(width={"description": "x" * (70 << 10)}).settings_schema
    with pytest.raises(Invalid, match="at most 65536"):
        read_settings_schema(schema, field="schema")
