"""The scheduler's program with leases so short that a test need not wait for one: `… short_leases SECONDS FLAGS`."""

import sys

from nasmesh import limits

if __name__ == "__main__":
    # Before the scheduler is imported, which reads them then. Agents follow what they are told at the welcome.
    limits.LEASE_S = float(sys.argv[1])  # type: ignore[misc]
    from scheduler.__main__ import main

    sys.exit(main(sys.argv[2:]))
