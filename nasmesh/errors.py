# ruff: noqa: N818  (the names are the vocabulary of callers: what went wrong, without "Error" nine times)
"""The domain's errors: what went wrong, by whom it can be mended, and the sentence for people.

Code raises the narrowest of these with a machine-readable reason and the offending field; nasmesh.rpc.status maps
them to and from gRPC. The tree:

    NasmeshError
    ├── Invalid            the request is wrong: fix the field named
    │   └── Rejected       the network is refused: drop it
    ├── NotFound           there is no such thing
    ├── Conflict           the id is taken by something else
    ├── Stale              superseded, or not in a state for this: stop, do not retry
    ├── Raced              somebody else was first: read again, then decide
    ├── Compacted          the history asked for is gone: list, then watch from there
    ├── Busy               no capacity now: wait retry_after_s
    ├── Unavailable        try again with back-off
    ├── Denied             not allowed
    └── Unauthenticated    unknown caller
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One field of a request that is wrong, with what is wrong and how to mend it."""

    field: str
    description: str


class NasmeshError(Exception):
    """Base of every error that may reach a caller; `message` is public text, never a secret or a payload."""

    def __init__(self, reason: str, message: str, *, field: str = "", metadata: dict[str, str] | None = None) -> None:
        """Keep `reason` (UPPER_SNAKE, for scripts), `message` (one sentence, for people) and the `field` at fault."""
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.field = field
        self.metadata = dict(metadata or {})


class Invalid(NasmeshError):
    """The request is wrong; repeating it cannot help."""

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        field: str = "",
        violations: Sequence[FieldViolation] = (),
        metadata: dict[str, str] | None = None,
    ) -> None:
        """Keep every wrong field; with one field, `violations` may be left out."""
        super().__init__(reason, message, field=field, metadata=metadata)
        self.violations = tuple(violations) or ((FieldViolation(field, message),) if field else ())


class Rejected(Invalid):
    """A network is refused by admission or lowering; `field` names the node or block."""


class NotFound(NasmeshError):
    """There is no such thing."""


class Conflict(NasmeshError):
    """The id exists with another body."""


class Stale(NasmeshError):
    """A newer attempt, epoch or state exists; stop working and do not retry."""


class Raced(NasmeshError):
    """Somebody else was first; read again, then decide."""


class Compacted(NasmeshError):
    """The history asked for is no longer kept."""


class Busy(NasmeshError):
    """No capacity now."""

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        retry_after_s: float = 1.0,
        field: str = "",
        metadata: dict[str, str] | None = None,
    ) -> None:
        """Keep how long the caller should wait, in seconds."""
        super().__init__(reason, message, field=field, metadata=metadata)
        self.retry_after_s = retry_after_s


class Unavailable(NasmeshError):
    """A passing fault; try again with back-off."""


class Denied(NasmeshError):
    """The caller may not do this."""


class Unauthenticated(NasmeshError):
    """The caller is unknown."""
