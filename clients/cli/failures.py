"""What the exit codes of the command mean."""

from nasmesh.exits import CONFLICT, FAILED, INTERRUPTED, NOT_FOUND, OK, UNAVAILABLE, USAGE

EXIT_CODES = {
    OK: "done",
    FAILED: "the search failed or was cancelled, the scheduler refused, or something unexpected happened",
    USAGE: "wrong usage or wrong input",
    UNAVAILABLE: "the scheduler cannot be reached, or a port or a journal is in use",
    NOT_FOUND: "there is no such thing",
    CONFLICT: "an id or a folder is taken by something else",
    INTERRUPTED: "interrupted with Ctrl-C",
}
