"""What is kept of local servers: a file each, so that a deployer that is started again finds its processes."""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from nasmesh.logs import get_logger
from scheduler.deployers.base import Resources

_ENDED = 200
"""So many ended ones are named, with their logs; older ones are removed."""

_log = get_logger("deployer")


@dataclass(slots=True)
class LocalRecord:
    """One server. `pid` 0: it waits. `started` tells its process from a later one with the number.

    `kill_at`: wall time at which it is ended for good; 0: nobody has asked it to end.
    """

    name: str
    pool: str
    command: tuple[str, ...]
    environment: dict[str, str]
    resources: Resources
    order: int = 0
    pid: int = 0
    started: str = ""
    gpus: tuple[str, ...] = field(default=())
    kill_at: float = 0.0
    how: str = ""


class Kept:
    """All records in a directory, read at once; changes are written at once."""

    def __init__(self, home: Path) -> None:
        """Read a directory; files that are none of ours are left alone."""
        self._home = home
        self.records: dict[str, LocalRecord] = {}
        self._ended: dict[str, LocalRecord] = {}
        for path in sorted(home.glob("*.json")):
            record = _read(path)
            if record is not None:
                (self._ended if record.how else self.records)[record.name] = record

    def put(self, record: LocalRecord) -> None:
        """Write a record; a new one comes last in order."""
        if record.name not in self.records:
            everybody = [*self.records.values(), *self._ended.values()]
            record.order = 1 + max((known.order for known in everybody), default=0)
        self.records[record.name] = record
        self._write(record)

    def end(self, name: str, how: str) -> None:
        """Note that a server has ended, and forget those that did so long ago."""
        record = replace(self.records.pop(name), how=how or "ended")
        self._ended[name] = record
        self._write(record)
        for old in sorted(self._ended.values(), key=lambda one: one.order)[:-_ENDED]:
            del self._ended[old.name]
            (self._home / f"{old.name}.json").unlink(missing_ok=True)
            (self._home / "logs" / f"{old.name}.log").unlink(missing_ok=True)

    def has_ended(self, name: str) -> bool:
        """Say whether a server of this name has ended."""
        return name in self._ended

    def ended(self, pool: str) -> Iterator[tuple[str, str]]:
        """Yield the ended servers of a pool, with how they ended."""
        for record in self._ended.values():
            if record.pool == pool:
                yield record.name, record.how

    def in_order(self) -> list[LocalRecord]:
        """Return the records in the order in which they came."""
        return sorted(self.records.values(), key=lambda record: record.order)

    def _write(self, record: LocalRecord) -> None:
        path = self._home / f"{record.name}.json"
        part = path.with_suffix(".part")
        part.write_text(json.dumps(asdict(record)), encoding="utf-8")
        part.chmod(0o600)  # a pool's environment is nobody else's
        os.replace(part, path)


def _read(path: Path) -> LocalRecord | None:
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        body["resources"] = Resources(**body["resources"])
        body["command"], body["gpus"] = tuple(body["command"]), tuple(body["gpus"])
        return LocalRecord(**body)
    except (OSError, ValueError, TypeError, KeyError) as error:
        _log.warning("server_record_unreadable", path=str(path), error=str(error)[:200])
        return None


def started_at(pid: int) -> str:
    """Return what tells a process from another with its number later: the kernel's start time; "" for none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    except OSError:
        return ""
    fields = text.rpartition(")")[2].split()
    return f"{boot} {fields[19]}" if len(fields) > 19 else ""


def is_alive(pid: int, started: str) -> bool:
    """Say whether the very process still runs; one that has ended and was not waited for does not."""
    if Path("/proc/self/stat").exists():
        return bool(started) and started_at(pid) == started and not _is_zombie(pid)
    try:  # a system without /proc: its number is all there is to go by
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def _is_zombie(pid: int) -> bool:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return True
    return text.rpartition(")")[2].split()[:1] == ["Z"]
