"""T8c: 400 and more hostile files, each refused with a reason in under 200 ms and 64 MiB."""

import time
from collections import Counter
from pathlib import Path

from nasmesh.errors import Rejected
from nasmesh.model.admission import admit
from nasmesh.model.reasons import Reason
from tests.fuzz.hostile_files import hostile_files

LEAST = 400
MOST_S = 0.2
MOST_BYTES = 64 << 20
# The first import of a table, and a look at the processor's clock that the machine delayed, are no fault of a file.
TRIES = 3
REASONS = {reason.value for reason in Reason}


def _peak_bytes() -> int:
    """The most memory that this process held since `_forget_peak`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) << 10


def _forget_peak() -> int:
    Path("/proc/self/clear_refs").write_text("5")
    return _peak_bytes()


def _fault(content: bytes) -> tuple[str, str, float, int]:
    """What is wrong with how a file is met (empty: nothing), the reason of its refusal, seconds and bytes taken."""
    before = _forget_peak()
    start = time.process_time()
    try:
        admit(content)
    except Rejected as error:
        took_s, grown = time.process_time() - start, _peak_bytes() - before
        said = error.message
        fault = "" if error.reason in REASONS and said and len(said) < 1000 and "Traceback" not in said else repr(error)
        fault += f" took {took_s:.2f} s" if took_s > MOST_S else ""
        fault += f" took {grown >> 20} MiB" if grown > MOST_BYTES else ""
        return fault, error.reason, took_s, grown
    except Exception as error:  # noqa: BLE001 - any other is the fault looked for
        return repr(error), "", 0.0, 0
    return "admitted", "", 0.0, 0


def test_every_hostile_file_is_refused_fast_and_small() -> None:
    seen: Counter[str] = Counter()
    faults: dict[str, str] = {}
    slowest, largest = 0.0, 0
    names = []
    for name, content in hostile_files():
        names.append(name)
        for _ in range(TRIES):
            fault, reason, took_s, grown = _fault(content)
            if not fault:
                break
        if fault:
            faults[name] = fault
        seen[reason] += 1
        slowest, largest = max(slowest, took_s), max(largest, grown)
    print(  # noqa: T201 - the tier's counts
        f"T8c: {len(names)} hostile files, slowest {slowest * 1000:.0f} ms, largest growth {largest >> 20} MiB, "
        f"{len(seen)} reasons: {seen.most_common()}"
    )
    assert not faults
    assert len(names) == len(set(names)) >= LEAST, Counter(names).most_common(3)
    assert len(seen) >= 20, seen
