"""Prints results: one JSON value for scripts, a table or a sentence for people."""

import json
import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from nasmesh.exits import visible

if TYPE_CHECKING:
    from google.protobuf.message import Message

_GAP = "  "
_BELOW = "    "
_LEAST_ROOM = 24
_BOLD, _PLAIN = "\x1b[1m", "\x1b[0m"


def print_json(value: object) -> None:
    """Print one JSON value on stdout; protobuf messages in it must be dictionaries already."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2 if sys.stdout.isatty() else None) + "\n")
    sys.stdout.flush()


def message_dict(message: "Message") -> dict[str, object]:
    """Return a message in protobuf's JSON mapping: lowerCamelCase names, 64-bit integers as text, defaults left out."""
    from google.protobuf.json_format import MessageToDict

    return dict(MessageToDict(message))


def print_messages(messages: "Iterable[Message]") -> None:
    """Print messages as one JSON array."""
    print_json([message_dict(message) for message in messages])


def print_line(text: str) -> None:
    """Print a line for people on stdout."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def print_table(headers: Sequence[str], rows: Iterable[Sequence[str]], *, empty: str) -> None:
    """Print a table for people, or `empty` where it has no rows; a header that starts with ">" is aligned right.

    A terminal's width is kept by the last column alone, the one with sentences: it folds, or where hardly any room is
    left it stands below its row. The others hold names and numbers, which are of no use in pieces. Scripts that forget
    --json get a row a line, whatever its length. Headers that are all empty are not printed.
    """
    cells = [[visible(cell) for cell in row] for row in rows]
    if not cells:
        print_line(empty)
        return
    on_terminal = sys.stdout.isatty()
    titles = [header.lstrip(">") for header in headers]
    if any(titles):
        cells.insert(0, titles)
    width = shutil.get_terminal_size().columns if on_terminal else None
    lines = laid_out(cells, [header.startswith(">") for header in headers], width)
    if on_terminal and any(titles):
        lines[0] = f"{_BOLD}{lines[0]}{_PLAIN}"
    print_line("\n".join(lines))


def laid_out(rows: Sequence[Sequence[str]], right: Sequence[bool], width: int | None) -> list[str]:
    """Return a table's lines, the columns of `right` aligned right, the last one within `width`; None: a row a line."""
    from rich.cells import cell_len

    widths = [max(cell_len(row[index]) for row in rows) for index in range(len(right))]
    before = sum(size + len(_GAP) for size in widths[:-1])
    below = width is not None and width - before < min(widths[-1], _LEAST_ROOM)
    start = len(_BELOW) if below else before
    lines: list[str] = []
    for row in rows:
        *firsts, last = (
            " " * (size - cell_len(text)) + text if to_right else text + " " * (size - cell_len(text))
            for text, size, to_right in zip(row, widths, right, strict=True)
        )
        parts = _folded(last.rstrip(), None if width is None else max(width - start, _LEAST_ROOM))
        head = "".join(first + _GAP for first in firsts)
        if below:
            lines.append(head)
        else:
            parts = [head + parts[0], *(" " * start + part for part in parts[1:])]
        lines += [_BELOW + part for part in parts if part] if below else parts
    return [line.rstrip() for line in lines]


def _folded(text: str, width: int | None) -> list[str]:
    """Return a text in lines of at most `width` columns, at least one; None: as it is."""
    if width is None:
        return [text]
    from rich.console import Console
    from rich.text import Text

    return [line.plain.rstrip() for line in Text(text).wrap(Console(width=width), width, overflow="fold")] or [""]
