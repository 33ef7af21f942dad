"""Reads pickles of plain data (dictionaries, lists, text, numbers) without the unpickler: nothing in them can run.

The opcodes are those of protocol 4 that such data needs. There is none that names a class or calls anything, so a file
that holds code is refused before any of it is looked at.
"""

import pickletools
from typing import Any

from nasmesh.errors import Invalid

_MARK = object()
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = frozenset(
    {"BINFLOAT", "BININT", "BININT1", "BININT2", "LONG1", "SHORT_BINUNICODE", "BINUNICODE", "SHORT_BINBYTES"}
)


def read(content: bytes) -> object:
    """Return the data in a pickle; raises Invalid (PICKLE_REFUSED) for anything but plain data."""
    stack: list[Any] = []
    memo: list[Any] = []
    try:
        for opcode, argument, _ in pickletools.genops(content):
            name = opcode.name
            if name in ("PROTO", "FRAME"):
                continue
            if name == "STOP":
                return _only(stack)
            if name in _LITERALS:
                stack.append(argument)
            elif name in _CONSTANTS:
                stack.append(_CONSTANTS[name])
            elif name == "MEMOIZE":
                memo.append(stack[-1])
            elif name in ("BINGET", "LONG_BINGET"):
                stack.append(memo[int(str(argument))])
            else:
                _build(name, stack)
    except (IndexError, ValueError, TypeError) as error:
        raise _refused(f"it is broken: {str(error)[:200]}") from error
    raise _refused("it has no end")


def _build(name: str, stack: list[Any]) -> None:
    """Do what an opcode does that makes or fills a container."""
    if name == "EMPTY_DICT":
        stack.append({})
    elif name == "EMPTY_LIST":
        stack.append([])
    elif name == "MARK":
        stack.append(_MARK)
    elif name == "APPENDS":
        items = _after_mark(stack)
        _container(stack, list).extend(items)
    elif name == "SETITEMS":
        items = _after_mark(stack)
        _container(stack, dict).update(zip(items[::2], items[1::2], strict=True))
    elif name == "SETITEM":
        key, value = stack[-2:]
        del stack[-2:]
        _container(stack, dict)[key] = value
    elif name == "APPEND":
        value = stack.pop()
        _container(stack, list).append(value)
    else:
        raise _refused(f"it has the instruction {name}; only plain numbers and text are read")


def _after_mark(stack: list[Any]) -> list[Any]:
    """Return what lies above the last mark, which goes with it."""
    begin = next((index for index in range(len(stack) - 1, -1, -1) if stack[index] is _MARK), None)
    if begin is None:
        raise _refused("an instruction ends what did not begin")
    items = stack[begin + 1 :]
    del stack[begin:]
    return items


def _container(stack: list[Any], kind: type) -> Any:
    if not isinstance(stack[-1], kind):
        raise _refused("an instruction fills what is no container")
    return stack[-1]


def _only(stack: list[Any]) -> object:
    if len(stack) != 1 or stack[0] is _MARK:
        raise _refused("it does not end with one value")
    return stack[0]


def _refused(why: str) -> Invalid:
    return Invalid("PICKLE_REFUSED", f"the pickle is not read: {why}", field="from")
