"""A real scheduler and a real generate server with toy workers, each of which can be killed."""

import subprocess
import sys

from tests.e2e.mesh import ROOT, Mesh


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
        command += ["--name", f"toy-{number}", "--seed", str(self.SEED + number), "--most-s", "0.05"]
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
            self.workers[number].kill()
            self.workers[number].wait()
            self.hire(number)

    def close(self) -> None:
        for worker in self.workers.values():
            worker.kill()
            worker.wait()
        super().close()
