"""What a write-ahead log says about itself. SQLite stops at the first damaged frame and forgets the rest in silence."""

import struct
from dataclasses import dataclass
from pathlib import Path

_HEADER = struct.Struct(">8I")
_FRAME = struct.Struct(">6I")
_MAGIC = (0x377F0682, 0x377F0683)


@dataclass(frozen=True, slots=True)
class LogFile:
    """The frames of a log that end a transaction of its newest generation; `broken`: its header makes no sense."""

    commits: tuple[int, ...] = ()
    broken: bool = False

    def damage(self, valid: int) -> str:
        """Return what is wrong where SQLite takes so many frames as valid; nothing for a sound log.

        Header and transactions are each on the disk before the next is written, so a power cut tears the last only.
        """
        if self.broken:
            return "the header of its -wal file is damaged"
        beyond = sum(1 for frame in self.commits if frame > valid)
        return f"its -wal file is, with {beyond} transactions behind the damage" if beyond > 1 else ""


def read_log(path: Path) -> LogFile:
    """Read the headers of a log's frames, numbered from 1; a log that is missing or empty has none."""
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER.size)
            if len(header) < _HEADER.size or not any(header):
                return LogFile()
            _, _, page_size, _, salt_1, salt_2, _, _ = _HEADER.unpack(header)
            if not _is_sound(header):
                return LogFile(broken=path.stat().st_size > _HEADER.size + _FRAME.size)
            commits = []
            number = 0
            while len(frame := file.read(_FRAME.size)) == _FRAME.size:
                number += 1
                _, pages, frame_salt_1, frame_salt_2, _, _ = _FRAME.unpack(frame)
                if (frame_salt_1, frame_salt_2) == (salt_1, salt_2) and pages:
                    commits.append(number)
                file.seek(page_size, 1)
    except OSError:
        return LogFile()
    return LogFile(tuple(commits))


def _is_sound(header: bytes) -> bool:
    """Say whether a header has its checksum, as the file format defines it."""
    magic = _HEADER.unpack(header)[0]
    if magic not in _MAGIC:
        return False
    words = struct.unpack(">6I" if magic & 1 else "<6I", header[:24])
    first = second = 0
    for even, odd in zip(words[::2], words[1::2], strict=True):
        first = (first + even + second) & 0xFFFFFFFF
        second = (second + odd + first) & 0xFFFFFFFF
    return (first, second) == _HEADER.unpack(header)[6:]
