"""Prints results: one JSON value for scripts, a table or a sentence for people."""

import json
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from google.protobuf.message import Message

_ENDLESS = 1_000_000


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
    """Print a table for people, or `empty` where it has no rows; a header that starts with ">" is aligned right."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    for header in headers:
        table.add_column(header.lstrip(">"), justify="right" if header.startswith(">") else "left", overflow="fold")
    count = 0
    for row in rows:
        table.add_row(*row)
        count += 1
    if not count:
        print_line(empty)
    elif sys.stdout.isatty():
        Console(highlight=False, markup=False).print(table)
    else:
        # Scripts that forget --json get a row a line: no terminal is there whose width would cut it, or be filled up.
        console = Console(width=_ENDLESS, highlight=False, markup=False)
        with console.capture() as text:
            console.print(table)
        print_line("\n".join(line.rstrip() for line in text.get().splitlines()))
