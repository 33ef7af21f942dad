"""Tokens: 256 random bits that are shown once, kept as SHA-256 in a file that servers read again when it changes.

Nothing here sends a token; nasmesh.rpc.credentials does, and only over TLS.
"""

import fcntl
import hashlib
import hmac
import json
import os
import re
import secrets
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from nasmesh.clock import Clock, SystemClock
from nasmesh.errors import Conflict, Invalid, NotFound, Unauthenticated
from nasmesh.limits import TOKEN_DAYS, TOKEN_DAYS_MAX, TOKENS
from nasmesh.logs import get_logger
from nasmesh.rpc.identity import Identity, Role, check_caller_name
from nasmesh.rpc.secret_files import Stamp, make_private_directory, read_secret, stamp, write_secret

PREFIX = "nmt_"
_TEXT = re.compile(r"nmt_[A-Za-z0-9_-]{43}")
_BYTES = 32
_DAY_S = 86_400.0
_ALONE = frozenset({Role.ADMIN})
_VERSION = 1
_PEM = b"-----BEGIN CERTIFICATE-----"
_log = get_logger("tokens")


@dataclass(frozen=True, slots=True)
class Token:
    """One token as it is kept. Times are wall seconds since 1970; `revoked` is 0 while it is good."""

    id: str
    name: str
    scopes: tuple[str, ...]
    sha256: str
    created: float
    expires: float
    revoked: float = 0.0

    @property
    def identity(self) -> Identity:
        """Who holds it."""
        roles = frozenset(Role(scope) for scope in self.scopes)
        return Identity(f"{'agents' if roles == {Role.AGENT} else 'clients'}/{self.name}", roles)

    def state(self, now: float) -> str:
        """Return "good", "expired" or "revoked"."""
        return "revoked" if self.revoked else "expired" if now >= self.expires else "good"


def parse_scopes(text: str, *, field: str = "scope") -> tuple[str, ...]:
    """Return the scopes of "client:read,client:write", "agent" or "admin"; raises Invalid (SCOPE_INVALID)."""
    known = [role.value for role in Role]
    found = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    wrong = [scope for scope in found if scope not in known]
    if wrong:
        raise Invalid("SCOPE_INVALID", f"{field}: {wrong[0][:40]!r} is none of {', '.join(known)}", field=field)
    if _ALONE & {Role(scope) for scope in found} and len(found) > 1:
        raise Invalid(
            "SCOPE_INVALID", f"{field}: admin stands alone; it may already do all that clients may", field=field
        )
    return found


def check_text(text: str, *, field: str) -> str:
    """Return a token as it is written in a file, stripped; raises Invalid (TOKEN_MALFORMED), never showing it."""
    if not _TEXT.fullmatch(text.strip()):
        raise Invalid(
            "TOKEN_MALFORMED", f"{field}: the file does not hold one token as `token create` prints it", field=field
        )
    return text.strip()


class Shown(NamedTuple):
    """What a caller's file holds: its token, and perhaps the authority of the servers, as PEM."""

    token: str
    authority: bytes


def split_file(content: bytes) -> Shown:
    """Return the parts of a caller's file; neither is checked."""
    token, begins, authority = content.partition(_PEM)
    return Shown(token.decode(errors="replace"), begins + authority)


class TokenFile:
    """The tokens that a server knows. Thread-safe; every question looks whether the file has changed."""

    def __init__(self, path: Path, *, field: str = "tokens", clock: Clock | None = None) -> None:
        """Read the file; raises Invalid (FILE_UNREADABLE, SECRET_EXPOSED, TOKENS_MALFORMED)."""
        self._path = path
        self._field = field
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._stamp: Stamp = stamp(path)
        self._by_hash = _index(_load(path, field))

    def check(self, text: str) -> Token:
        """Return a presented token's record.

        Raises Unauthenticated: TOKEN_UNKNOWN, TOKEN_EXPIRED, TOKEN_REVOKED.
        """
        self._refresh()
        digest = hashlib.sha256(text.encode(errors="replace")).hexdigest()
        found = self._by_hash.get(digest[:16])
        # The index is by a part of the hash of a random secret, from which nobody learns anything; what decides is
        # compared in constant time.
        if found is None or not hmac.compare_digest(found.sha256, digest):
            raise Unauthenticated("TOKEN_UNKNOWN", "this server does not know the token; ask its operator for one")
        return self._checked(found)

    def recheck(self, token: Token) -> None:
        """Raise what check would raise now for a token that it returned before."""
        self._refresh()
        found = self._by_hash.get(token.sha256[:16])
        if found is None:
            raise Unauthenticated("TOKEN_UNKNOWN", "this server does not know the token any more")
        self._checked(found)

    def _checked(self, found: Token) -> Token:
        state = found.state(self._clock.wall())
        if state != "good":
            raise Unauthenticated(
                f"TOKEN_{state.upper()}", f"the token {found.id} of {found.name} is {state}; ask for a new one"
            )
        return found

    def _refresh(self) -> None:
        now = stamp(self._path)
        if now == self._stamp:
            return
        with self._lock:
            if now == self._stamp:
                return
            try:
                known = _index(_load(self._path, self._field))
            except Invalid as error:
                # A file that cannot be read lets nobody in: it may have been replaced to revoke a token.
                known = {}
                _log.error("tokens_unreadable", reason=error.reason, text=error.message)
            else:
                _log.info("tokens_read", count=len(known))
            self._by_hash = known
            self._stamp = now


def create(
    path: Path, name: str, scopes: Sequence[str], *, days: float = TOKEN_DAYS, clock: Clock | None = None
) -> tuple[str, Token]:
    """Add a token to a file, which is made where there is none, and return its text, once, with its record.

    Raises Invalid (NAME_INVALID, SCOPE_INVALID, DAYS_INVALID) and what reading the file raises.
    """
    check_caller_name(name, field="name")
    parse_scopes(",".join(scopes))
    check_days(days, TOKEN_DAYS_MAX)
    now = (clock or SystemClock()).wall()
    text = PREFIX + secrets.token_urlsafe(_BYTES)
    digest = hashlib.sha256(text.encode()).hexdigest()
    token = Token(digest[:8], name, tuple(scopes), digest, now, now + days * _DAY_S)
    with _locked(path):
        known = list(load(path))
        if len(known) >= TOKENS:
            raise Invalid(
                "TOKENS_FULL", f"tokens: {path} holds {TOKENS} tokens; prune it with `token list`", field="tokens"
            )
        if any(held.id == token.id for held in known):
            raise Conflict("TOKEN_EXISTS", "two tokens with the same id; try again", field="tokens")
        _store(path, [*_recent(known, now), token])
    return text, token


def revoke(path: Path, which: str, *, clock: Clock | None = None) -> list[Token]:
    """Revoke the token of an id, or all of a name, and return those; raises NotFound (TOKEN_UNKNOWN)."""
    now = (clock or SystemClock()).wall()
    with _locked(path):
        known = _load(path, "tokens")
        chosen = [token for token in known if which in (token.id, token.name)]
        if not chosen:
            raise NotFound(
                "TOKEN_UNKNOWN", f"token: {path} has no token {which[:80]!r}; see `token list`", field="token"
            )
        ids = {token.id for token in chosen}
        _store(path, [replace(t, revoked=t.revoked or now) if t.id in ids else t for t in known])
    return [token for token in _load(path, "tokens") if token.id in ids]


def load(path: Path) -> list[Token]:
    """Return the tokens in a file, oldest first; none where there is no file."""
    return _load(path, "tokens") if path.exists() else []


def check_days(days: float, most: float) -> None:
    """Raise Invalid (DAYS_INVALID) for a lifetime outside 0 to `most` days."""
    if not 0 < days <= most:
        raise Invalid("DAYS_INVALID", f"days: {days:g} is not above 0 and at most {most:g}", field="days")


def _recent(known: list[Token], now: float) -> list[Token]:
    """Leave out what ended so long ago that nobody asks any more."""
    return [token for token in known if now - token.expires < TOKEN_DAYS_MAX * _DAY_S]


def _index(tokens: list[Token]) -> dict[str, Token]:
    return {token.sha256[:16]: token for token in tokens}


def _load(path: Path, field: str) -> list[Token]:
    content = read_secret(path, field=field)
    try:
        body = json.loads(content)
        if body["version"] != _VERSION:
            raise Invalid(
                "TOKENS_MALFORMED",
                f"{field}: {path} is of version {body['version']}, this is version {_VERSION}",
                field=field,
            )
        return [_parsed(row) for row in body["tokens"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Invalid(
            "TOKENS_MALFORMED",
            f"{field}: {path} is no tokens file; restore it, or remove it and create tokens anew",
            field=field,
        ) from None


def _parsed(row: dict[str, Any]) -> Token:
    digest = str(row["sha256"])
    scopes = tuple(str(scope) for scope in row["scopes"])
    if not re.fullmatch(r"[0-9a-f]{64}", digest) or not scopes or not set(scopes) <= {role.value for role in Role}:
        raise ValueError("row")
    times = {key: float(row[key]) for key in ("created", "expires", "revoked")}
    return Token(digest[:8], check_caller_name(str(row["name"]), field="name"), scopes, digest, **times)


def _store(path: Path, tokens: Sequence[Token]) -> None:
    body = {"version": _VERSION, "tokens": [asdict(token) for token in tokens]}
    write_secret(path, json.dumps(body, indent=1).encode() + b"\n", field="tokens", replace=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a file's neighbour, so that two commands at once do not lose each other's change."""
    make_private_directory(path.parent, field="tokens")
    try:
        descriptor = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Invalid(
            "FILE_UNWRITABLE", f"tokens: {path} cannot be written: {error.strerror}", field="tokens"
        ) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
