"""The parser of all programs' command lines: wrong ones are an error like any other, one sentence and its fix."""

import argparse
from typing import NoReturn

from nasmesh.errors import Invalid


class FlagParser(argparse.ArgumentParser):
    """As argparse, but flags are never abbreviated, and a wrong command line raises Invalid (USAGE)."""

    def __init__(self, prog: str, **settings: object) -> None:
        """Name the command as a person types it; `settings` are argparse's."""
        super().__init__(prog, allow_abbrev=False, **settings)  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        """Raise Invalid (USAGE) where argparse would print the whole usage and end the process."""
        raise Invalid("USAGE", f"{message}; see {self.prog} --help")
