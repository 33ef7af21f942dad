"""What the JSON Schema of a generator's settings may say: it comes from somebody's own program.

One rule for the server that runs such a program and for the scheduler that checks settings against what it says.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from google.protobuf import json_format, struct_pb2

from nasmesh.errors import Invalid

_MOST_BYTES = 64 << 10
# Words that make whoever checks settings fetch something, or compute for long: one regular expression, a chain of
# references that doubles at each link, or "unevaluated" within itself can take years.
_FORBIDDEN = {
    **dict.fromkeys(("$ref", "$dynamicRef", "$recursiveRef", "$id"), "write the rule out where it holds"),
    **dict.fromkeys(("pattern", "format"), "list the values that may be in enum, or bound the text with maxLength"),
    "patternProperties": "name the settings in properties",
    **dict.fromkeys(("unevaluatedProperties", "unevaluatedItems"), "use additionalProperties or items"),
}
# Words whose keys are names of settings, and words that hold values, not rules.
_NAMING = frozenset({"properties", "dependentSchemas", "$defs", "definitions", "dependentRequired"})
_VALUES = frozenset({"default", "const", "enum", "examples"})


def read_settings_schema(schema: struct_pb2.Struct, *, field: str) -> dict[str, Any]:
    """Return a schema that can be computed by in a time that its size and the settings' bound.

    Whether it is one by the rules of JSON Schema is not looked at. Raises Invalid (SETTINGS_SCHEMA_INVALID) naming the
    place after `field`.
    """
    size = schema.ByteSize()
    if size > _MOST_BYTES:
        raise _invalid(field, f"{size} bytes; at most {_MOST_BYTES}, describe less")
    rules: dict[str, Any] = json_format.MessageToDict(schema)
    for path, word in _words(rules, field):
        if word in _FORBIDDEN:
            raise _invalid(f"{path}.{word}"[:200], f"{word} may not be used; {_FORBIDDEN[word]}")
    return rules


def _words(rule: object, path: str) -> Iterator[tuple[str, str]]:
    """Yield every word of a schema and where it stands; names of settings are no words, nor are values."""
    if isinstance(rule, list):
        for index, part in enumerate(rule):
            yield from _words(part, f"{path}[{index}]")
    if not isinstance(rule, Mapping):
        return
    for word, value in rule.items():
        yield path, word
        if word in _NAMING and isinstance(value, Mapping):
            for name, part in value.items():
                yield from _words(part, f"{path}.{word}.{name[:80]}")
        elif word not in _VALUES:
            yield from _words(value, f"{path}.{word}")


def _invalid(field: str, what: str) -> Invalid:
    return Invalid("SETTINGS_SCHEMA_INVALID", f"{field}: {what}", field=field)
