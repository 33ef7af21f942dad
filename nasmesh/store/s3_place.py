"""Where an S3 store is, as a URL says it, and the keys for it, which no URL may hold."""

import os
import re
import stat
import threading
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qsl, urlsplit

from minio.credentials.credentials import Credentials

from nasmesh.errors import Invalid
from nasmesh.logs import get_logger
from nasmesh.settings import aws_keys, parse_address

REGION = "us-east-1"
"""What servers that have no regions call theirs."""
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_WORDS = frozenset({"endpoint", "region", "secure", "ca"})
_LINES = frozenset({"access_key", "secret_key", "session_token"})
_FORM = "s3://BUCKET?endpoint=HOST:PORT[&region=R][&secure=0][&ca=FILE]"
_FILE_BYTES = 64 * 1024
_NONE: tuple[int, ...] = ()
_log = get_logger("s3")


class Place(NamedTuple):
    """A bucket at an endpoint; `ca`: file with the authority of its certificate, the usual ones where None."""

    bucket: str
    endpoint: str
    region: str
    secure: bool
    ca: Path | None

    @property
    def root(self) -> str:
        """URL of the bucket."""
        return f"{'https' if self.secure else 'http'}://{self.endpoint}/{self.bucket}"


def parse_place(url: str) -> Place:
    """Return what an s3: URL names; raises Invalid (STORE_URL_INVALID) that never shows a secret written into one."""
    parts = urlsplit(url)
    if "@" in url:
        raise _wrong("keys have no place in a URL, which is logged; use NASMESH_STORE_CREDENTIALS=FILE")
    if parts.path.strip("/") or parts.fragment:
        raise _wrong(f"it names more than a bucket; use {_FORM}")
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    unknown = sorted({name for name, _ in pairs} - _WORDS)
    if unknown or len({name for name, _ in pairs}) != len(pairs):
        raise _wrong(f"{unknown[0][:40] if unknown else 'a word'} is unknown or given twice in it; use {_FORM}")
    words = dict(pairs)
    bucket = parts.netloc
    if not _BUCKET.fullmatch(bucket) or ".." in bucket:
        raise _wrong(f"{bucket[:80]!r} is no name of a bucket: 3 to 63 of a-z, 0-9, - and .")
    if not words.get("endpoint"):
        raise _wrong(f"it names no endpoint; use {_FORM}")
    secure = words.get("secure", "1")
    if secure not in ("0", "1") or (secure == "0" and words.get("ca")):
        raise _wrong("secure is 0 (plain HTTP) or 1 (TLS), and ca= goes with TLS")
    ca = Path(words["ca"]).expanduser().absolute() if words.get("ca") else None
    if ca is not None and not ca.is_file():
        raise _wrong(f"there is no file {ca} for ca=")
    return Place(bucket, _endpoint(words["endpoint"]), words.get("region") or REGION, secure == "1", ca)


def _endpoint(text: str) -> str:
    """Return HOST:PORT as it was given; a host alone stands for the usual port."""
    host = text.removesuffix("/")
    if "://" in host:
        raise _wrong("endpoint is HOST:PORT without https://; secure=0 stands for plain HTTP")
    if ":" in host.rpartition("]")[2]:
        parse_address(host, field="store")
    elif not re.fullmatch(r"[A-Za-z0-9._-]{1,253}|\[[0-9a-fA-F:]+\]", host):
        raise _wrong(f"endpoint {host[:80]!r} is not HOST:PORT")
    return host


def _wrong(why: str) -> Invalid:
    return Invalid("STORE_URL_INVALID", f"store: {why}", field="store")


class Keys:
    """The keys for a store: from a file, read again when it has changed, or from AWS's variables."""

    def __init__(self, path: Path | None) -> None:
        """Read them once; raises Invalid (STORE_CREDENTIALS_MISSING, STORE_CREDENTIALS_INVALID, SECRET_EXPOSED)."""
        self._path = path
        self._lock = threading.Lock()
        self._stamp = _NONE
        self._keys = self._read() if path else _from_variables()

    def current(self) -> Credentials:
        """Return the keys as they are now; where the file cannot be read any more, those that it had."""
        if self._path is not None:
            with self._lock:
                if _stamp(self._path) not in (self._stamp, _NONE):
                    try:
                        self._keys = self._read()
                    except Invalid as error:  # once for each change: its stamp is noted
                        _log.warning("credentials_not_taken", reason=error.reason, text=error.message)
        return self._keys

    def _read(self) -> Credentials:
        path = self._path
        assert path is not None
        self._stamp = _stamp(path)
        found = dict.fromkeys(_LINES, "")
        for number, line in enumerate(_text(path).splitlines(), 1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            name, equals, value = (part.strip() for part in line.partition("="))
            if name not in _LINES or not equals:
                raise _bad_file(path, f"line {number} is none of access_key=, secret_key=, session_token=")
            found[name] = value
        if not found["access_key"] or not found["secret_key"]:
            raise _bad_file(path, "it needs the lines access_key=… and secret_key=…")
        return Credentials(found["access_key"], found["secret_key"], found["session_token"] or None)


def _from_variables() -> Credentials:
    access, secret, session = aws_keys()
    if not access or not secret:
        raise Invalid(
            "STORE_CREDENTIALS_MISSING",
            "store: no keys for it; name a file with them in NASMESH_STORE_CREDENTIALS (mode 0600, lines access_key=… "
            "and secret_key=…)",
            field="NASMESH_STORE_CREDENTIALS",
        )
    return Credentials(access, secret, session or None)


def _stamp(path: Path) -> tuple[int, ...]:
    """Return what tells one version of a file from the next; nothing where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return _NONE
    return (found.st_ino, found.st_size, found.st_mtime_ns, found.st_mode)


def _text(path: Path) -> str:
    try:
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode) or found.st_size > _FILE_BYTES:
                raise _bad_file(path, "it is no small file")
            if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                mode = f"{found.st_mode & 0o777:04o}"
                raise Invalid(
                    "SECRET_EXPOSED",
                    f"NASMESH_STORE_CREDENTIALS: {path} holds a secret and has mode {mode}; chmod 600 {path}",
                    field="NASMESH_STORE_CREDENTIALS",
                )
            return file.read(_FILE_BYTES).decode()
    except OSError as error:
        raise _bad_file(path, f"it cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise _bad_file(path, "it is not text") from None


def _bad_file(path: Path, why: str) -> Invalid:
    return Invalid(
        "STORE_CREDENTIALS_INVALID", f"NASMESH_STORE_CREDENTIALS: {path}: {why}", field="NASMESH_STORE_CREDENTIALS"
    )
