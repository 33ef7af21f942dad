"""Checks a generator's settings against the JSON Schema that it publishes, and fills the schema's defaults in."""

import difflib
from collections.abc import Iterator
from typing import Any

from google.protobuf import json_format, struct_pb2
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError

from nasmesh.errors import Invalid
from nasmesh.settings_schema import read_settings_schema

_FAULTS = 20


def complete_settings(settings: struct_pb2.Struct, schema: struct_pb2.Struct) -> list[tuple[str, str]]:
    """Fill defaults into `settings`, in place, and return (".path", what is wrong) for every fault.

    The schema comes from a server: what could make this process wait for long was refused with the agent's hello, and
    is again here.
    """
    try:
        rules = read_settings_schema(schema, field="settings_schema")
    except Invalid as error:
        return [("", f"the generator's own schema is broken: {error.message}")]
    if not rules:
        return [] if not settings.fields else [("", "this generator takes no settings")]
    given: dict[str, Any] = json_format.MessageToDict(settings)
    _fill(given, rules)
    try:
        Draft202012Validator.check_schema(rules)
        found = Draft202012Validator(rules).iter_errors(given)
        faults = [_fault(error) for _, error in zip(range(_FAULTS), found, strict=False)]
    except SchemaError as error:
        return [("", f"the generator's own schema is broken: {str(error).splitlines()[0][:200]}")]
    if not faults:
        settings.Clear()
        json_format.ParseDict(given, settings)
    return faults


def _fill(given: dict[str, Any], rules: dict[str, Any]) -> None:
    """Put the defaults of missing properties in, also within objects that are there."""
    for name, rule in rules.get("properties", {}).items():
        if not isinstance(rule, dict):
            continue
        if name not in given and "default" in rule:
            given[name] = rule["default"]
        if isinstance(given.get(name), dict):
            _fill(given[name], rule)


def _fault(error: ValidationError) -> tuple[str, str]:
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path)
    if error.validator == "additionalProperties" and isinstance(error.instance, dict):
        known = list(error.schema.get("properties", {})) if isinstance(error.schema, dict) else []
        unknown = next(iter(_unknown(error.instance, known)), "?")
        near = difflib.get_close_matches(unknown, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(known))}"
        return f"{path}.{unknown}", f"there is no such setting; {hint}"
    return path, error.message[:300]


def _unknown(instance: dict[str, Any], known: list[str]) -> Iterator[str]:
    return (name for name in instance if name not in known)
