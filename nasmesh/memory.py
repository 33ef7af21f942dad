"""Foretells how much memory a training will hold, from what is known of it before it runs. Pure Python.

An estimate from first principles (weights, gradients, optimiser state, what the forward pass leaves behind, samples),
times a factor that this host has learned from what trainings really held. Bytes throughout; what a fresh process holds
by itself does not count.
"""

import contextlib
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nasmesh.errors import Invalid
from nasmesh.limits import DATASET_MEMORY_BYTES, MIB
from nasmesh.settings import home
from nasmesh.training_rules import processes_here
from nasmesh.v1 import job_pb2
from nasmesh.v1 import training_pb2 as pb

METRIC = "train_memory_bytes"
"""The metric that a training is outside of which does not fit."""

_FLOAT = 4
# What a first training adds to a warm process whatever its size: code that is loaded late, threads, small objects.
_FIXED = {"cpu": 40 * MIB, "cuda": 80 * MIB}
# Of what is alive at once: reorders for kernels, and what allocators round up and cannot give back in between.
_SLACK = {"cpu": 1.35, "cuda": 1.25}
# Of activations in half precision: some operators go on in float32, and weights are held in both. Processors without
# half-precision arithmetic compute in float32 behind it; channels first, they unfold every window for that.
_HALF = {"cpu": 1.0, "cuda": 0.7}
_HALF_UNFOLDED = 2.6
_HALF_KERNELS = 24 * MIB  # code and buffers of a second number format on a processor
# A checkpoint is copied, turned into messages, serialised and read back beside the training.
_CHECKPOINT_COPIES = 4
_COMPILER = 600 * MIB
_BUFFER = 256 * MIB  # train_svc.samples reads no more ahead
_PUBLISHED_ROWS, _VALIDATED_ROWS = 32, 256  # train_svc.publish, train_svc.validation
_BATCH_COPIES, _AUGMENTED_COPIES = 3, 10

_UNITS = {"": 1, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([KMGT]i?B|B?)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Network:
    """Static figures of a network at batch 1, in numbers: see nasmesh.model.counting.Counts.

    `training_peak` and `forward_peak` (alive at once without gradients) are 0 where nobody counted them.
    """

    parameters: int
    activations: int
    training_peak: int = 0
    forward_peak: int = 0


@dataclass(frozen=True, slots=True)
class Data:
    """The data: numbers of one sample, bytes of each as stored, samples in all."""

    numbers: int
    width: int
    samples: int


def predict(network: Network, config: pb.TrainConfig, data: Data, device: str = "cpu") -> int:
    """Return the bytes that a training will hold at most, on a "cpu" or a "cuda" device.

    `config` must be complete (nasmesh.training_config). Of a training over several processes each holds this, with its
    part of every batch: all of them where one server runs them, one where each has a server of its own.
    """
    processes = max(1, config.distribution.processes)
    batch = min(config.batch_size, max(1, data.samples))
    part = math.ceil(batch / max(1, config.accumulate_batches) / processes)
    held = _state(network, config) + _samples(data, device) + _batch(data, config, part)
    held += _activations(network, config, part, device)
    if device == "cpu" and config.compute.precision not in (pb.PRECISION_UNSPECIFIED, pb.PRECISION_FLOAT32):
        held += _HALF_KERNELS
    if config.compute.compile not in (pb.COMPILE_MODE_UNSPECIFIED, pb.COMPILE_MODE_NEVER):
        held += _COMPILER if device == "cpu" else 0
    return processes_here(config) * (_FIXED[device] + math.ceil(held))


def _state(network: Network, config: pb.TrainConfig) -> float:
    kept = 1 + _moments(config.optimizer) + (1 if config.ema_decay else 0)
    beside = 1 + (1 if config.sam_rho else 0)  # gradients; the weights to come back to
    return network.parameters * _FLOAT * (kept + beside + _CHECKPOINT_COPIES * kept)


def _moments(optimizer: pb.OptimizerConfig) -> int:
    if optimizer.kind in (pb.OPTIMIZER_KIND_ADAM, pb.OPTIMIZER_KIND_ADAMW):
        return 2
    return 1 if optimizer.momentum else 0


def _samples(data: Data, device: str) -> float:
    whole = data.samples * data.numbers * data.width
    if whole > DATASET_MEMORY_BYTES:
        return _BUFFER if device == "cpu" else 0  # on a device there is a batch at a time
    # On a processor the data set itself and the part that is trained on; the process keeps both.
    return 2 * whole if device == "cpu" else whole


def _batch(data: Data, config: pb.TrainConfig, part: int) -> float:
    copies = _AUGMENTED_COPIES if config.augmentation.ListFields() else _BATCH_COPIES
    return copies * part * data.numbers * _FLOAT


def _activations(network: Network, config: pb.TrainConfig, part: int, device: str) -> float:
    half = config.compute.precision in (pb.PRECISION_BFLOAT16, pb.PRECISION_FLOAT16)
    trained: float = part * max(network.training_peak, network.activations)
    if half:
        unfolds = device == "cpu" and config.compute.layout == pb.LAYOUT_NCHW
        trained *= _HALF_UNFOLDED if unfolds else _HALF[device]
    rows = _VALIDATED_ROWS if config.validate_every_steps else _PUBLISHED_ROWS
    return max(trained, rows * network.forward_peak) * _FLOAT * _SLACK[device]


# --- what this host has learned -------------------------------------------------------------------------------------

_KEPT = 256
_FULL = 2 * _KEPT
_RATIO = (0.25, 4.0)
_FACTOR = (0.5, 3.0)
_PRIOR = 10
_PRIOR_FADES = 5
_QUANTILE = 0.95


class Learned:
    """What trainings on this host really held, beside what was foretold for them: one line each, the last ones count.

    Bounded in size and in effect, whatever a line says. A file that cannot be read or written costs precision only.
    """

    def __init__(self, device: str, directory: Path | None = None) -> None:
        """`device` names what the lines are of, for example "cpu" or "NVIDIA H100"."""
        name = re.sub(r"[^A-Za-z0-9.-]+", "-", device)[:80] or "device"
        self._file = (directory or home() / "memory") / name

    def factor(self) -> float:
        """Return what estimates are multiplied by here: 1 while nothing is known."""
        return factor_of(self._ratios())

    def note(self, predicted: int, measured: int) -> None:
        """Add what a training held for which `predicted` was estimated (without the factor)."""
        if predicted <= 0 or measured <= 0:
            return
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("a") as lines:  # one short write: lines of several processes do not mix
                lines.write(f"{predicted} {measured}\n")
            self._shorten()

    def _ratios(self) -> list[float]:
        try:
            lines = self._file.read_text(errors="replace").splitlines()
        except OSError:
            return []
        return [ratio for line in lines[-_KEPT:] if (ratio := _ratio(line)) is not None]

    def _shorten(self) -> None:
        lines = self._file.read_text(errors="replace").splitlines()
        if len(lines) > _FULL:
            part = self._file.with_name(f"{self._file.name}.{os.getpid()}")
            part.write_text("".join(f"{line[:64]}\n" for line in lines[-_KEPT:]))
            part.replace(self._file)


def factor_of(ratios: Sequence[float]) -> float:
    """Return the factor that covers 19 of 20 of these ratios of measured to estimated, between 0.5 and 3.

    Ten ratios of 1 stand for what was believed before; they fade as measurements come, so that one odd training moves
    little and many move all.
    """
    low, high = _FACTOR
    known = sorted([*ratios, *[1.0] * max(0, _PRIOR - len(ratios) // _PRIOR_FADES)])
    return min(high, max(low, known[min(len(known) - 1, math.floor(_QUANTILE * len(known)))]))


def _ratio(line: str) -> float | None:
    try:
        predicted, measured = (int(text) for text in line[:64].split())
    except ValueError:
        return None
    low, high = _RATIO
    return min(high, max(low, measured / predicted)) if predicted > 0 and measured > 0 else None


# --- what a server gives --------------------------------------------------------------------------------------------


def given_bytes(server: job_pb2.Server) -> int:
    """Return what jobs on a server's device may hold together, in bytes; 0 where it does not say."""
    return max([0, *(device.job_memory_bytes for device in server.devices)])


# --- sizes as people write them -------------------------------------------------------------------------------------


def parse_bytes(text: str, *, field: str = "memory") -> int:
    """Return the bytes that a text like "8GiB", "512MiB" or "4000000000" names; raises Invalid (SIZE_INVALID)."""
    found = _SIZE.fullmatch(text.strip())
    unit = found[2].upper() if found else ""
    unit = "" if unit == "B" else unit
    if found is None or unit not in _UNITS:
        raise Invalid("SIZE_INVALID", f"{field}: {text[:40]!r} is no size; write for example 8GiB", field=field)
    return int(float(found[1]) * _UNITS[unit])


def show_bytes(number: float) -> str:
    """Return bytes as people read them: "1.5 GiB"."""
    for unit in ("GiB", "MiB", "KiB"):
        if number >= _UNITS[unit.upper()]:
            return f"{number / _UNITS[unit.upper()]:.4g} {unit}"
    return f"{number:.0f} B"
