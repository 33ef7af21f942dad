"""What a job made and could not store: kept on this machine's disk until it can, also for a next process."""

from pathlib import Path

from nasmesh.clock import Clock, SystemClock
from nasmesh.jobs.records import RecordDirectory
from nasmesh.limits import OUTBOX_KEEP_S
from nasmesh.logs import get_logger

_log = get_logger("outbox")
_SUFFIX = ".kept"


class Outbox:
    """One file for each piece of work, named by the digest of what was asked."""

    def __init__(self, directory: Path, *, clock: Clock | None = None) -> None:
        """Open or make the directory, and drop what nobody has come back for in two days."""
        self._directory = directory
        self._records = RecordDirectory(directory, _SUFFIX)
        before = (clock or SystemClock()).wall() - OUTBOX_KEEP_S
        for file in directory.glob(f"*{_SUFFIX}"):
            try:
                if file.stat().st_mtime < before:
                    file.unlink()
            except FileNotFoundError:
                continue

    def keep(self, work: str, content: bytes) -> None:
        """Keep what is newest of a piece of work. A full disk costs the copy, not the work."""
        try:
            self._records.put(work, content)
        except OSError as error:
            _log.error("not_kept", work=work, bytes=len(content), error=str(error))

    def load(self, work: str) -> bytes | None:
        """Return what is kept of a piece of work."""
        try:
            return (self._directory / f"{work}{_SUFFIX}").read_bytes()
        except OSError:
            return None

    def drop(self, work: str) -> None:
        """Forget a piece of work: all of it is stored."""
        try:
            self._records.remove(work)
        except OSError as error:
            _log.error("not_dropped", work=work, error=str(error))
