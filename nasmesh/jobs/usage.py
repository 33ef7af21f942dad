"""How much memory the processes in another process space hold, as the kernel tells it to root."""

import os
from pathlib import Path

_FIELDS = ("RssAnon:", "RssShmem:")


def memory_bytes(launcher: int) -> int:
    """Return the memory held in the space whose first process `launcher` started, 0 where it is gone.

    Counts private and shared memory of every process, and files in memory that are open without being mapped. Read
    through the space's own list of processes: nothing that a process says of itself hides it there.
    """
    try:
        first = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
        if not first:
            return 0
        space = f"/proc/{first[0]}/root/proc"
        names = [name for name in os.listdir(space) if name.isdigit()]
    except OSError:
        return 0
    files: dict[int, int] = {}
    total = 0
    for name in names:
        total += _resident_bytes(f"{space}/{name}")
        _note_memory_files(f"{space}/{name}/fd", files)
    return total + sum(files.values())


def _resident_bytes(process: str) -> int:
    try:
        lines = Path(f"{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(_FIELDS))


def _note_memory_files(folder: str, files: dict[int, int]) -> None:
    try:
        entries = os.listdir(folder)
    except OSError:
        return
    for entry in entries:
        try:
            if os.readlink(f"{folder}/{entry}").startswith("/memfd:"):
                found = os.stat(f"{folder}/{entry}")
                files[found.st_ino] = found.st_blocks * 512
        except OSError:
            continue
