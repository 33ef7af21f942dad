"""What a host has, what is taken of it, and whether something still fits. Arithmetic, and one look at nvidia-smi."""

import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from scheduler.deployers.base import Resources

_SMI_S = 20.0
_MIB = 1 << 20


class Gpu(NamedTuple):
    """One GPU: what CUDA_VISIBLE_DEVICES calls it, and its memory; 0: unknown."""

    id: str
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Share:
    """A part of a host: amounts, and GPUs by id. `known` describes the GPUs of the whole host."""

    resources: Resources
    gpus: Sequence[str] = ()
    known: Mapping[str, Gpu] = field(default_factory=dict)

    def less(self, taken: "Iterable[Share]") -> "Share":
        """Return what is left of it."""
        cpus, memory = self.resources.cpus, self.resources.memory_bytes
        custom = dict(self.resources.custom)
        gone: set[str] = set()
        for share in taken:
            cpus -= share.resources.cpus
            memory -= share.resources.memory_bytes
            gone.update(share.gpus)
            for name, amount in share.resources.custom.items():
                custom[name] = custom.get(name, 0.0) - amount
        left = Resources(cpus=cpus, memory_bytes=memory, custom=custom)
        return Share(left, tuple(gpu for gpu in self.gpus if gpu not in gone), self.known)


def shortage(wanted: Resources, total: Share, left: Share) -> str:
    """Return what is missing for a server, in words; "" where it fits into what is left."""
    have, free = total.resources, left.resources
    if wanted.cpus > free.cpus + 1e-9:
        return f"{wanted.cpus:g} processors are asked for, {max(0.0, free.cpus):g} of {have.cpus:g} are free"
    if wanted.memory_bytes > free.memory_bytes:
        told = f"{max(0, free.memory_bytes) // _MIB} of {have.memory_bytes // _MIB}"
        return f"{wanted.memory_bytes // _MIB} MiB of memory are asked for, {told} MiB are free"
    for name, amount in wanted.custom.items():
        there = free.custom.get(name, 0.0)
        if amount > there + 1e-9:
            return f"{amount:g} {name} are asked for, {max(0.0, there):g} of {have.custom.get(name, 0.0):g} are free"
    fitting = _fitting(wanted, left)
    if wanted.gpus > len(fitting):
        of_memory = f" with {wanted.gpu_memory_bytes // _MIB} MiB" if wanted.gpu_memory_bytes else ""
        return f"{wanted.gpus} GPUs{of_memory} are asked for, {len(fitting)} of {len(total.gpus)} are free"
    return ""


def pick(wanted: Resources, left: Share) -> tuple[str, ...]:
    """Return the GPUs for a server that fits: the smallest that do, so that large ones are left for who needs them."""
    found = sorted(_fitting(wanted, left), key=lambda gpu: gpu.memory_bytes)
    return tuple(gpu.id for gpu in found[: wanted.gpus])


def _fitting(wanted: Resources, left: Share) -> list[Gpu]:
    found = [left.known.get(gpu, Gpu(gpu)) for gpu in left.gpus]
    return [gpu for gpu in found if gpu.memory_bytes >= wanted.gpu_memory_bytes]


def list_gpus() -> list[Gpu]:
    """Return this host's GPUs by nvidia-smi, those that CUDA_VISIBLE_DEVICES leaves; none where there is no driver."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, "--query-gpu=index,uuid,memory.total", "--format=csv,noheader,nounits"]
    try:
        text = subprocess.run(command, capture_output=True, text=True, timeout=_SMI_S, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return parse_gpus(text, os.environ.get("CUDA_VISIBLE_DEVICES"))


def parse_gpus(text: str, visible: str | None) -> list[Gpu]:
    """Return the GPUs in nvidia-smi's lines "index, uuid, MiB" that are visible (None: all)."""
    allowed = None if visible is None else {part.strip() for part in visible.split(",")}
    found: list[Gpu] = []
    for line in text.splitlines():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) == 3 and parts[2].isdigit() and (allowed is None or allowed & {parts[0], parts[1]}):
            found.append(Gpu(parts[1], int(parts[2]) * _MIB))
    return found


def host_memory_bytes() -> int:
    """Return this host's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
