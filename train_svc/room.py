"""How much memory the trainings of one server share: asked for by a flag, or from the device. Imports no torch."""

import argparse

from nasmesh.agent.flags import ServerSettings
from nasmesh.errors import Invalid
from nasmesh.host import compute_device, usable_memory_bytes
from nasmesh.jobs.bounds import has_gpu
from nasmesh.jobs.process import ChildLimits
from nasmesh.jobs.room import Memory
from nasmesh.limits import MIB
from nasmesh.memory import METRIC, Learned, parse_bytes, show_bytes

_FEWEST = 256 * MIB
# Of a GPU's memory, what its driver does not keep; of a machine's, what the system and other programs do not need.
_GPU_SHARE, _MACHINE_SHARE = 0.92, 0.8
# What a warm child holds before any job: a CUDA context, or torch's own data.
_GPU_CHILD, _CPU_CHILD = 600 * MIB, 300 * MIB
_BESIDE = 2048 * MIB


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flag."""
    parser.add_argument(
        "--memory",
        default="",
        metavar="SIZE",
        help="what trainings may hold together, for example 8GiB; 0: no bound is kept [most of the device's]",
    )


def shared_memory(settings: ServerSettings) -> Memory:
    """Return the memory that trainings share; raises Invalid (SIZE_INVALID) for less than any of them needs."""
    device = compute_device()
    learned = Learned("cpu" if device.id == "cpu" else device.model)
    asked = str(settings.own.memory)
    budget = parse_bytes(asked) if asked else _default(settings.slots)
    if asked and 0 < budget < _FEWEST:
        message = f"memory: {show_bytes(budget)} is less than {show_bytes(_FEWEST)}, which a small training needs"
        raise Invalid("SIZE_INVALID", message, field="memory")
    return Memory(budget, METRIC, learned.factor)


def child_limits(memory: Memory) -> ChildLimits:
    """Return what one child may use: no less than all that trainings share, since one may have it alone."""
    usual = ChildLimits()
    return usual if has_gpu() else ChildLimits(memory_bytes=max(usual.memory_bytes, memory.budget + _BESIDE))


def _default(slots: int) -> int:
    device = compute_device()
    if device.id == "cpu":
        return max(_FEWEST, int(_MACHINE_SHARE * usable_memory_bytes()) - slots * _CPU_CHILD)
    return max(_FEWEST, int(_GPU_SHARE * device.memory_bytes) - slots * _GPU_CHILD)
