"""Servers as jobs of a Slurm cluster: one batch job a server, whose batch process is the server.

One job each and no job arrays: servers come and go one by one, and each has a name of its own. Jobs are submitted with
`--requeue`, so that the server of a failed or preempted node comes back under its name. They are known by their
comment, "nasmesh/{deployer}/{pool}", for as long as Slurm remembers them (MinJobAge); what it forgot has ended.
"""

import math
import re
import shlex
from collections.abc import Iterator, Sequence

from nasmesh.clock import Clock, SystemClock
from nasmesh.errors import Invalid
from nasmesh.v1 import deployer_pb2 as pb
from scheduler.deployers.base import DOES_NOT_FIT, Fault, Order, Site, Standing, State, refuse
from scheduler.deployers.engines.slurm_commands import Job, cancel, jobs, submit
from scheduler.deployers.engines.started import Started

_MIB = 2**20
_WORD = re.compile(r"[A-Za-z0-9_.:@,/+-]{1,128}")
_RESOURCE = re.compile(r"[A-Za-z0-9_.:/+-]{1,128}")
_CONSTRAINT = re.compile(r"[A-Za-z0-9_.:,&|*()\[\]=-]{1,256}")
_LICENCE = "license:"
_GPU_GRES = ("gpu", "mps", "shard")
_INHERITED = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LD_LIBRARY_PATH")
"""What a job has of the deployer's environment: where programs are. Nothing else, as it may hold secrets."""


class SlurmEngine:
    """Starts and stops servers by sbatch, squeue and scancel, which this host must have."""

    kind_name = "slurm"

    def __init__(self, pool: pb.ServerPool, site: Site, *, clock: Clock | None = None) -> None:
        """Check the pool's settings; raises Invalid (CONFIG_INVALID) with every field that is wrong."""
        refuse(_faults(pool))
        self._pool = pool
        self._comment = f"nasmesh/{site.deployer}/{pool.name}"
        self._output = pool.slurm.output_dir or str(site.home / "slurm" / "output")
        self._makes_output = not pool.slurm.output_dir
        self._home = site.home
        self._started = Started(site.home / "slurm" / "started" / pool.name)
        self._clock = clock or SystemClock()
        self._ends: dict[str, float] = {}
        self._told: set[str] = set()

    def start(self, order: Order) -> None:
        """Submit a server's job, once by name; raises Invalid (DOES_NOT_FIT and others), Unavailable (ENGINE_DOWN)."""
        if order.name in self._started.notes() or self._live(order.name):
            return
        if self._makes_output:
            (self._home / "slurm" / "output").mkdir(parents=True, exist_ok=True)
        environment = {**_without_gpus(order), **order.environment}
        names = dict.fromkeys((*_INHERITED, *environment))
        arguments = [*self._arguments(order), f"--export={','.join(names)}"]
        job_id = submit(arguments, self._script(order), environment)
        for job in self._live(order.name):
            if job.fault:
                cancel(job_id, softly=False)
                text = f"{job.fault}: the partition, as it is configured, never runs such a job: {job.reason}"
                raise Invalid(DOES_NOT_FIT, text, field=job.fault)
        self._started.add(order.name, job_id)

    def stop(self, name: str, grace_s: float) -> None:
        """Send a server SIGTERM, and cancel its job after the grace; one that waits is cancelled at once."""
        for job in self._live(name):
            if job.state is State.PENDING:
                cancel(job.job_id, softly=False)
            elif name not in self._ends:
                cancel(job.job_id, softly=True)
                self._ends[name] = self._clock.monotonic() + grace_s

    def standings(self) -> Sequence[Standing]:
        """Return how the pool's jobs stand, and cancel those whose grace is over."""
        known = {job.name: job for job in jobs() if job.comment == self._comment}
        notes = self._started.notes()
        for name in known.keys() - notes.keys():
            if known[name].state is State.ENDED:  # refused when it was started, or of a life of which nothing is left
                del known[name]
            else:
                self._started.add(name, known[name].job_id)
        standings = [Standing(name, job.state, self._reason(job)) for name, job in sorted(known.items())]
        self._told |= {standing.name for standing in standings if standing.state is State.ENDED}
        for name in sorted(set(notes) - set(known)):
            if name in self._told:
                self._told.discard(name)
                self._started.forget(name)
            else:
                self._told.add(name)
                standings.append(
                    Standing(name, State.ENDED, f"Slurm has forgotten job {notes[name]}: it ended a while ago")
                )
        self._end_overdue({standing.name: standing.state for standing in standings}, known)
        return standings

    def close(self) -> None:
        """Nothing is held: every command is a process of its own."""

    def _live(self, name: str) -> list[Job]:
        """Return the jobs of one server that have not ended: one, or none."""
        return [job for job in jobs(name=name) if job.comment == self._comment and job.state is not State.ENDED]

    def _end_overdue(self, states: dict[str, State], known: dict[str, Job]) -> None:
        for name, until in list(self._ends.items()):
            if states.get(name, State.ENDED) is State.ENDED:
                del self._ends[name]
            elif states[name] is State.PENDING or self._clock.monotonic() >= until:
                cancel(known[name].job_id, softly=False)

    def _reason(self, job: Job) -> str:
        sentence = job.sentence()
        return f"{sentence}; its output is {self._output}/{job.name}.log" if job.failed else sentence

    def _arguments(self, order: Order) -> list[str]:
        """Return sbatch's flags for one server."""
        slurm, wanted = self._pool.slurm, order.resources
        flags = [
            f"--job-name={order.name}",
            f"--comment={self._comment}",
            "--nodes=1",
            "--ntasks=1",
            "--requeue",
            "--open-mode=append",
            f"--output={self._output}/{order.name}.log",
            # To the server alone, so long before the job's time is over that it can end by itself.
            f"--signal=B:TERM@{_grace_s(self._pool)}",
        ]
        if wanted.cpus > 0:
            flags.append(f"--cpus-per-task={math.ceil(wanted.cpus)}")
        if wanted.memory_bytes > 0:
            flags.append(f"--mem={math.ceil(wanted.memory_bytes / _MIB)}M")
        kind = f":{slurm.gpu_type}" if slurm.gpu_type else ""
        gres = [f"gpu{kind}:{wanted.gpus}"] if wanted.gpus else []
        licences: list[str] = []
        for name, amount in sorted(wanted.custom.items()):
            into, plain = (licences, name[len(_LICENCE) :]) if name.startswith(_LICENCE) else (gres, name)
            into.append(f"{plain}:{_whole(name, amount)}")
        flags += [f"--gres={','.join(gres)}"] if gres else []
        flags += [f"--licenses={','.join(licences)}"] if licences else []
        flags += [
            f"--{flag}={value}"
            for flag, value in (
                ("partition", slurm.partition),
                ("account", slurm.account),
                ("qos", slurm.qos),
                ("constraint", slurm.constraint),
            )
            if value
        ]
        if slurm.HasField("time_limit"):
            flags.append(f"--time={_minutes(slurm.time_limit.ToTimedelta().total_seconds())}")
        return flags

    def _script(self, order: Order) -> str:
        """Return the batch script; it becomes the server, so that the server itself gets the job's signals."""
        lines = ["#!/bin/sh", *self._pool.slurm.setup, f"exec {shlex.join(order.command)}"]
        return "\n".join(lines) + "\n"


def _faults(pool: pb.ServerPool) -> Iterator[Fault]:
    slurm = pool.slurm
    for field in ("partition", "account", "qos", "gpu_type"):
        if (value := getattr(slurm, field)) and not _WORD.fullmatch(value):
            yield f"slurm.{field}", f"{value[:80]!r} is no name that Slurm has"
    if slurm.constraint and not _CONSTRAINT.fullmatch(slurm.constraint):
        yield "slurm.constraint", f"{slurm.constraint[:80]!r} is no list of node features"
    if slurm.output_dir and (not slurm.output_dir.startswith("/") or re.search(r"[%\\\n\0]", slurm.output_dir)):
        yield "slurm.output_dir", "give an absolute directory that all nodes have, without % and \\"
    for number, line in enumerate(slurm.setup):
        if "\0" in line or line.lstrip().startswith("#SBATCH"):
            yield f"slurm.setup.{number}", "is a line of shell; what sbatch is told are other fields"
    if slurm.HasField("time_limit"):
        limit, least = slurm.time_limit.ToTimedelta().total_seconds(), _grace_s(pool) + 60
        if limit < least:
            yield "slurm.time_limit", f"{limit:.0f} s leave no time to work; at least {least} s with this stop_grace"
    if pool.resources.gpu_memory_bytes > 0 and not (slurm.gpu_type or slurm.constraint):
        text = "Slurm does not place by it; name the GPU in slurm.gpu_type or a node feature in slurm.constraint"
        yield "resources.gpu_memory_bytes", f"{text} as well"
    for number, resource in enumerate(pool.resources.custom):
        plain = resource.name.removeprefix(_LICENCE)
        if not _RESOURCE.fullmatch(plain) or resource.amount != int(resource.amount) or resource.amount < 1:
            text = f"{resource.name[:80]!r} must name a GRES, or a licence as {_LICENCE}NAME, and be a whole number"
            yield f"resources.custom.{number}", text


def _without_gpus(order: Order) -> dict[str, str]:
    """Return what hides the node's GPUs from a server that reserves none, as not every cluster confines its jobs."""
    reserves = order.resources.gpus or any(name.startswith(_GPU_GRES) for name in order.resources.custom)
    return {} if reserves else {"CUDA_VISIBLE_DEVICES": ""}


def _grace_s(pool: pb.ServerPool) -> int:
    seconds = pool.stop_grace.ToTimedelta().total_seconds() if pool.HasField("stop_grace") else 30.0
    return max(1, math.ceil(seconds))


def _minutes(seconds: float) -> str:
    """Return a time limit as sbatch reads it: whole minutes, as Slurm counts them."""
    return str(math.ceil(seconds / 60))


def _whole(name: str, amount: float) -> int:
    if amount != int(amount):
        raise Invalid("CONFIG_INVALID", f"resources.custom: {name} must be a whole number", field="resources.custom")
    return int(amount)
