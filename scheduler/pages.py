"""Pages and filters of lists."""

import base64
import binascii
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from google.protobuf.message import Message

from nasmesh import limits
from nasmesh.errors import Invalid

# A page ends early before it outgrows a message; the rest of it is room for the envelope.
_PAGE_BYTES = limits.MESSAGE_BYTES * 3 // 4

Item = TypeVar("Item")
Listed = TypeVar("Listed", bound=Message)


def start_after(kind: str, token: str) -> str:
    """Return the key that a page starts after, "" for the first page; raises Invalid (PAGE_TOKEN_INVALID)."""
    if not token:
        return ""
    try:
        text = base64.urlsafe_b64decode(token.encode()).decode()
    except (binascii.Error, ValueError):
        text = ""
    found, _, key = text.partition(":")
    if found != kind or not key:
        raise Invalid(
            "PAGE_TOKEN_INVALID", "page_token: not one of this list; start from the first page", field="page_token"
        )
    return key


def start_index(kind: str, token: str) -> int:
    """Return the index that a page starts after, for lists with numbers as keys; -1 for the first page."""
    key = start_after(kind, token)
    if key and not (key.isascii() and key.isdigit() and len(key) < 19):
        raise Invalid("PAGE_TOKEN_INVALID", "page_token: not one of this list", field="page_token")
    return int(key) if key else -1


def take(kind: str, size: int, rows: Iterable[tuple[str, Callable[[], Listed]]]) -> tuple[list[Listed], str]:
    """Return a page of (key, make message) rows and the next page's token; raises Invalid (FIELD_INVALID)."""
    return take_weighed(kind, size, rows, lambda message: message.ByteSize())


def take_weighed(
    kind: str, size: int, rows: Iterable[tuple[str, Callable[[], Item]]], weigh: Callable[[Item], int]
) -> tuple[list[Item], str]:
    """Return a page as `take` does, of items whose encoded size `weigh` tells."""
    if not 0 <= size <= limits.PAGE_SIZE_MAX:
        raise Invalid("FIELD_INVALID", f"page_size must be 1 to {limits.PAGE_SIZE_MAX}, not {size}", field="page_size")
    most = size or limits.PAGE_SIZE
    items: list[Item] = []
    last, total = "", 0
    for key, make in rows:
        item = make() if len(items) < most else None
        total += weigh(item) if item is not None else 0
        if item is None or (items and total > _PAGE_BYTES):
            return items, base64.urlsafe_b64encode(f"{kind}:{last}".encode()).decode()
        items.append(item)
        last = key
    return items, ""


def parse_filter(text: str, known: Mapping[str, Callable[[str], bool]]) -> list[tuple[str, str]]:
    """Return the (name, value) terms of a filter; names ending in "." are prefixes; raises Invalid (FILTER_INVALID).

    `known` maps a name to a test of its values.
    """
    terms = []
    for term in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = term.partition("=")
        test = known.get(name) or known.get(name.partition(".")[0] + ".")
        if not equals or test is None or not test(value):
            names = ", ".join(f"{key}KEY" if key.endswith(".") else key for key in known)
            raise Invalid(
                "FILTER_INVALID", f"filter: {term[:80]!r} is not NAME=VALUE with one of {names}", field="filter"
            )
        terms.append((name, value))
    return terms
