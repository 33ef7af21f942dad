"""What a command's failure looks like from outside: one sentence, one exit code, never a stack trace."""

import json
import sys
import traceback
from pathlib import Path

from nasmesh.clock import new_id
from nasmesh.errors import Busy, Conflict, Denied, Invalid, NasmeshError, NotFound, Raced, Unauthenticated, Unavailable
from nasmesh.settings import home

OK, FAILED, USAGE, UNAVAILABLE, NOT_FOUND, CONFLICT, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130
EXIT_CODES = {
    OK: "done",
    FAILED: "the search failed or was cancelled, the scheduler refused, or something unexpected happened",
    USAGE: "wrong usage or wrong input",
    UNAVAILABLE: "the scheduler cannot be reached, or a port is in use",
    NOT_FOUND: "there is no such thing",
    CONFLICT: "an id or a folder is taken by something else",
    INTERRUPTED: "interrupted with Ctrl-C",
}
_CODES: tuple[tuple[type[NasmeshError], int], ...] = (
    (Invalid, USAGE),
    (NotFound, NOT_FOUND),
    (Conflict, CONFLICT),
    (Raced, CONFLICT),
    (Unavailable, UNAVAILABLE),
    (Busy, UNAVAILABLE),
    (Denied, FAILED),
    (Unauthenticated, FAILED),
)
_SHOWN = 8


def exit_code(error: NasmeshError) -> int:
    """Return the exit code of a domain error."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), FAILED)


def tell(error: NasmeshError, *, as_json: bool) -> int:
    """Print an error, one line a field, and return its exit code; with `as_json` an object on stdout as well."""
    for line in sentences(error):
        print(f"error: {line}", file=sys.stderr)  # noqa: T201 - this is the program's voice
    if as_json:
        body = {"reason": error.reason, "message": error.message, "field": error.field}
        print(json.dumps({"error": body}, ensure_ascii=False))  # noqa: T201
    return exit_code(error)


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


def tell_unexpected(error: BaseException) -> int:
    """Keep the trace of an unexpected error in a file, print where, and return the exit code."""
    identifier = new_id()[:12]
    text = "".join(traceback.format_exception(error))
    path = home() / "logs" / f"cli-{identifier}.log"
    where = f"the details are in {path}" if _keep(path, text) else f"{type(error).__name__}: {str(error)[:200]}"
    print(f"error: something unexpected happened ({identifier}); {where}", file=sys.stderr)  # noqa: T201
    return FAILED


def _keep(path: Path, text: str) -> bool:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError:  # a full disk must not hide the error itself
        return False
    return True
