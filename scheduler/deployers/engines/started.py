"""Which servers a deployer has had started at an engine that forgets what has ended: one small file a server."""

import os
from pathlib import Path

from nasmesh.errors import Invalid

_LONGEST = 4096


class Started:
    """Names of servers, each with what the engine calls it; kept in a directory, so that a restart knows them."""

    def __init__(self, directory: Path) -> None:
        """Take the directory; it is made when there is something to keep."""
        self._directory = directory

    def add(self, name: str, note: str) -> None:
        """Keep a server, durably enough for a restart; raises Invalid (DEPLOYER_HOME_INVALID) where that cannot be."""
        part = self._directory / f".{name}.part"
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            part.write_text(note[:_LONGEST])
            os.replace(part, self._directory / name)
        except OSError as error:
            raise Invalid(
                "DEPLOYER_HOME_INVALID",
                f"home: {self._directory} cannot be written: {error.strerror}; give the deployer its own",
                field="home",
            ) from None

    def notes(self) -> dict[str, str]:
        """Return what is kept of each server, by name."""
        try:
            names = sorted(entry.name for entry in os.scandir(self._directory) if not entry.name.startswith("."))
        except OSError:
            return {}
        kept = {}
        for name in names:
            try:
                kept[name] = (self._directory / name).read_text()[:_LONGEST]
            except (OSError, ValueError):
                kept[name] = ""
        return kept

    def forget(self, name: str) -> None:
        """Keep a server no longer; unknown ones are fine."""
        (self._directory / name).unlink(missing_ok=True)
