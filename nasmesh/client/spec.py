"""Reads a search specification: YAML that is a SearchSpec in protobuf's own JSON mapping, and nothing else.

Every fault is raised as Invalid with the path of the field at fault and the nearest name that exists.
"""

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TypeVar, cast

import yaml
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from nasmesh.errors import Invalid
from nasmesh.v1 import search_pb2

Parsed = TypeVar("Parsed", bound=Message)

SPEC_BYTES = 1 << 20  # a specification is written by hand; more is a wrong file, and YAML aliases multiply what is read
_DURATION = re.compile(r"\d{1,9}(\.\d{1,9})?s")
_MAX_DEPTH = 60  # an alias may contain itself; protobuf's own limit is 100


class _Loader(yaml.SafeLoader):
    """Safe loading that refuses a key given twice, which YAML would silently overwrite."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int | float):
                raise Invalid("SPEC_MALFORMED", f"line {key_node.start_mark.line + 1}: a key must be plain text")
            if key in seen:
                raise Invalid(
                    "SPEC_MALFORMED",
                    f"{key}: given twice, again in line {key_node.start_mark.line + 1}",
                    field=str(key),
                )
            seen.add(key)
        return dict(super().construct_mapping(node, deep=deep))


def read_spec(path: Path, overrides: Sequence[str] = ()) -> search_pb2.SearchSpec:
    """Return the specification in a YAML (or JSON) file, with "path=value" overrides applied.

    Raises Invalid (SPEC_UNREADABLE, SPEC_MALFORMED, FIELD_UNKNOWN, VALUE_INVALID).
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Invalid("SPEC_UNREADABLE", f"{path}: cannot be read ({error.strerror}); give a YAML file") from error
    if len(content) > SPEC_BYTES:
        raise Invalid("SPEC_MALFORMED", f"{path}: {len(content)} bytes are no specification; at most {SPEC_BYTES}")
    return parse_spec(content, overrides, source=str(path))


def parse_spec(
    content: bytes | str, overrides: Sequence[str] = (), *, source: str = "the specification"
) -> search_pb2.SearchSpec:
    """Return the specification in YAML text, with "path=value" overrides applied; raises Invalid as read_spec does.

    `source` says in errors what the text is.
    """
    return parse_message(search_pb2.SearchSpec(), content, overrides, source=source)


def parse_message(message: Parsed, content: bytes | str, overrides: Sequence[str] = (), *, source: str) -> Parsed:
    """Fill a message from YAML text with "path=value" overrides, and return it; raises Invalid as read_spec does."""
    document = load_yaml(content, source)
    if not isinstance(document, dict):
        raise Invalid("SPEC_MALFORMED", f"{source}: is not a mapping of fields; see examples/digits.yaml")
    root = cast(Descriptor, message.DESCRIPTOR)
    for override in overrides:
        apply_override(document, root, override)
    _check_message(document, root, "")
    try:
        return json_format.ParseDict(document, message)
    except (json_format.ParseError, ValueError, TypeError) as error:
        raise Invalid("SPEC_MALFORMED", f"{source} cannot be read: {str(error)[:300]}") from error


def load_yaml(content: bytes | str, source: str, *, as_text: bool = False) -> object:
    """Return what YAML text says, loaded safely; raises Invalid (SPEC_MALFORMED) with the line.

    `as_text` leaves every value as it is written: "off" is no false then, and "1e-3" no number.
    """
    try:
        return (yaml.BaseLoader if as_text else _Loader)(content).get_single_data()
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{source}, line {mark.line + 1}, column {mark.column + 1}" if mark else source
        problem = getattr(error, "problem", None) or "is no YAML text"
        raise Invalid("SPEC_MALFORMED", f"{where}: {problem}") from error


def apply_override(document: dict[object, object], root: Descriptor, override: str) -> None:
    """Set one "path.to.field=value" in a document; list elements by number, other members of a oneof are dropped."""
    path, equals, text = override.partition("=")
    parts = path.strip().split(".")
    if not equals or not all(parts):
        raise Invalid("OVERRIDE_INVALID", f"--set {override!r}: write path.to.field=value", field=path)
    value = load_yaml(text, path) if text.strip() else ""
    here: object = document
    descriptor: Descriptor | None = root
    for depth, part in enumerate(parts):
        last = depth == len(parts) - 1
        if isinstance(here, list):
            here = _enter_list(here, part, value if last else None, ".".join(parts[: depth + 1]))
            continue
        if not isinstance(here, dict):
            raise Invalid(
                "OVERRIDE_INVALID", f"--set {override!r}: {'.'.join(parts[:depth])} has no fields", field=path
            )
        field = _field(descriptor, part, ".".join(parts[:depth])) if descriptor else None
        key = _present_key(here, field, part)
        if field is not None:
            _drop_siblings(here, field)
        if last:
            here[key] = value
        else:
            here = here.setdefault(key, [] if field is not None and field.is_repeated and not _is_map(field) else {})
            descriptor = _plain_message(field)


def _enter_list(items: list[object], part: str, value: object, path: str) -> object:
    if not part.isdigit() or int(part) >= len(items):
        raise Invalid("OVERRIDE_INVALID", f"{path}: there are {len(items)} elements, numbered from 0", field=path)
    if value is not None:
        items[int(part)] = value
    return items[int(part)]


def _present_key(mapping: dict[object, object], field: FieldDescriptor | None, part: str) -> str:
    """Return the spelling of a field that the document already uses, or the JSON one."""
    if field is None:
        return part
    return field.name if field.name in mapping else field.json_name


def _drop_siblings(mapping: dict[object, object], field: FieldDescriptor) -> None:
    oneof = field.containing_oneof
    for sibling in oneof.fields if oneof else ():
        if sibling.name != field.name:
            mapping.pop(sibling.name, None)
            mapping.pop(sibling.json_name, None)


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)


def _plain_message(field: FieldDescriptor | None) -> Descriptor | None:
    """Return the message whose fields are named in a mapping, or None where keys are free (maps, Struct)."""
    if (
        field is None
        or field.message_type is None
        or _is_map(field)
        or field.message_type.full_name.startswith("google.")
    ):
        return None
    return field.message_type


def _field(descriptor: Descriptor, name: str, prefix: str) -> FieldDescriptor:
    """Return the field of this name, in either spelling; raises Invalid (FIELD_UNKNOWN) naming the nearest."""
    known = {field.json_name: field for field in descriptor.fields} | {field.name: field for field in descriptor.fields}
    if name in known:
        return known[name]
    path = _join(prefix, name)
    names = [field.json_name for field in descriptor.fields]
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    fix = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(names)}"
    raise Invalid("FIELD_UNKNOWN", f"{path}: there is no such field; {fix}", field=path)


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _check_message(value: object, descriptor: Descriptor, path: str) -> None:
    """Check that a mapping names only fields of a message, each with a value of its kind."""
    if path.count(".") > _MAX_DEPTH:
        raise Invalid(
            "SPEC_MALFORMED", f"{path[:80]}…: nested too deeply; an alias may contain itself", field=path[:80]
        )
    if not isinstance(value, Mapping):
        names = ", ".join(field.json_name for field in descriptor.fields)
        raise Invalid("VALUE_INVALID", f"{path}: must be a mapping with fields {names}", field=path)
    used: dict[str, str] = {}
    for name, item in value.items():
        field = _field(descriptor, str(name), path)
        if field.containing_oneof is not None:
            other = used.setdefault(field.containing_oneof.name, field.json_name)
            if other != field.json_name:
                where = _join(path, field.json_name)
                raise Invalid("VALUE_INVALID", f"{where}: cannot be set together with {other}; drop one", field=where)
        _check_field(item, field, _join(path, str(name)))


def _check_field(value: object, field: FieldDescriptor, path: str) -> None:
    if value is None:
        raise Invalid("VALUE_INVALID", f"{path}: has no value; give one or drop the line", field=path)
    if _is_map(field):
        if not isinstance(value, Mapping) or not all(isinstance(item, str) for item in value.values()):
            raise Invalid("VALUE_INVALID", f"{path}: must be a mapping of names to text; quote numbers", field=path)
    elif field.is_repeated:
        if not isinstance(value, list):
            raise Invalid("VALUE_INVALID", f"{path}: must be a list", field=path)
        for index, item in enumerate(value):
            _check_single(item, field, f"{path}.{index}")
    else:
        _check_single(value, field, path)


def _check_single(value: object, field: FieldDescriptor, path: str) -> None:
    message = _plain_message(field)
    if message is not None:
        _check_message(value, message, path)
    elif field.message_type is not None and field.message_type.full_name == "google.protobuf.Duration":
        if not isinstance(value, str) or not _DURATION.fullmatch(value):
            said = f"{str(value)[:60]!r} must be seconds with an s, for example 30s"
            raise Invalid("VALUE_INVALID", f"{path}: {said}", field=path)
    elif field.message_type is not None:
        if not isinstance(value, Mapping):
            raise Invalid("VALUE_INVALID", f"{path}: must be a mapping", field=path)
    elif field.enum_type is not None:
        _check_enum(value, field, path)
    else:
        _check_scalar(value, field, path)


def _check_enum(value: object, field: FieldDescriptor, path: str) -> None:
    values = field.enum_type.values if field.enum_type is not None else ()
    known = [item.name for item in values if item.number]
    if value in known:
        return
    text = str(value).upper()
    near = [name for name in known if name.endswith(f"_{text}")] or difflib.get_close_matches(
        text, known, n=1, cutoff=0.3
    )
    fix = f"did you mean {near[0]}?" if near else f"one of {', '.join(known)}"
    raise Invalid("VALUE_INVALID", f"{path}: {str(value)[:60]!r} is not a value of this field; {fix}", field=path)


def _check_scalar(value: object, field: FieldDescriptor, path: str) -> None:
    kind = field.cpp_type
    wrong = ""
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        wrong = "" if isinstance(value, bool) else "true or false"
    elif kind == FieldDescriptor.CPPTYPE_STRING:
        wrong = "" if isinstance(value, str) else "text; quote it"
    elif kind in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
        wrong = "" if _is_number(value) else "a finite number"
    else:
        bits = 31 if kind in (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_UINT32) else 63
        exact = Decimal(str(value)) if _is_number(value) else Decimal("NaN")  # a double would round 2^63 - 1 up
        wrong = "" if exact == exact.to_integral_value() and abs(exact) < 2**bits else f"a whole number below 2^{bits}"
    if wrong:
        raise Invalid("VALUE_INVALID", f"{path}: {str(value)[:60]!r} must be {wrong}", field=path)


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return False
    try:
        return math.isfinite(float(value))  # YAML 1.1 reads "1e-3" as text; protobuf's mapping accepts numbers in text
    except (ValueError, OverflowError):
        return False
