"""One search while hosts come and go: one is killed, one cut off and healed, one drained, one added."""

from collections.abc import Callable
from typing import Any

from tests.hosts.fleet import PORT, PYTHON, Fleet, agent_name
from tests.hosts.partitions import LONG_S, pause, training_host

Trials = list[dict[str, Any]]

_DIAL = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=1)
    print("answered")
except TimeoutError:
    print("timed out")
except ConnectionRefusedError:
    print("refused")
"""
SERVERS = {"gen1": "generate", "gpu1": "train", "gpu2": "train", "eval1": "evaluate"}
EPOCHS = 40
# Long enough for the last trouble to fall into it where all trials were over by then, on a machine that is quick.
FINAL_EPOCHS = 110
# Nothing is said of arithmetic: by itself it is the same on hosts that are alike, and so are the weights.
# One question for all networks, so that what is proposed does not hang on who is quicker.
SPEC = f"""
data: {{ dataset: datasets/digits }}
generator: {{ generator: generators/random }}
space: {{ chain: {{ minLayers: 1, maxLayers: 2, kernels: [3], channels: [4, 8], pooling: true }} }}
objectives: [{{ metric: accuracy, goal: GOAL_MAXIMIZE }}]
budget: {{ maxTrials: 3 }}
parallelism: 3
train: {{ epochs: {EPOCHS}, batchSize: 64, checkpointIntervalS: 0.2 }}
evaluate: {{ latency: false, threads: 1 }}
final: {{ train: {{ epochs: {FINAL_EPOCHS} }} }}
cache: CACHE_MODE_REPEAT
seed: 1
"""


def fill(fleet: Fleet) -> None:
    """Add the servers' hosts, and return when all work for the scheduler."""
    for name, kind in SERVERS.items():
        fleet.add(name, kind)
    for name, kind in SERVERS.items():
        fleet.await_agent(name, kind)


def unheard(_change: dict[str, Any]) -> None:
    """Take no notice of a change."""


def undisturbed(fleet: Fleet, search_id: str, hear: Callable[[dict[str, Any]], None] = unheard) -> Trials:
    """Run the search and return its trials; `hear` is told of every change."""
    fleet.desk.create(search_id, SPEC)
    for change in fleet.desk.watch(search_id):
        hear(change)
    return fleet.desk.trials(search_id)


def nasmesh(fleet: Fleet, *words: str) -> str:
    """Run a command at the desk, as its owner does, and return what it prints."""
    home = fleet["desk"].home
    access = ["--token-file", f"{home}/desk.token", "--cert-file", f"{home}/desk.crt", "--key-file", f"{home}/desk.key"]
    fleet.tell(f"desk$ nasmesh {' '.join(words)}")
    done = fleet["desk"].run([PYTHON, "-m", "clients.cli.main", *words, "--scheduler", f"hub:{PORT}", *access])
    assert done.returncode == 0, done.stderr
    return done.stdout


def dial(fleet: Fleet, host: str, port: str) -> str:
    """Return what comes of dialling a host from the desk: "answered", "refused" or "timed out"."""
    return fleet["desk"].run([PYTHON, "-c", _DIAL, host, port]).stdout.strip()


class Troubles:
    """What happens to the hosts during one search, each once and in this order, as its changes tell of work there."""

    def __init__(self, fleet: Fleet) -> None:
        """Plan them."""
        self._fleet = fleet
        self._left: list[tuple[str, Callable[[], None]]] = [
            ("gpu1", self._kill_one_and_add_another),
            ("gpu2", self._cut_off_and_heal),
            ("", self._drain),
        ]

    @property
    def are_over(self) -> bool:
        """Whether everything has happened."""
        return not self._left

    def note(self, change: dict[str, Any]) -> None:
        """Do the next thing where its host is at work, or any for the last."""
        at_work = training_host(change)
        if self._left and at_work and self._left[0][0] in ("", at_work):
            self._left.pop(0)[1]()

    def _kill_one_and_add_another(self) -> None:
        self._fleet.tell("gpu1 loses power in the middle of a training; gpu3 is bought and put to work")
        self._fleet["gpu1"].kill()
        self._fleet.add("gpu3", "train")

    def _cut_off_and_heal(self) -> None:
        lease_s = self._fleet.lease_s
        self._fleet.tell(f"gpu2 is cut off from the scheduler for {LONG_S:.0f} s; a lease has {lease_s:.0f} s")
        self._fleet["gpu2"].cut(self._fleet["hub"])
        pause(LONG_S)
        self._fleet["gpu2"].heal()
        self._fleet.await_agent("gpu3", "train")

    def _drain(self) -> None:
        nasmesh(self._fleet, "agent", "drain", agent_name("gpu2", "train"), "--release")


def disturbed(fleet: Fleet, search_id: str, hear: Callable[[dict[str, Any]], None] = unheard) -> Trials:
    """Run the search with troubles and return its trials; `hear` is told of every change."""
    troubles = Troubles(fleet)
    fleet.desk.create(search_id, SPEC)
    for change in fleet.desk.watch(search_id):
        hear(change)
        troubles.note(change)
    assert troubles.are_over, "the search ended before everything had happened"
    return fleet.desk.trials(search_id)
