"""A real scheduler and a real generate server with toy workers, each of which can be killed."""

import signal
import subprocess
import sys

from nasmesh.client import Client
from tests.e2e.mesh import ROOT, Mesh

# Looks at a worker until it is at work; a look is a call to the scheduler, a worker starts in a second or two.
LOOKS = 20_000


class Toys(Mesh):
    """A mesh whose train and evaluate servers are toy workers, four of them unless told."""

    COUNT = 4
    SEED = 11

    def __enter__(self) -> "Toys":
        self.home.mkdir(parents=True, exist_ok=True)
        self.workers: dict[int, subprocess.Popen[bytes]] = {}
        try:
            self.start("scheduler")
            self.start("generate")
            for number in range(self.COUNT):
                self.hire(number)
        except BaseException:
            self.close()
            raise
        return self

    def hire(self, number: int) -> None:
        command = [sys.executable, "-m", "tests.e2e.toy_agent", "--scheduler", self.addresses["scheduler"]]
        command += ["--name", f"toy-{number}", "--seed", str(self.SEED + number), "--most-s", "0.2"]
        with self._log(f"toy-{number}").open("ab") as log:
            self.workers[number] = subprocess.Popen(
                command, env=self.environment(), cwd=ROOT, stdout=log, stderr=subprocess.STDOUT
            )

    def strike(self, name: str) -> None:
        """Kill -9 one program and start it again."""
        if name in ("scheduler", "generate"):
            self.kill9(name)
            self.restart(name)
        else:
            number = int(name)
            self._stop_at_work(number)
            self.workers[number].kill()
            self.workers[number].wait()
            self.hire(number)

    def _stop_at_work(self, number: int) -> None:
        """Stop a worker while it holds an attempt, so that killing it loses one."""
        worker = self.workers[number]
        name = f"agents/toy-{number}"
        with self.client() as client:
            for _ in range(LOOKS):
                if not self._holds(client, name):
                    continue
                worker.send_signal(signal.SIGSTOP)
                # Twice: what it said last may have been on its way.
                if self._holds(client, name) and self._holds(client, name):
                    return
                worker.send_signal(signal.SIGCONT)
        raise AssertionError(f"worker {number} was never seen at work")

    @staticmethod
    def _holds(client: Client, name: str) -> bool:
        return any(agent.attempts for agent in client.agents() if agent.name == name)

    def close(self) -> None:
        for worker in self.workers.values():
            worker.kill()
            worker.wait()
        super().close()
