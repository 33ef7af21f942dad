"""What a training will hold, before it runs; and what it held, beside that: bounded, measured and learned from."""

import contextlib
import math
from pathlib import Path
from types import TracebackType

import torch

from nasmesh import memory, training_config
from nasmesh.data.info import IMAGE, DatasetInfo
from nasmesh.data.resolve import resolve
from nasmesh.jobs.context import JobContext
from nasmesh.jobs.failures import OUT_OF_MEMORY, failure_of
from nasmesh.model.admission import Admitted
from nasmesh.model.counting import peak_activation_bytes
from nasmesh.settings import read_settings
from nasmesh.store.open import open_store
from nasmesh.v1 import train_service_pb2 as pb
from nasmesh.v1 import training_pb2
from train_svc.compute import best_device, describe
from train_svc.networks import look_at

_PROCESS = Path("/proc/self")
_RESET_PEAK = "5"  # proc(5), clear_refs: the high-water mark begins anew


def weigh(request: bytes) -> int:
    """Return the bytes that a serialised StartTrainingRequest will hold, beyond what this process holds already.

    Raises Rejected, NotFound, Invalid, Unavailable (STORE_DOWN): whatever the training itself would be refused for.
    """
    start = pb.StartTrainingRequest.FromString(request)
    store = open_store(read_settings().store)
    admitted = look_at(store, start.network)
    return estimate(admitted, start.config, resolve(start.data, store), best_device().type)


def estimate(admitted: Admitted, config: training_pb2.TrainConfig, info: DatasetInfo, device: str) -> int:
    """Return the bytes that a training of this network on this data will hold."""
    counts = admitted.counts
    network = memory.Network(
        parameters=counts.parameters,
        activations=counts.activations,
        training_peak=counts.training_peak,
        forward_peak=peak_activation_bytes(admitted.model, admitted.dims) // 4,
    )
    data = memory.Data(
        numbers=math.prod(info.sample_dims),
        width=1 if info.kind == IMAGE else 4,
        samples=info.samples + info.test_samples,
    )
    return memory.predict(network, training_config.complete(config), data, device)


class Meter:
    """Bounds one training on its device and measures the most that it holds, in bytes; 0: not known.

    On a processor the bound is the process's own (nasmesh.jobs.bounds) and the measure its resident memory; on a GPU
    both are the allocator's. What is measured teaches this host's estimates. Of a training over several processes
    only this one is seen: it is bounded to its part, and nothing is known of the whole.
    """

    def __init__(self, context: JobContext, *, processes: int = 1) -> None:
        """Measure the job of this context, which `processes` work on."""
        self._context = context
        self._alone = processes <= 1
        self._part_bytes = context.memory_bytes // max(1, processes)
        self._device = best_device()
        self._before = 0
        self.peak_bytes = 0

    def __enter__(self) -> "Meter":
        """Begin."""
        if self._device.type == "cuda":
            self._bound(self._part_bytes)
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            self._before = _resident("VmRSS") if _reset_peak() else 0
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End; what ran out of memory wanted more than it was given."""
        self.peak_bytes = self._peak() if self._alone else 0
        if self._device.type == "cuda":
            self._bound(0)
            torch.cuda.empty_cache()
        ran_out = error is not None and failure_of(error).reason == OUT_OF_MEMORY
        if self._alone and (error is None or ran_out):
            held = max(self.peak_bytes, self._context.memory_bytes) if ran_out else self.peak_bytes
            memory.Learned(describe(self._device)).note(self._context.foretold.estimated, held)

    def _bound(self, memory_bytes: int) -> None:
        _, total = torch.cuda.mem_get_info(self._device)
        share = min(1.0, memory_bytes / total) if memory_bytes else 1.0
        torch.cuda.set_per_process_memory_fraction(share, self._device)

    def _peak(self) -> int:
        if self._device.type == "cuda":
            return int(torch.cuda.max_memory_reserved(self._device))
        return max(0, _resident("VmHWM") - self._before) if self._before else 0


def _reset_peak() -> bool:
    try:
        (_PROCESS / "clear_refs").write_text(_RESET_PEAK)
    except OSError:
        return False
    return True


def _resident(field: str) -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in (_PROCESS / "status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) << 10
    return 0
