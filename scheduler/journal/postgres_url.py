"""The URL of a journal in PostgreSQL: what it may say, and what the driver is told."""

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from nasmesh.errors import Invalid
from nasmesh.settings import is_loopback

SCHEME = "postgresql"
_EXAMPLE = "postgresql://USER@HOST:PORT/DATABASE?sslmode=verify-full&passfile=FILE"
_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_VERIFIED = ("verify-ca", "verify-full")
_FILES = ("passfile", "sslrootcert", "sslcert", "sslkey")
_PORT = 5432
# Seconds after which a connection over which nothing comes is given up, by this end and by the server's. The server's
# are longer: who has lost it stops before another may take over.
CONNECT_S = 5
_CLIENT = {"keepalives_idle": 1, "keepalives_interval": 1, "keepalives_count": 3, "tcp_user_timeout": 4000}
_SERVER = {"tcp_keepalives_idle": 4, "tcp_keepalives_interval": 1, "tcp_keepalives_count": 3, "tcp_user_timeout": 7000}


@dataclass(frozen=True, slots=True)
class PostgresPlace:
    """A journal in a database. `parameters` are the driver's; `shown` names the place for people, without secrets."""

    shown: str
    database: str
    parameters: dict[str, str | int] = field(repr=False)
    unverified: bool = False
    """Whether the connection leaves this machine without knowing whom it reaches."""

    def __str__(self) -> str:
        """Return what people read."""
        return self.shown


def is_postgres(url: str) -> bool:
    """Say whether a journal's URL is one of PostgreSQL, sound or not."""
    return url.partition(":")[0] in (SCHEME, "postgres")


def parse(url: str) -> PostgresPlace:
    """Return the place that a URL names.

    Parameters: sslmode, and the files passfile, sslrootcert, sslcert and sslkey. Beyond this machine sslmode is
    verify-full unless the URL says otherwise. Raises Invalid (JOURNAL_URL_INVALID, JOURNAL_URL_SECRET).
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or _PORT
        given = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    except ValueError:
        raise _invalid("it cannot be read") from None
    user, database = unquote(parts.username or ""), unquote(parts.path.removeprefix("/"))
    if parts.password is not None or "password" in given:
        raise Invalid(
            "JOURNAL_URL_SECRET",
            "journal: a password in the URL is seen by everybody who lists processes or reads logs; write"
            " HOST:PORT:DATABASE:USER:PASSWORD to a file of mode 0600 and name it with passfile=FILE",
            field="journal",
        )
    if parts.scheme != SCHEME or not user or not host or not database or "/" in database or parts.fragment:
        raise _invalid("it does not name user, host and database")
    unknown = sorted(given.keys() - {"sslmode", *_FILES})
    if unknown:
        raise _invalid(f"it has no parameter {unknown[0][:40]!r}")
    here = is_loopback(host)
    mode = given.get("sslmode", "prefer" if here else "verify-full")
    if mode not in _MODES:
        raise _invalid(f"sslmode is one of {', '.join(_MODES)}")
    files = {name: str(Path(given[name]).expanduser().absolute()) for name in _FILES if given.get(name)}
    if mode in _VERIFIED:  # without a file of its own: the authorities that this machine trusts
        files.setdefault("sslrootcert", "system" if mode == "verify-full" else files.get("sslrootcert", ""))
        if not files["sslrootcert"]:
            raise _invalid("sslmode=verify-ca needs sslrootcert=FILE")
    told = f"{SCHEME}://{user}@{_bracketed(host)}:{port}/{database}"
    options = " ".join(f"-c {name}={value}" for name, value in {**_SERVER, "client_encoding": "UTF8"}.items())
    known: dict[str, str | int] = {"user": user, "host": host, "port": port, "dbname": database, "sslmode": mode}
    known |= {"connect_timeout": CONNECT_S, "application_name": "nasmesh", "options": options, "gssencmode": "disable"}
    return PostgresPlace(told, database, {**known, **_CLIENT, **files}, unverified=not here and mode not in _VERIFIED)


def _bracketed(host: str) -> str:
    try:
        return f"[{host}]" if ipaddress.ip_address(host).version == 6 else host
    except ValueError:
        return host


def _invalid(why: str) -> Invalid:
    return Invalid("JOURNAL_URL_INVALID", f"journal: {why}; write {_EXAMPLE}", field="journal")
