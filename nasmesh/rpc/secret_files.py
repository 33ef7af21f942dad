"""Secrets come from files: read only where nobody else may, written whole with mode 0600, noticed when changed."""

import os
import stat
from pathlib import Path
from typing import NamedTuple

from nasmesh.clock import new_id
from nasmesh.errors import Invalid
from nasmesh.limits import CREDENTIAL_FILE_BYTES

_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_MORE_THAN_GROUP_READS = _OTHERS & ~stat.S_IRGRP
_MADE_BY = {
    "dir": "nasmesh certs init",
    "tls-cert": "nasmesh certs init",
    "tls-key": "nasmesh certs init",
    "tls-ca": "nasmesh certs init",
    "ca-file": "nasmesh certs init",
    "ca": "nasmesh certs init",
    "cert-file": "nasmesh certs issue",
    "key-file": "nasmesh certs issue",
    "tokens": "nasmesh token create",
    "token-file": "nasmesh token create --out",
}
"""The command that makes a file, by the flag that names it."""


class Stamp(NamedTuple):
    """What tells one version of a file from the next without reading it; all zero: there is none."""

    inode: int
    size: int
    changed_ns: int


def stamp(path: Path) -> Stamp:
    """Return the stamp of a file: one system call."""
    try:
        found = os.stat(path)
    except OSError:
        return Stamp(0, 0, 0)
    return Stamp(found.st_ino, found.st_size, found.st_mtime_ns)


def read_secret(path: Path, *, field: str) -> bytes:
    """Return the bytes of a file that holds a secret.

    Raises Invalid: FILE_UNREADABLE, FILE_TOO_LARGE, and SECRET_EXPOSED where group or others may read it;
    one that root owns may be readable by this program's group.
    """
    return _read(path, field, secret=True)


def read_public(path: Path, *, field: str) -> bytes:
    """Return the bytes of a file that anybody may read, a certificate; raises FILE_UNREADABLE, FILE_TOO_LARGE."""
    return _read(path, field, secret=False)


def write_secret(path: Path, content: bytes, *, field: str, replace: bool) -> None:
    """Write a file with mode 0600, durably, whole or not at all; raises Invalid (FILE_EXISTS, FILE_UNWRITABLE)."""
    _write(path, content, field, mode=0o600, replace=replace)


def write_public(path: Path, content: bytes, *, field: str, replace: bool) -> None:
    """As write_secret, with mode 0644."""
    _write(path, content, field, mode=0o644, replace=replace)


def make_private_directory(path: Path, *, field: str) -> None:
    """Make a directory that only its owner may enter, unless it exists; raises Invalid (FILE_UNWRITABLE)."""
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise _unwritable(path, error, field) from None


def _read(path: Path, field: str, *, secret: bool) -> bytes:
    try:
        # Without waiting: a named pipe would hold the program for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "not a path"
        advice = _advice(error, field)
        raise Invalid("FILE_UNREADABLE", f"{field}: {path} cannot be read: {why}; {advice}", field=field) from None
    # Not fdopen before the kind is known: it has words of its own for a directory.
    try:
        _check_file(os.fstat(descriptor), path, field, secret=secret)
        with os.fdopen(os.dup(descriptor), "rb") as file:
            content = file.read(CREDENTIAL_FILE_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(content) > CREDENTIAL_FILE_BYTES:
        raise Invalid("FILE_TOO_LARGE", f"{field}: {path} is over {CREDENTIAL_FILE_BYTES:,} bytes", field=field)
    return content


def _advice(error: Exception, field: str) -> str:
    """Return what to do about a file that cannot be opened."""
    if isinstance(error, PermissionError):
        return "let the user of this program read it"
    if field not in _MADE_BY:
        return "name another"
    setting = "NASMESH_" + field.upper().replace("-", "_")
    others = "" if field in ("dir", "ca") else f" or {setting}"
    return f"name another with --{field}{others}, or make one with {_MADE_BY[field]}"


def _check_file(found: os.stat_result, path: Path, field: str, *, secret: bool) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise Invalid("FILE_UNREADABLE", f"{field}: {path} is not a file", field=field)
    if secret and found.st_mode & _OTHERS and not _handed_by_root(found):
        raise Invalid(
            "SECRET_EXPOSED",
            f"{field}: {path} holds a secret and has mode {found.st_mode & 0o777:04o}; chmod 600 {path}",
            field=field,
        )


def _handed_by_root(found: os.stat_result) -> bool:
    """Say whether root gave a file to a group, and this program is in that group but cannot change the file.

    So Kubernetes and Docker mount secrets for programs that are not root, which could not chmod them either.
    """
    return found.st_uid == 0 != os.geteuid() and not found.st_mode & _MORE_THAN_GROUP_READS


def _write(path: Path, content: bytes, field: str, *, mode: int, replace: bool) -> None:
    part = path.with_name(f".{path.name}.{new_id()[:12]}.part")
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(descriptor, mode)  # whatever the umask says
                file.write(content)
                file.flush()
                os.fsync(descriptor)
            if replace:
                os.replace(part, path)
            else:
                os.link(part, path)  # unlike a rename, fails where the name is taken
        finally:
            part.unlink(missing_ok=True)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except FileExistsError:
        raise Invalid(
            "FILE_EXISTS", f"{field}: {path} exists and is left as it is; name another", field=field
        ) from None
    except OSError as error:
        raise _unwritable(path, error, field) from None


def _unwritable(path: Path, error: OSError, field: str) -> Invalid:
    return Invalid("FILE_UNWRITABLE", f"{field}: {path} cannot be written: {error.strerror}", field=field)
