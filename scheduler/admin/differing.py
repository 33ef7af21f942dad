"""Where two states, or two messages, differ: a path and both sides."""

import dataclasses
from collections.abc import Iterator, Mapping
from itertools import islice, zip_longest

from google.protobuf.message import Message

_CHARS = 300


@dataclasses.dataclass(frozen=True, slots=True)
class Difference:
    """A place with what is there on either side."""

    where: str
    one: str
    other: str

    def __str__(self) -> str:
        """Say it in one line."""
        return f"{self.where} is {self.one} and {self.other}"


def differences(one: object, other: object, where: str, *, most: int = 20) -> list[Difference]:
    """Return the first places at which two values of the same kind differ; nothing for equal ones."""
    return list(islice(_differences(one, other, where), most))


def _differences(one: object, other: object, where: str) -> Iterator[Difference]:
    if one == other:
        return
    if dataclasses.is_dataclass(one) and type(one) is type(other):
        for known in dataclasses.fields(one):
            if known.compare:
                yield from _differences(getattr(one, known.name), getattr(other, known.name), f"{where}.{known.name}")
    elif isinstance(one, Message) and isinstance(other, Message) and one.DESCRIPTOR is other.DESCRIPTOR:
        yield from _message_differences(one, other, where)
    elif isinstance(one, Mapping) and isinstance(other, Mapping):
        yield from _mapping_differences(one, other, where)
    elif _is_list(one) and _is_list(other):
        for index, (mine, yours) in enumerate(zip_longest(one, other)):  # type: ignore[call-overload]
            yield from _differences(mine, yours, f"{where}[{index}]")
    else:
        yield Difference(where, _short(one), _short(other))


def _message_differences(one: Message, other: Message, where: str) -> Iterator[Difference]:
    for known in one.DESCRIPTOR.fields:
        if known.has_presence and one.HasField(known.name) != other.HasField(known.name):
            sides = [_short(getattr(m, known.name)) if m.HasField(known.name) else "unset" for m in (one, other)]
            yield Difference(f"{where}.{known.name}", *sides)
        else:
            yield from _differences(getattr(one, known.name), getattr(other, known.name), f"{where}.{known.name}")


def _mapping_differences(
    one: Mapping[object, object], other: Mapping[object, object], where: str
) -> Iterator[Difference]:
    found = False
    for key in dict.fromkeys([*one, *other]):
        mine = one.get(key)
        yours = other.get(key)
        for difference in _differences(mine, yours, f"{where}[{key!s}]"):
            found = True
            yield difference
    if not found and list(one) != list(other):
        yield Difference(where, "in one order", "in another")


def _is_list(value: object) -> bool:
    return hasattr(value, "__getitem__") and not isinstance(value, str | bytes | bytearray | Mapping | Message)


def _short(value: object) -> str:
    if value is None:
        return "nothing"
    text = value.hex() if isinstance(value, bytes | bytearray) else " ".join(str(value).split())
    return text if 0 < len(text) <= _CHARS else f"{text[:_CHARS]}…" if text else "empty"
