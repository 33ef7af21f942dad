"""What the failure of any of our programs looks like from outside: sentences on standard error, and an exit code."""

import json
import os
import select
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from nasmesh.clock import new_id
from nasmesh.errors import Busy, Conflict, Invalid, NasmeshError, NotFound, Raced, Unavailable
from nasmesh.settings import home

OK, FAILED, USAGE, UNAVAILABLE, NOT_FOUND, CONFLICT, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130
_CODES: tuple[tuple[type[NasmeshError], int], ...] = (
    (Invalid, USAGE),
    (NotFound, NOT_FOUND),
    (Conflict, CONFLICT),
    (Raced, CONFLICT),
    (Unavailable, UNAVAILABLE),
    (Busy, UNAVAILABLE),
)
_SHOWN = 8


def exit_code(error: NasmeshError) -> int:
    """Return the exit code that stands for a domain error."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), FAILED)


def sentences(error: NasmeshError) -> list[str]:
    """Return the sentences for people: one for each field at fault, each naming its field."""
    violations = error.violations if isinstance(error, Invalid) else ()
    if len(violations) < 2:
        return [error.message]
    lines = [
        item.description if item.description.startswith(item.field) else f"{item.field}: {item.description}"
        for item in violations[:_SHOWN]
    ]
    rest = len(violations) - len(lines)
    return [*lines, f"and {rest} more"] if rest else lines


def visible(text: str) -> str:
    """Return a text for a terminal: names of files and columns are somebody's, and may hold what a terminal obeys."""
    return "".join("?" if (char < " " and char not in "\t\n") or "\x7f" <= char <= "\x9f" else char for char in text)


def tell(error: NasmeshError, *, as_json: bool = False) -> int:
    """Print an error, one line a field, and return its exit code; with `as_json` an object on stdout as well."""
    for line in sentences(error):
        sys.stderr.write(f"error: {visible(line)}\n")
    if as_json:
        _tell_json(error.reason, error.message, error.field)
    return exit_code(error)


def tell_unexpected(error: BaseException, *, as_json: bool = False) -> int:
    """Keep the trace of an error that nobody foresaw in a file, print where, and return the exit code."""
    identifier = new_id()[:12]
    path = home() / "logs" / f"cli-{identifier}.log"
    kept = _keep(path, "".join(traceback.format_exception(error)))
    where = f"the details are in {path}" if kept else f"{type(error).__name__}: {str(error)[:200]}"
    message = f"something unexpected happened ({identifier}); {where}"
    sys.stderr.write(f"error: {message}\n")
    if as_json:
        _tell_json("UNEXPECTED", message, "")
    return FAILED


def guarded(main: Callable[[], int], *, as_json: bool = False) -> int:
    """Return what a program's `main` returns; an error of the domain, or Ctrl-C, becomes what people see of it."""
    try:
        return main()
    except NasmeshError as error:
        return tell(error, as_json=as_json)
    except KeyboardInterrupt:
        return INTERRUPTED


def guarded_command(main: Callable[[], int], *, as_json: bool) -> int:
    """As guarded, for a program that a person waits for: whatever else goes wrong is kept in a file, never shown."""
    try:
        code = guarded(main, as_json=as_json)
        sys.stdout.flush()
        return code
    except BrokenPipeError as error:
        return FAILED if _is_unread() else tell_unexpected(error, as_json=as_json)
    except Exception as error:  # noqa: BLE001 - the last resort: a person never sees a stack trace
        return tell_unexpected(error, as_json=as_json)


def _is_unread() -> bool:
    """Say whether whoever read our standard output has gone (`| head`); what is left of it then goes nowhere."""
    watched = select.poll()
    watched.register(sys.stdout.fileno(), 0)
    if not any(event & select.POLLERR for _, event in watched.poll(0)):
        return False
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
    return True


def _tell_json(reason: str, message: str, field: str) -> None:
    body = {"reason": reason, "message": message, "field": field}
    sys.stdout.write(json.dumps({"error": body}, ensure_ascii=False) + "\n")


def _keep(path: Path, text: str) -> bool:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError:  # a full disk must not hide the error itself
        return False
    return True
