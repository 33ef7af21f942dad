"""Writes a specification as the YAML that `read_spec` reads, and changes one that is a message already."""

from collections.abc import Sequence

import yaml
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.json_format import MessageToDict

from nasmesh.client.spec import parse_spec
from nasmesh.v1 import search_pb2

_TEXT_IN_JSON = frozenset({FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64})
_EXACT = 2.0**53  # below it every whole number is a double


def dump_spec(spec: search_pb2.SearchSpec, *, comment: str = "") -> str:
    """Return the YAML of a specification, `comment` (lines) above it.

    Numbers are written as people write them: JSON has 64-bit integers as text and whole doubles with a point.
    """
    lines = "".join(f"# {line}\n" for line in comment.splitlines())
    written = _with_numbers(spec.DESCRIPTOR, MessageToDict(spec))
    return lines + str(yaml.safe_dump(written, sort_keys=False, allow_unicode=True, width=120))


def override_spec(spec: search_pb2.SearchSpec, overrides: Sequence[str]) -> search_pb2.SearchSpec:
    """Return a specification with "path=value" overrides applied; raises Invalid as `read_spec` does."""
    return parse_spec(dump_spec(spec), overrides, source="--set") if overrides else spec


def _with_numbers(descriptor: Descriptor | None, value: object) -> object:
    """Return a value of protobuf's JSON mapping with its numbers as numbers; `descriptor`: of the message it is."""
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT:
        return int(value)
    if isinstance(value, list):
        return [_with_numbers(descriptor, item) for item in value]
    if not isinstance(value, dict):
        return value
    if descriptor is None or descriptor.full_name.startswith("google.protobuf."):  # a map, settings: keys are no fields
        return {key: _with_numbers(None, item) for key, item in value.items()}
    fields = {field.json_name: field for field in descriptor.fields}
    return {key: _field(fields.get(key), item) for key, item in value.items()}


def _field(field: FieldDescriptor | None, value: object) -> object:
    if field is not None and field.cpp_type in _TEXT_IN_JSON:
        return [int(item) for item in value] if isinstance(value, list) else int(str(value))
    of_map = field is not None and field.message_type is not None and field.message_type.GetOptions().map_entry
    return _with_numbers(None if field is None or of_map else field.message_type, value)
