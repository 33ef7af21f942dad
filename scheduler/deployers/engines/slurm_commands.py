"""Slurm's own commands: what they are given, what they print, and which of our errors their refusals are."""

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from nasmesh.errors import Invalid, Unavailable
from scheduler.deployers.base import DOES_NOT_FIT, ENGINE_DOWN, State

_TIMEOUT_S = 20.0
"""A controller that is there answers in milliseconds; its commands themselves give up after 10 s by default."""
_SHOWN = 300
_COLUMNS = ("JobID", "Name", "State", "Comment", "exit_code", "Reason")
# Variables by which a deployer that itself runs in a Slurm job, or whose user has defaults, would change every command.
_STRAY = re.compile(r"(SBATCH|SQUEUE|SCANCEL|SLURM)_")
_OURS = ("SLURM_CONF", "SLURM_CONF_SERVER")

# From Slurm's own table of sentences: which field of the pool is at fault. The first that fits counts.
_REFUSALS: tuple[tuple[str, str], ...] = (
    ("memory specification", "resources.memory_bytes"),
    ("generic resource (gres)", "resources.gpus"),
    ("trackable resource", "resources.gpus"),
    ("invalid license", "resources.custom"),
    ("invalid feature", "slurm.constraint"),
    ("invalid partition", "slurm.partition"),
    ("invalid account", "slurm.account"),
    ("invalid qos", "slurm.qos"),
    ("time limit", "slurm.time_limit"),
    ("more processors requested", "resources.cpus"),
    ("requested node configuration is not available", "resources"),
    ("requested partition configuration not available", "resources"),
)
# Reasons of waiting jobs that only a change of the cluster's configuration ends.
_NEVER = {
    "BadConstraints": "resources",
    "PartitionConfig": "resources",
    "PartitionNodeLimit": "resources",
    "PartitionTimeLimit": "slurm.time_limit",
    "AccountNotAllowed": "slurm.account",
    "InvalidAccount": "slurm.account",
    "InvalidQOS": "slurm.qos",
    "QOSNotAllowed": "slurm.qos",
}
_GONE = ("invalid job id specified", "already completing or completed", "job/step already")

_PENDING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"}
_ENDED = {
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "COMPLETING",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "REVOKED",
    "STAGE_OUT",
    "TIMEOUT",
}
# What a waiting job's reason means for whoever reads it, where Slurm's own word does not say it.
_WAITS = {
    "Resources": "no node has room for it now",
    "Priority": "other jobs of the partition are before it",
    "BeginTime": "it was put back into the queue and starts again shortly",
    "ReqNodeNotAvail": "the nodes that it needs are down, drained or reserved",
    "Licenses": "all licences are in use",
    "None": "",
}


class Job(NamedTuple):
    """One job as squeue tells it."""

    job_id: str
    name: str
    word: str
    comment: str
    exit_code: int
    reason: str

    @property
    def state(self) -> State:
        """Where it stands; a state that this program does not know counts as running: nothing is started for it."""
        if self.word in _PENDING:
            return State.PENDING
        return State.ENDED if self.word in _ENDED else State.RUNNING

    @property
    def fault(self) -> str:
        """The field of the pool for which the partition will never run it, as it is configured now; "": none."""
        return _NEVER.get(self.reason, "") if self.state is State.PENDING else ""

    @property
    def failed(self) -> bool:
        """Whether it ended otherwise than well or by being cancelled, as far as Slurm tells it yet."""
        if self.word == "COMPLETING":  # its node is still tidied up: until then the exit code is all that is told
            return self.exit_code != 0
        return self.state is State.ENDED and self.word not in ("COMPLETED", "CANCELLED")

    def sentence(self) -> str:
        """Return for people why it waits or how it ended."""
        if self.state is State.PENDING:
            meaning = _WAITS.get(self.reason, "")
            known = self.reason not in ("", "None")
            return f"{self.reason}: {meaning}" if known and meaning else (self.reason if known else self.word.lower())
        if self.state is State.ENDED:
            code, signal = self.exit_code >> 8 & 0xFF, self.exit_code & 0x7F
            how = f" by signal {signal}" if signal else (f" with exit code {code}" if code else "")
            word = "ended" if self.word == "COMPLETING" else self.word.lower().replace("_", " ")
            return f"{word}{how}"
        return "" if self.word == "RUNNING" else self.word.lower()


def submit(arguments: Sequence[str], script: str, environment: Mapping[str, str]) -> str:
    """Submit a job and return its id; raises Invalid (DOES_NOT_FIT), Unavailable (ENGINE_DOWN)."""
    printed = _run(["sbatch", "--parsable", *arguments], script=script, environment=environment)
    return printed.strip().partition(";")[0]


def jobs(*, name: str = "") -> list[Job]:
    """Return this user's jobs that Slurm still knows, ended ones too; raises Unavailable (ENGINE_DOWN)."""
    columns = ",".join(f"{column}:|" for column in _COLUMNS)
    named = [f"--name={name}"] if name else []
    user = f"--user={os.getuid()}"
    printed = _run(["squeue", "--noheader", "--states=all", user, f"--Format={columns}", *named])
    return [_parse(line) for line in printed.splitlines() if line.strip()]


def cancel(job_id: str, *, softly: bool) -> None:
    """End a job: softly by a SIGTERM to the server alone, else as Slurm ends jobs. Ended ones are fine."""
    _run(["scancel", *(["--batch", "--signal=TERM"] if softly else []), job_id], tolerated=_GONE)


def _parse(line: str) -> Job:
    parts = line.split("|")
    if len(parts) <= len(_COLUMNS) or not parts[0]:
        raise Unavailable(ENGINE_DOWN, f"squeue printed a line that is not understood: {line[:_SHOWN]!r}")
    comment = "|".join(parts[3:-3])  # whatever somebody else's comment holds
    code = parts[-3]
    reason = "" if parts[-2] == "(null)" else parts[-2]
    return Job(parts[0], parts[1], parts[2], comment, int(code) if code.isdigit() else 0, reason)


def _run(
    command: Sequence[str],
    *,
    script: str = "",
    environment: Mapping[str, str] | None = None,
    tolerated: Sequence[str] = (),
) -> str:
    """Run one command and return what it printed."""
    env = {name: value for name, value in os.environ.items() if name in _OURS or not _STRAY.match(name)}
    env |= {**(environment or {}), "LC_ALL": "C"}
    try:
        done = subprocess.run(
            command, input=script, env=env, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except FileNotFoundError:
        raise Unavailable(
            ENGINE_DOWN, f"{command[0]} is not on the PATH; install Slurm's client programs on the deployer's host"
        ) from None
    except subprocess.TimeoutExpired:
        raise Unavailable(ENGINE_DOWN, f"{command[0]} did not answer within {_TIMEOUT_S:.0f} s") from None
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise Unavailable(ENGINE_DOWN, f"{command[0]} could not be run: {str(error)[:_SHOWN]}") from None
    if done.returncode == 0:
        return done.stdout
    said = " ".join(done.stderr.split())[:_SHOWN] or f"exit code {done.returncode}"
    if any(sentence in said.lower() for sentence in tolerated):
        return ""
    raise _refusal(command[0], said)


def _refusal(program: str, said: str) -> Invalid | Unavailable:
    """Return what a failed command means: an order that can never be met, or a cluster to ask again."""
    field = next((field for sentence, field in _REFUSALS if sentence in said.lower()), "")
    if program == "sbatch" and field:
        return Invalid(DOES_NOT_FIT, f"{field}: Slurm can never run such a job: {said}", field=field)
    return Unavailable(ENGINE_DOWN, f"{program}: {said}")
