"""The scheduler's inner loop as machine code, used where `make compile` has made it from these very sources.

Only programs that ask for it run it, before they import anything of it: `python -m scheduler` does; tests do where they
are run by `python -m scheduler.compiled MODULE ARGUMENTS...`. Whatever differs from what was compiled, one character in
a comment or the Python, and the sources run as they are: the digest of all of them is the name of the folder.
"""

import importlib.abc
import importlib.util
import runpy
import sys
from collections.abc import Sequence
from hashlib import sha256
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, ModuleSpec
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]
# What a task passes through between its message and its bytes in the journal; the rest waits for sockets and disks.
MODULES = (
    *(f"scheduler.{name}" for name in ("agents", "cold", "consequences", "convert", "desk", "domain", "effects")),
    *(
        f"scheduler.{name}"
        for name in ("engine", "facts", "fair_queue", "fields", "gangs", "outcomes", "placement", "snapshots", "step")
    ),
    *(f"scheduler.{name}" for name in ("timers", "waiting_line", "watch", "wishes", "workload")),
    *(f"scheduler.journal.{name}" for name in ("encoding", "ended", "records")),
    *(f"scheduler.machine.{path.stem}" for path in sorted((ROOT / "scheduler" / "machine").glob("[!_]*.py"))),
)
# The last file that a build writes.
COMPLETE = "complete"


def folder() -> Path:
    """Return where the compiled form of the present sources is, or would be."""
    digest = sha256(f"{sys.implementation.cache_tag} {EXTENSION_SUFFIXES[0]}\n".encode())
    for package in ("nasmesh", "scheduler"):
        for path in sorted((ROOT / package).rglob("*.py")):
            body = path.read_bytes()
            digest.update(f"{path.relative_to(ROOT)} {len(body)}\n".encode() + body)
    return ROOT / ".cache" / "compiled" / digest.hexdigest()[:32]


def is_built() -> bool:
    """Say whether there is a compiled form of the present sources."""
    return (folder() / COMPLETE).exists()


def use() -> bool:
    """Import the compiled form from now on, if there is one; says whether. Call before anything of it is imported."""
    if any(name in sys.modules for name in MODULES):
        raise RuntimeError("some of the scheduler's modules are imported already: two forms of a class would meet")
    built = folder()
    if not (built / COMPLETE).exists():
        return False
    sys.meta_path.insert(0, _Finder(built))
    return True


def in_use() -> bool:
    """Say whether this process runs the compiled form."""
    return isinstance(getattr(sys.modules.get(MODULES[0]), "__loader__", None), ExtensionFileLoader)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the compiled modules, and the one library that they all are in."""

    def __init__(self, built: Path) -> None:
        suffix = EXTENSION_SUFFIXES[0]
        files = [*built.glob(f"*{suffix}"), *(built / (name.replace(".", "/") + suffix) for name in MODULES)]
        self._files = {str(file.relative_to(built)).removesuffix(suffix).replace("/", "."): file for file in files}

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return where a module is; None: not here."""
        del path, target
        file = self._files.get(name)
        return None if file is None else importlib.util.spec_from_file_location(name, file)


def main() -> int:
    """Run a module of this project in the compiled form, or in none."""
    if len(sys.argv) < 2:
        sys.stderr.write("usage: python -m scheduler.compiled MODULE [ARGUMENTS...]\n")
        return 2
    if not use():
        sys.stderr.write("error: nothing was compiled from the present sources; make compile does it\n")
        return 1
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
