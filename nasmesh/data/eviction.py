"""Keeps the local copies of added data sets within a bound: those that were opened longest ago go first."""

import fcntl
import os
import re
import shutil
from pathlib import Path
from typing import NamedTuple

from nasmesh import limits
from nasmesh.clock import Clock, SystemClock

STAMP = "stamp.json"
_WHOLE = re.compile(r"[0-9a-f]{64}")
_ASIDE = re.compile(r"[0-9a-f]{64}\..+")


class _Copy(NamedTuple):
    opened: float
    path: Path
    size: int


def opened(folder: Path) -> None:
    """Note that a copy is in use now."""
    os.utime(folder / STAMP)


def make_room(folder: Path, needed: int, *, most: int, clock: Clock | None = None) -> None:
    """Delete other copies until `needed` bytes fit under `most`, and what crashed fetches left.

    A copy that somebody is fetching or opening just now is left alone; one that is open goes on being readable.
    """
    before = (clock or SystemClock()).wall() - limits.LEFTOVER_S
    copies: list[_Copy] = []
    for path in folder.parent.iterdir():
        if path == folder or not path.is_dir():
            continue
        try:
            files = [entry.stat() for entry in path.iterdir()]
            if _WHOLE.fullmatch(path.name):
                opened_s = (path / STAMP).stat().st_mtime
                copies.append(_Copy(opened_s, path, sum(found.st_size for found in files)))
            elif _ASIDE.fullmatch(path.name) and max(found.st_mtime for found in [path.stat(), *files]) < before:
                shutil.rmtree(path, ignore_errors=True)
        except OSError:
            continue  # it has just been deleted, or is not whole: whoever wants it sees to that
    held = sum(copy.size for copy in copies)
    for copy in sorted(copies):
        if held + needed <= most:
            return
        if _delete(copy.path):
            held -= copy.size


def _delete(path: Path) -> bool:
    """Delete a copy unless somebody holds its lock."""
    lock = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        shutil.rmtree(path, ignore_errors=True)
        return True
    finally:
        os.close(lock)
