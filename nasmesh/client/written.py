"""Writes a specification as the YAML that `read_spec` reads, and changes one that is a message already."""

from collections.abc import Sequence

import yaml
from google.protobuf.json_format import MessageToDict

from nasmesh.client.spec import parse_spec
from nasmesh.v1 import search_pb2


def dump_spec(spec: search_pb2.SearchSpec, *, comment: str = "") -> str:
    """Return the YAML of a specification, `comment` (lines) above it."""
    lines = "".join(f"# {line}\n" for line in comment.splitlines())
    return lines + str(yaml.safe_dump(MessageToDict(spec), sort_keys=False, allow_unicode=True, width=120))


def override_spec(spec: search_pb2.SearchSpec, overrides: Sequence[str]) -> search_pb2.SearchSpec:
    """Return a specification with "path=value" overrides applied; raises Invalid as `read_spec` does."""
    return parse_spec(dump_spec(spec), overrides, source="--set") if overrides else spec
