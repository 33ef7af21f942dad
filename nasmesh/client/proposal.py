"""Reads a network that a person adds to a search: an ONNX file, an architecture, or values of the space's choices."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nasmesh.client.spec import SPEC_BYTES, load_yaml, parse_message
from nasmesh.errors import Invalid
from nasmesh.limits import NETWORK_BYTES
from nasmesh.v1 import architecture_pb2, generate_service_pb2, space_pb2

if TYPE_CHECKING:
    from nasmesh.client.client import Client

INLINE_BYTES = 512 * 1024
"""Larger networks are imported first: a request must fit a message with room for the rest."""


def read_proposal(form: str, path: Path, overrides: Sequence[str], client: "Client") -> generate_service_pb2.Proposal:
    """Return the network in a file, with "path=value" for its other fields; large ones are stored as objects.

    `form` is "onnx", "architecture" or "choices". Raises Invalid (NETWORK_UNREADABLE, and as read_spec does).
    """
    proposal = parse_message(generate_service_pb2.Proposal(), "{}", overrides, source="--set")
    content = _read(path, NETWORK_BYTES if form == "onnx" else SPEC_BYTES)
    if form == "onnx" and len(content) <= INLINE_BYTES:
        proposal.onnx = content
    elif form == "onnx":
        proposal.object.CopyFrom(client.import_(content))
    elif form == "architecture":
        proposal.architecture.CopyFrom(parse_message(architecture_pb2.Architecture(), content, source=str(path)))
    else:
        proposal.choices.CopyFrom(_choices(content, path))
    return proposal


def _choices(content: bytes, path: Path) -> space_pb2.ChoiceValues:
    """Return the values in a file: a mapping of choices to values, or the message that has it under `values`."""
    document = load_yaml(content, str(path), as_text=True)
    if isinstance(document, dict) and list(document) == ["values"]:
        document = document["values"]
    if not isinstance(document, dict) or not all(isinstance(value, str) for value in document.values()):
        raise Invalid("SPEC_MALFORMED", f"{path}: is not a mapping of the space's choices to values")
    return space_pb2.ChoiceValues(values={str(name): value for name, value in document.items()})


def _read(path: Path, most: int) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Invalid("NETWORK_UNREADABLE", f"{path}: cannot be read ({error.strerror}); give a file") from error
    if len(content) > most:
        raise Invalid("NETWORK_UNREADABLE", f"{path}: has {len(content):,} bytes, at most {most:,}")
    return content
