"""Settings of generators: checked against the generator's JSON Schema, completed with its defaults, read by type."""

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from google.protobuf import json_format, struct_pb2
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from nasmesh.errors import FieldViolation, Invalid

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"
Schema: TypeAlias = Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class Settings:
    """Checked settings with every default filled in."""

    values: Mapping[str, Json]

    def integer(self, name: str) -> int:
        """Return an integer setting."""
        value = self.values[name]
        if isinstance(value, int | float):
            return int(value)
        raise TypeError(f"the schema does not make {name} an integer")

    def number(self, name: str) -> float:
        """Return a number setting."""
        value = self.values[name]
        if isinstance(value, int | float):
            return float(value)
        raise TypeError(f"the schema does not make {name} a number")

    def text(self, name: str) -> str:
        """Return a text setting."""
        return str(self.values[name])

    def flag(self, name: str) -> bool:
        """Return a boolean setting."""
        return self.values[name] is True

    def mapping(self, name: str) -> Mapping[str, Json] | None:
        """Return an object setting; None when it is unset and has no default."""
        value = self.values.get(name)
        return value if isinstance(value, Mapping) else None


def settings_schema(title: str, properties: Mapping[str, Json]) -> Schema:
    """Return a JSON Schema (2020-12) of an object with these properties and no others."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": title,
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }


def to_struct(schema: Schema) -> struct_pb2.Struct:
    """Return the schema as the contract carries it."""
    struct = struct_pb2.Struct()
    struct.update(schema)
    return struct


def read_settings(schema: Schema, given: struct_pb2.Struct) -> Settings:
    """Return the settings with defaults; raises Invalid (SETTINGS_INVALID) with every setting that is wrong."""
    # JSON has no NaN and no infinities, so these must go first.
    violations = [_not_finite(name) for name in sorted(given.fields) if not _is_finite(given.fields[name])]
    values: dict[str, Json] = {} if violations else json_format.MessageToDict(given)
    violations += [_violation(error, schema) for error in _errors(schema, values)]
    if violations:
        first = violations[0]
        raise Invalid("SETTINGS_INVALID", first.description, field=first.field, violations=violations)
    defaults = {name: rule["default"] for name, rule in _properties(schema).items() if "default" in rule}
    return Settings({**defaults, **values})


def _errors(schema: Schema, values: Mapping[str, Json]) -> list[ValidationError]:
    found = Draft202012Validator(schema).iter_errors(values)
    return sorted(found, key=lambda error: (error.json_path, error.message))


def _is_finite(value: struct_pb2.Value) -> bool:
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return all(_is_finite(inner) for inner in value.struct_value.fields.values())
    if kind == "list_value":
        return all(_is_finite(inner) for inner in value.list_value.values)
    return math.isfinite(value.number_value)


def _not_finite(name: str) -> FieldViolation:
    return FieldViolation(f"settings.{name[:80]}", f"settings.{name[:80]} must be a finite number")


def _violation(error: ValidationError, schema: Schema) -> FieldViolation:
    path = ".".join(["settings", *(str(part) for part in error.absolute_path)])
    if error.validator == "additionalProperties" and not error.absolute_path and isinstance(error.instance, Mapping):
        known = sorted(_properties(schema))
        unknown = sorted(name for name in error.instance if name not in known)
        nearest = difflib.get_close_matches(unknown[0], known, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else f"known: {', '.join(known) or 'none'}"
        return FieldViolation(f"{path}.{unknown[0][:80]}", f"{path}.{unknown[0][:80]} is no setting; {hint}")
    return FieldViolation(path, f"{path}: {error.message[:200]}")


def _properties(schema: Schema) -> Mapping[str, Mapping[str, Json]]:
    properties = schema["properties"]
    if not isinstance(properties, Mapping):
        raise TypeError("a settings schema has properties")
    return {name: rule for name, rule in properties.items() if isinstance(rule, Mapping)}
