"""`make hosts`: a search over hosts of their own while one is killed, one cut off, one drained, one added; watched.

Prints what everybody types and what becomes of it, and at the end whether the results are those of the undisturbed
search. Exit code 0: they are; 1: they are not; 2: this machine can have no hosts, with the reason.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

from nasmesh.clock import SystemClock
from tests.hosts import scenario
from tests.hosts.fleet import Fleet, missing
from tests.hosts.partitions import LEASE_S, training_host
from tests.hosts.scenario import Trials

_PHASE = "TRIAL_PHASE_"


class Teller:
    """Prints lines with the time since the start."""

    def __init__(self) -> None:
        """Start the time."""
        self._clock = SystemClock()
        self._began = self._clock.monotonic()
        self._told: dict[str, object] = {}

    def line(self, text: str) -> None:
        """Print one line."""
        self._write(f"{self._clock.monotonic() - self._began:7.1f} s  {text}")

    def block(self, text: str) -> None:
        """Print what a command printed."""
        for line in text.rstrip().splitlines():
            self._write(f"{'':11}{line}")

    @staticmethod
    def _write(text: str) -> None:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()

    def change(self, change: dict[str, Any]) -> None:
        """Print a change of a search, where it tells something new of a trial."""
        if trial := change.get("trial"):
            phase = str(trial.get("phase", f"{_PHASE}ENDED")).removeprefix(_PHASE).lower().replace("_", " ")
            self.line(f"trial {trial['number']}: {phase}")
        elif host := training_host(change):
            trial = change["progress"]["trial"].rpartition("/")[2]
            if self._told.get(trial) != host:
                self.line(f"trial {trial}: {host} trains it, from update {change['progress']['train']['step']}")
            self._told[trial] = host


def show(teller: Teller) -> int:
    """Run everything and return the exit code."""
    with (
        tempfile.TemporaryDirectory(prefix="nasmesh-hosts-") as files,
        Fleet(Path(files), lease_s=LEASE_S, database=True, tell=teller.line) as fleet,
    ):
        scenario.fill(fleet)
        teller.block(scenario.nasmesh(fleet, "hosts"))
        for host, port in (("hub", "7400"), ("gen1", "7401")):
            teller.line(f"desk dials {host}:{port}: {scenario.dial(fleet, host, port)}")
        teller.line("a search that nobody disturbs")
        reference = scenario.undisturbed(fleet, "undisturbed", teller.change)
        teller.line("the same search, disturbed")
        found = scenario.disturbed(fleet, "disturbed", teller.change)
        teller.block(scenario.nasmesh(fleet, "hosts"))
        refused = sum(host.refused() for host in fleet.network.hosts.values() if host.running and host.is_guarded)
        teller.line(f"packets of whoever dialled a server's host, all dropped: {refused}")
        return compare(teller, reference, found)


def compare(teller: Teller, reference: Trials, found: Trials) -> int:
    """Print both searches' trials side by side and return the exit code."""
    for one, other in zip(reference, found, strict=True):
        same = "the same" if one == other else "ANOTHER"
        what = f"accuracy {one['accuracy'][0]:.4f} and {other['accuracy'][0]:.4f}"
        weights = f"weights {one['model'][:12]} and {other['model'][:12]}"
        teller.line(f"trial {one['number']}: {what}, {weights}: {same}")
    teller.line("the same results" if reference == found else "the results differ")
    return 0 if reference == found else 1


def main() -> int:
    """Show it, or say why not."""
    if reason := missing():
        sys.stderr.write(f"hosts: {reason}\n")
        return 2
    return show(Teller())


if __name__ == "__main__":
    sys.exit(main())
