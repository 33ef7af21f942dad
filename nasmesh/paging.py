"""Pages of a list that is ordered by something unique. Tokens are opaque to callers and hold the last key given."""

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import TypeVar

from nasmesh.errors import Invalid
from nasmesh.limits import PAGE_SIZE, PAGE_SIZE_MAX

Item = TypeVar("Item")


def page(items: Sequence[Item], key: Callable[[Item], str], *, size: int, token: str) -> tuple[Sequence[Item], str]:
    """Return one page and the token of the next, empty at the end. Size 0 stands for the default.

    Raises Invalid (PAGE_SIZE_INVALID, PAGE_TOKEN_INVALID): the token is foreign, or its item is gone.
    """
    if not 0 <= size <= PAGE_SIZE_MAX:
        raise Invalid("PAGE_SIZE_INVALID", f"page_size must be 1 to {PAGE_SIZE_MAX}, not {size}", field="page_size")
    first = _after(items, key, token) if token else 0
    last = first + (size or PAGE_SIZE)
    chosen = items[first:last]
    return chosen, _encode(key(chosen[-1])) if last < len(items) else ""


def _after(items: Sequence[Item], key: Callable[[Item], str], token: str) -> int:
    try:
        wanted = base64.urlsafe_b64decode(token.encode("ascii")).decode()
    except (UnicodeError, binascii.Error):
        wanted = ""
    for position, item in enumerate(items):
        if key(item) == wanted:
            return position + 1
    raise Invalid(
        "PAGE_TOKEN_INVALID",
        "page_token: it names no place in this list; start from the first page",
        field="page_token",
    )


def _encode(key: str) -> str:
    return base64.urlsafe_b64encode(key.encode()).decode("ascii")
