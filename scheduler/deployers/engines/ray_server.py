"""What runs on a node of a Ray cluster: an actor that keeps one server as its child process.

`python -m scheduler.deployers.engines.ray_server PARENT COMMAND...` becomes COMMAND, tied to the actor's process.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress

RUNNING, ENDED = "running", "ended"
_PR_SET_PDEATHSIG = 1  # prctl(2); kept across exec
_UNTOLD_S = 30.0


class ServerActor:
    """One server: started with the actor, ended with it. How it ended can be asked for half a minute; who has asked
    kills the actor, so that what Ray reserved for it is free at once.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start the server; what is wrong with that is told by `standing`, as an actor that fails here tells nobody."""
        self._stopped = threading.Event()
        self._ended = ""
        self._process: subprocess.Popen[bytes] | None = None
        path = f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        environment = {**os.environ, "PATH": path, **environment}
        program = shutil.which(command[0], path=path)
        begun = threading.Event()
        threading.Thread(
            target=self._live, args=([program or "", *command[1:]], environment, begun), name="server", daemon=True
        ).start()
        begun.wait()

    def standing(self) -> tuple[str, str]:
        """Return RUNNING or ENDED, and how it ended."""
        return (ENDED, self._ended) if self._ended else (RUNNING, "")

    def stop(self, grace_s: float) -> None:
        """Send the server SIGTERM, and SIGKILL after the grace."""
        if self._process is None or self._stopped.is_set():
            return
        self._stopped.set()
        self._process.terminate()
        late = threading.Timer(grace_s, self._process.kill)
        late.daemon = True
        late.start()

    def _live(self, command: Sequence[str], environment: Mapping[str, str], begun: threading.Event) -> None:
        # The tie below is to this thread, which therefore lives as long as the process.
        try:
            if not command[0]:
                self._ended = "its program is not on the node's PATH; install nasmesh where the node's Ray is"
                return
            tied = [sys.executable, "-m", __name__, str(os.getpid()), *command]
            try:
                self._process = subprocess.Popen(tied, env=environment, start_new_session=True)
            except OSError as error:
                self._ended = f"it could not be started: {error.strerror}"
                return
            begun.set()
            code = self._process.wait()
            how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
            self._ended = f"stopped, {how}" if self._stopped.is_set() else f"ended {how}"
        finally:
            begun.set()
            threading.Event().wait(_UNTOLD_S)
            os._exit(0)


def main() -> None:
    """Tie this process to the actor's, then become the command: no server outlives what Ray knows of."""
    parent = int(sys.argv[1])
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the tie was made
        sys.exit(1)
    with suppress(FileNotFoundError):
        os.execv(sys.argv[2], sys.argv[2:])
    sys.exit(127)


if __name__ == "__main__":
    main()
