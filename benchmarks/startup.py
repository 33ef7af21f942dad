"""How long a scheduler takes from its start until it serves, what it weighs, and how long its modules take to load.

Processes as a person starts them: a fresh home, an SQLite journal on this disk, the port file as the sign of serving.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.report import Spread, print_figures, print_table, spread

START_S = 60.0
POLL_S = 0.002
MODULES = {"scheduler": "scheduler", "generate": "generate_svc", "train": "train_svc", "evaluate": "evaluate_svc"}


@dataclass(frozen=True, slots=True)
class Start:
    """One start: seconds until the address was written, and resident memory of the program at that moment."""

    seconds: float
    resident_mb: float


def measure_start(module: str) -> Start:
    """Start one program in a home of its own, wait until it serves, weigh it and end it."""
    with tempfile.TemporaryDirectory() as home:
        port_file = Path(home) / "port"
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", module, "--listen", "127.0.0.1:0", "--port-file", str(port_file)],
            env=_environment(home),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            while not port_file.exists():
                if process.poll() is not None or time.perf_counter() - started > START_S:
                    raise RuntimeError(f"{module} does not serve (exit code {process.poll()})")
                time.sleep(POLL_S)
            seconds = time.perf_counter() - started
            return Start(seconds, psutil.Process(process.pid).memory_info().rss / 1e6)
        finally:
            process.terminate()
            process.wait(START_S)


def measure_run(*arguments: str) -> float:
    """Return the seconds that one run of the interpreter takes."""
    with tempfile.TemporaryDirectory() as home:
        started = time.perf_counter()
        subprocess.run([sys.executable, *arguments], env=_environment(home), check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - started


def _environment(home: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("NASMESH_")}
    return {**kept, "NASMESH_HOME": home, "GRPC_ENABLE_FORK_SUPPORT": "0"}


def _repeated(measure: Callable[[], float], count: int) -> Spread:
    measure()  # the files are in the page cache from now on
    return spread([measure() for _ in range(count)])


def main() -> None:
    """Print a table, and one JSON object of figures as the last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions; ends within half a minute")
    count = 5 if parser.parse_args().quick else 20
    interpreter = _repeated(lambda: measure_run("-c", "pass"), count)
    imports = _repeated(lambda: measure_run("-c", "import scheduler.__main__"), count)
    command = _repeated(lambda: measure_run("-m", "clients.cli.main", "--help"), count)
    rows: list[Sequence[object]] = [
        ("python -c pass", interpreter, ""),
        ("import scheduler.__main__", imports, ""),
        ("nasmesh --help", command, ""),
    ]
    figures: dict[str, float] = {"startup_runs": count, "scheduler_import_s": imports.median - interpreter.median}
    figures["cli_help_s"] = command.median
    for name, module in MODULES.items():
        measure_start(module)
        starts = [measure_start(module) for _ in range(count)]
        seconds = spread([start.seconds for start in starts])
        resident = spread([start.resident_mb for start in starts])
        rows.append((f"{name} until it serves", seconds, resident))
        figures[f"{name}_start_s"] = seconds.median
        figures[f"{name}_rss_mb"] = resident.median
    print_table(f"starts of programs, median of {count} [quartiles]", ("what", "seconds", "resident MB"), rows)
    print_figures(figures)


if __name__ == "__main__":
    main()
