"""`python -m clients.cli.lifeline PARENT MODULE ARGS`: become MODULE, told to stop when the parent dies.

`nasmesh up` starts its programs through this, so that a killed `up` leaves nothing behind.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # prctl(2); kept across exec


def main() -> None:
    """Tie this process to its parent where the system can, then exec."""
    parent = int(sys.argv[1])
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before the tie was made
        sys.exit(1)
    os.execv(sys.executable, [sys.executable, "-m", *sys.argv[2:]])


if __name__ == "__main__":
    main()
