"""Fills any message from its descriptor with what a careless or hostile caller may send. Seeded: a message replays."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

_INTEGERS = (0, 1, -1, 2, 7, 100, 1000, 2**31 - 1, -(2**31), 2**32 - 1, 2**63 - 1, -(2**63), 2**64 - 1)
_FLOATS = (0.0, -0.0, 1.0, -1.0, 0.5, 1e-300, 1e300, float("inf"), float("-inf"), float("nan"))
_TEXTS = (
    "",
    "a",
    "searches/a",
    "searches/a/trials/1",
    "searches/../agents/x",
    "networks/" + "0" * 64,
    "generators/nac",
    "datasets/digits",
    "agents/worker",
    "%2e%2e%2f",
    "a\x00b",
    "ÿ" * 40,
    "𝔫𝔞𝔰",
    "\u202e",
    "state=SUCCEEDED",
    "outcome=FAILED,final=true",
    "label.=",
    "spec.budget",
    "*",
    "x" * 5000,
    "-1",
    "{}",
    "'; DROP TABLE events; --",
)
_KINDS = FieldDescriptor
_RANGES = {
    _KINDS.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    _KINDS.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    _KINDS.CPPTYPE_UINT32: (0, 2**32 - 1),
    _KINDS.CPPTYPE_UINT64: (0, 2**64 - 1),
}


class Filler:
    """Makes messages from a seed; `texts` are further strings to use: names of things that exist."""

    def __init__(self, seed: int, texts: Sequence[str] = (), *, depth: int = 5) -> None:
        self._random = random.Random(seed)
        self._texts = (*_TEXTS, *texts * 3)
        self._depth = depth

    def fill(self, descriptor: Descriptor) -> Message:
        """Return a message with some of its fields set."""
        message = GetMessageClass(descriptor)()
        self._fill(message, self._depth)
        return message

    def encoded(self, descriptor: Descriptor) -> bytes:
        """Return a message's bytes; one in ten is cut, lengthened or changed."""
        content = self.fill(descriptor).SerializeToString()
        if self._random.random() < 0.9:
            return content
        spoiled = bytearray(content)
        match self._random.randrange(4):
            case 0:
                del spoiled[self._random.randrange(len(spoiled) + 1) :]
            case 1:
                spoiled += self._random.randbytes(self._random.randrange(1, 20))
            case 2 if spoiled:
                for _ in range(3):
                    spoiled[self._random.randrange(len(spoiled))] = self._random.randrange(256)
            case _:
                spoiled = bytearray(self._random.randbytes(self._random.randrange(60)))
        return bytes(spoiled)

    def _fill(self, message: Message, depth: int) -> None:
        dense = self._random.random()
        for field in message.DESCRIPTOR.fields:
            if self._random.random() > 0.3 + dense / 2:
                continue
            if field.is_repeated:
                self._fill_repeated(message, field, depth)
            elif field.cpp_type == _KINDS.CPPTYPE_MESSAGE:
                if depth:
                    inner = getattr(message, field.name)
                    inner.SetInParent()
                    self._fill(inner, depth - 1)
            else:
                setattr(message, field.name, self._value(field))

    def _fill_repeated(self, message: Message, field: FieldDescriptor, depth: int) -> None:
        target: Any = getattr(message, field.name)
        entry = field.message_type
        count = self._random.choice((0, 1, 1, 2, 3, 40))
        for _ in range(count if depth == self._depth or count < 40 else 2):
            if entry is not None and entry.GetOptions().map_entry:
                key, value = entry.fields_by_name["key"], entry.fields_by_name["value"]
                if value.cpp_type == _KINDS.CPPTYPE_MESSAGE:
                    self._fill(target[self._value(key)], max(0, depth - 1))
                else:
                    target[self._value(key)] = self._value(value)
            elif entry is None:
                target.append(self._value(field))
            elif depth:
                self._fill(target.add(), depth - 1)

    def _value(self, field: FieldDescriptor) -> Any:
        draw = self._random
        if field.cpp_type in _RANGES:
            low, high = _RANGES[field.cpp_type]
            number = draw.choice(_INTEGERS) if draw.random() < 0.7 else draw.randint(low, high)
            return min(max(number, low), high)
        match field.cpp_type:
            case _KINDS.CPPTYPE_BOOL:
                return draw.random() < 0.5
            case _KINDS.CPPTYPE_ENUM:
                known = [value.number for value in field.enum_type.values]
                return draw.choice(known) if draw.random() < 0.9 else draw.choice((99, -1, 2**31 - 1))
            case _KINDS.CPPTYPE_FLOAT | _KINDS.CPPTYPE_DOUBLE:
                return draw.choice(_FLOATS) if draw.random() < 0.8 else draw.uniform(-1e6, 1e6)
        text = draw.choice(self._texts)
        if field.type == _KINDS.TYPE_BYTES:
            return text.encode() if draw.random() < 0.5 else draw.randbytes(draw.randrange(40))
        return text if draw.random() < 0.9 else text[: draw.randrange(len(text) + 1)] + draw.choice(_TEXTS)[:80]
