"""A generator that is somebody's own program: started anew for every call, shut in, spoken to by bytes.

`PROGRAM describe` writes a Generator. `PROGRAM propose` reads a ProposeRequest and writes a ProposeResponse. Both as
one frame of protobuf (four bytes of length, big-endian, then the message), or as one JSON text in protobuf's mapping.
"""

import struct
import threading
from typing import Literal, TypeVar

from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError

from nasmesh import ids
from nasmesh.agent.drivers.generate import check_reply
from nasmesh.errors import Busy, Invalid
from nasmesh.jobs.sandbox import Sandbox
from nasmesh.limits import KIB, MESSAGE_BYTES
from nasmesh.settings_schema import read_settings_schema
from nasmesh.v1 import generate_service_pb2 as pb
from nasmesh.wire import check_fields

Format = Literal["protobuf", "json"]
Answer = TypeVar("Answer", bound=Message)

_LENGTH = struct.Struct(">I")
# A proposal of a large architecture has some thousand parts, and a call has at most a thousand proposals.
_MOST_PARTS = 400_000
_TEXT_CHARS = 4 * KIB
_NONSENSE = "PROGRAM_OUTPUT_INVALID"


class ProgramGenerator:
    """Implements Algorithm by a program in a sandbox; nothing of what it answers is taken on trust."""

    def __init__(self, sandbox: Sandbox, *, form: Format = "protobuf", slots: int = 1) -> None:
        """Ask the program what it is, once; at most `slots` calls run at a time.

        Raises Invalid (PROGRAM_OUTPUT_INVALID) and what Sandbox.run raises.
        """
        self._sandbox = sandbox
        self._form: Format = form
        self._free = threading.BoundedSemaphore(slots)
        self._generator = _checked_generator(self._call("describe", None, pb.Generator))

    def describe(self) -> pb.Generator:
        """Return what the program said it is when this server started."""
        return self._generator

    def propose(self, request: pb.ProposeRequest) -> pb.ProposeResponse:
        """Return the program's checked answer; raises Busy (NO_SLOT) where as many calls run as may."""
        if not self._free.acquire(blocking=False):
            raise Busy("NO_SLOT", "the program is at work on other calls", retry_after_s=0.5)
        try:
            response = self._call("propose", request, pb.ProposeResponse)
        finally:
            self._free.release()
        check_reply(request, response)
        return response

    def _call(self, what: str, request: Message | None, answer: type[Answer]) -> Answer:
        content = b"" if request is None else _encoded(request, self._form)
        output = self._sandbox.run([what], content)
        return _decoded(output, answer, self._form)


def _encoded(message: Message, form: Format) -> bytes:
    if form == "json":
        return json_format.MessageToJson(message, indent=None).encode()
    content = message.SerializeToString()
    return _LENGTH.pack(len(content)) + content


def _decoded(output: bytes, answer: type[Answer], form: Format) -> Answer:
    """Return the message in a program's output; bounded in time and memory whatever the bytes are."""
    message = answer()
    try:
        if form == "json":
            if len(output) > MESSAGE_BYTES:
                raise _nonsense(f"{len(output)} bytes of JSON; at most {MESSAGE_BYTES}, protobuf may have more")
            json_format.Parse(output, message, max_recursion_depth=64)
            return message
        if len(output) < _LENGTH.size or _LENGTH.unpack_from(output)[0] != len(output) - _LENGTH.size:
            raise _nonsense(f"{len(output)} bytes that are not one frame: four bytes of length, then the message")
        content = output[_LENGTH.size :]
        check_fields(content, answer, most=_MOST_PARTS)
        message.ParseFromString(content)
    except (DecodeError, json_format.ParseError, ValueError, RecursionError) as error:
        raise _nonsense(f"no {answer.DESCRIPTOR.name}: {str(error)[:200]}") from None
    except Invalid as error:
        if error.reason == _NONSENSE:
            raise
        raise _nonsense(error.message) from None
    return message


def _checked_generator(generator: pb.Generator) -> pb.Generator:
    """Refuse a description that could mislead or busy whoever reads it."""
    try:
        ids.parse_name("generators", generator.name, field="name")
    except Invalid as error:
        raise _nonsense(error.message) from None
    for name, text in (("version", generator.version), ("description", generator.description)):
        if len(text) > _TEXT_CHARS or not all(char.isprintable() or char == "\n" for char in text):
            raise _nonsense(f"{name}: too long, or not printable")
    if not set(generator.spaces) <= {"envelope", "chain", "fixed", "cell"}:
        raise _nonsense(f"spaces: {sorted(generator.spaces)[:8]}; use envelope, chain, fixed or cell")
    try:
        Draft202012Validator.check_schema(read_settings_schema(generator.settings_schema, field="settings_schema"))
    except Invalid as error:
        raise _nonsense(error.message) from None
    except SchemaError as error:
        raise _nonsense(f"settings_schema: {error.message[:200]}") from None
    return generator


def _nonsense(what: str) -> Invalid:
    return Invalid(_NONSENSE, f"the program's answer: {what}", field="program")
