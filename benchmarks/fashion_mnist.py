"""Test error of a NAC search and its final training on Fashion-MNIST, within a time, through the whole mesh.

`python -m benchmarks.fashion_mnist [--quick] [--budget SECONDS] [--out DIR]`. Starts scheduler, generate, train and
evaluate servers as `nasmesh up` does, runs examples/fashion-mnist.yaml in a home of its own, and takes everything from
the report that it writes: the time is that of the command, start and report included. The search has a fifth of the
time; the network that NAC constructed, twice as wide, is then trained on all images but the 10,000 of the test split,
in as many epochs as fit, and those are scored once. `--quick` shows that it runs, on a hundredth of the images.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.report import print_figures, print_table

ROOT = Path(__file__).parents[1]
SPEC = ROOT / "examples" / "fashion-mnist.yaml"
HOUR_S, QUICK_S = 3600.0, 40.0
# Of the whole time. What is left is for starting, admission, scoring 10,000 images and the report.
SEARCH_SHARE, FINAL_SHARE = 0.12, 0.8
REACHED_ERROR = 0.0742
"""What the figure of this benchmark is compared with."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run found: from its report.json, and the seconds of the command."""

    report: dict[str, object]
    wall_s: float

    @property
    def error(self) -> float:
        """Share of the test images that the final network takes for something else."""
        return 1.0 - float(str(self._part("test")["accuracy"]))

    @property
    def final(self) -> dict[str, object]:
        """The row of the network that was tested."""
        rows = self.report["networks"]
        assert isinstance(rows, list)
        return next(dict(row) for row in rows if row["testAccuracy"] is not None)

    @property
    def epochs(self) -> float:
        """Epochs of the final training: passes over all images but those of the test split."""
        best, data = self._part("best"), self._part("data")
        train, splits = best["train"], data["splits"]
        assert isinstance(train, dict)
        assert isinstance(splits, dict)
        seen = int(str(best["steps"])) * int(train["batchSize"])
        return seen / float(train["dataFraction"] * (splits["train"] + splits["validation"]))

    def _part(self, name: str) -> dict[str, object]:
        part = self.report[name]
        assert isinstance(part, dict)
        return part


def changes(budget_s: float, *, quick: bool) -> list[str]:
    """Return what differs from the example: the time, and in a quick run the number of images."""
    found = [
        f"budget.maxWallTimeS={budget_s * SEARCH_SHARE:g}",
        f"final.maxTrainTimeS={budget_s * FINAL_SHARE:g}",
        # Probed for this processor: bfloat16 where it is faster, in the search too, by whose time the final is fitted.
        "train.compute.precision=PRECISION_AUTO",
        "final.train.compute.precision=PRECISION_AUTO",
        "final.train.compute.layout=LAYOUT_NHWC",
        "final.train.augmentation.cropPadding=2",
        "final.train.epochs=40",
    ]
    if quick:
        # Starting the servers and reading the images is most of it: the search is bounded by its networks instead.
        found += [f"budget.maxWallTimeS={budget_s:g}"]
        found += ["budget.maxIterations=1", "generator.settings.iterations=0", "train.epochs=1"]
        found += ["train.dataFraction=0.01", "final.train.dataFraction=0.01", "final.train.epochs=1"]
        found += [f"{part}.compute.precision=PRECISION_FLOAT32" for part in ("train", "final.train")]  # no probing
        found += ["final.train.schedule.warmupSteps=2", "final.train.emaDecay=0"]
    return found


def run(budget_s: float, out: Path, *, quick: bool) -> Outcome:
    """Run the search in a mesh of its own; raises SystemExit with what the command said where it fails."""
    command = [sys.executable, "-m", "clients.cli.main", "up", "--any-port", "--json"]
    command += ["--search", str(SPEC), "--out", str(out), "--force"]
    command += [part for change in changes(budget_s, quick=quick) for part in ("--set", change)]
    with tempfile.TemporaryDirectory(prefix="nasmesh-fashion-") as home:
        start = time.perf_counter()
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, "NASMESH_HOME": home},
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        wall_s = time.perf_counter() - start
    if done.returncode:
        sys.exit(f"the search ended with code {done.returncode}: {done.stdout[-2000:]}")
    return Outcome(json.loads((out / "report.json").read_text(encoding="utf-8")), wall_s)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="within 50 s, on a fraction of the images")
    parser.add_argument("--budget", type=float, metavar="SECONDS", help="time for everything [3600]")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the report [a temporary one]")
    flags = parser.parse_args(arguments)
    budget_s = flags.budget or (QUICK_S if flags.quick else HOUR_S)
    with tempfile.TemporaryDirectory(prefix="nasmesh-report-") as folder:
        outcome = run(budget_s, flags.out or Path(folder) / "out", quick=flags.quick)
    final = outcome.final
    rows = [
        ("test error", f"{outcome.error:.2%}"),
        ("to be below", f"{REACHED_ERROR:.2%}"),
        ("time, everything", f"{outcome.wall_s:.0f} s of {budget_s:.0f} s"),
        ("parameters", f"{final['parameters']:,}"),
        ("multiply-accumulates", f"{final['macs']:,}"),
        ("epochs of the final training", f"{outcome.epochs:.1f}"),
        ("networks trained", str(len(outcome.report["networks"]))),  # type: ignore[arg-type]
    ]
    print_table("Fashion-MNIST: NAC search and final training", ("figure", "value"), rows)
    print_figures(
        {
            "test_error": outcome.error,
            "wall_s": outcome.wall_s,
            "budget_s": budget_s,
            "parameters": int(str(final["parameters"])),
            "epochs": outcome.epochs,
            "below_target": outcome.error < REACHED_ERROR and outcome.wall_s <= budget_s,
            "quick": flags.quick,
        }
    )


if __name__ == "__main__":
    main()
