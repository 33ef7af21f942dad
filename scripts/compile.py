"""`make compile`: makes the scheduler's inner loop machine code, by mypyc. Nothing to do where that is done already.

Needs mypy, setuptools and a C compiler. The folder has the sources' digest as its name; see scheduler/compiled.py.
"""

import contextlib
import io
import os
import shutil
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scheduler import compiled

# The exit code where this machine cannot compile at all.
CANNOT = 3


def _say(line: str) -> None:
    sys.stdout.write(f"compile: {line}\n")


def _fail(line: str) -> int:
    sys.stderr.write(f"compile: {line}; the scheduler runs as it is, slower\n")
    return 1


def _missing() -> str:
    """Return what this machine lacks to compile C for this Python, or nothing."""
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    if shutil.which(compiler) is None:
        return f"there is no C compiler {compiler} (on Debian: apt-get install build-essential)"
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        return "there is no Python.h (on Debian: apt-get install python3-dev)"
    return ""


def main() -> int:
    """Return 0 where it is built, CANNOT where there is no compiler, else 1; stderr says why."""
    target = compiled.folder()
    if (target / compiled.COMPLETE).exists():
        _say(f"done already, {target.relative_to(compiled.ROOT)}")
        return 0
    missing = _missing()
    if missing:
        _fail(missing)
        return CANNOT
    try:
        from mypyc.build import mypycify
        from setuptools import setup
    except ImportError as error:
        _fail(f"{error} (make setup installs it)")
        return CANNOT
    began = time.monotonic()
    os.chdir(compiled.ROOT)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="part-") as part:
        built = Path(part, "built")
        sources = [name.replace(".", "/") + ".py" for name in compiled.MODULES]
        told = io.StringIO()
        try:
            with contextlib.redirect_stdout(told):
                extensions = mypycify(sources, target_dir=str(Path(part, "c")), opt_level="3", debug_level="0")
        except SystemExit:  # it has said why, and to whom
            return _fail(f"the sources cannot be compiled:\n{told.getvalue()}")
        if "warning:" in told.getvalue():  # a generator that is made a list, above all: one without an end would hang
            return _fail(f"this means something else when it is compiled:\n{told.getvalue()}")
        setup(
            name="scheduler-compiled",
            packages=[],
            py_modules=[],
            ext_modules=extensions,
            script_args=["--quiet", "build_ext", "--build-lib", str(built), "--build-temp", str(Path(part, "o"))],
        )
        if compiled.folder() != target:
            return _fail("a source was changed meanwhile; compile again")
        (built / compiled.COMPLETE).touch()
        for old in target.parent.iterdir():
            if not old.name.startswith("part-"):
                shutil.rmtree(old, ignore_errors=True)
        built.rename(target)
    _say(f"done in {time.monotonic() - began:.0f} s, {target.relative_to(compiled.ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
