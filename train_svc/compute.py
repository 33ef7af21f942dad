"""How arithmetic is done: device, threads, number format, layout.

What is not asked for follows from the network and the processors of the host, never from a clock, so that equal
trainings on equal hosts have equal bits. Only a precision of AUTO is timed (and compiling: train_svc.compiling).
"""

import contextlib
import copy
import hashlib
import math
import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, fx
from torch.utils import deterministic

from nasmesh.clock import Clock, thread_processor_s
from nasmesh.model.engine.modules import Network
from nasmesh.v1 import training_pb2 as pb

PROBE_STEPS = 2
# With so few samples an option is tried first, where more would take seconds: bfloat16 on processors without the
# instructions for it is ten times as slow. They do not tell which of two good options is faster: where 64 samples of a
# depthwise-heavy network took 0.6 of float32's time, 8 took 1.2 of it.
_SIEVE_SAMPLES = 8
# Times the best so far. Set-up makes a first step dearer, but not by that where the one compared with had its own.
_HOPELESS = 4.0
# The same for a step after the first: one that took so much longer is not made up for by the next.
_BEATEN = 1.25
OBSERVERS = "_observers"
"""Scope of the modules that watch a network's values: they are no part of what it computes."""
# Below this many multiply-accumulates a forward pass, threads wait for each other longer than they compute.
THREADS_FROM_MACS = 500_000_000
# Below this many updates a probe of six passes costs more than 1.5 % of them; the first candidate is taken.
PROBE_FROM_STEPS = 400
# Times faster than the first candidate; what is less may be chance, and is not worth results of another precision.
CLEARLY_FASTER = 1.1
# What torch took from OMP_NUM_THREADS, which the server sets (nasmesh.host.thread_environment).
_DEFAULT_THREADS = torch.get_num_threads()
_PRECISIONS = {
    pb.PRECISION_FLOAT32: "float32",
    pb.PRECISION_BFLOAT16: "bfloat16",
    pb.PRECISION_FLOAT16: "float16",
}
_AUTOCAST = {"bfloat16": torch.bfloat16, "float16": torch.float16}
_NCHW, _NHWC = "nchw", "nhwc"
# AUTO is a rule, not a measurement, which could turn out otherwise on another host and give a result other last bits.
# It costs nothing: channels first was never the faster one (`benchmarks.layouts`).
_LAYOUTS = {pb.LAYOUT_AUTO: _NHWC, pb.LAYOUT_NCHW: _NCHW, pb.LAYOUT_NHWC: _NHWC}


@dataclass(frozen=True, slots=True)
class Choice:
    """The arithmetic of one training: part of its result's identity."""

    precision: str = "float32"
    layout: str = _NCHW
    compiled: bool = False

    @property
    def memory_format(self) -> torch.memory_format:
        """The layout as torch names it."""
        return torch.channels_last if self.layout == _NHWC else torch.contiguous_format

    def place(self, module: fx.GraphModule) -> None:
        """Put the module's rank-4 tensors into the layout."""
        module.to(memory_format=self.memory_format)  # type: ignore[call-overload]  # missing in torch's stubs

    def arrange(self, x: Tensor) -> Tensor:
        """Return a batch [N, C, H, W] in the layout; other ranks as they are."""
        return x.contiguous(memory_format=self.memory_format) if x.dim() == 4 else x

    @contextlib.contextmanager
    def arithmetic(self, device: torch.device) -> Iterator[None]:
        """Run the forward pass inside in the number format."""
        if self.precision in _AUTOCAST:
            with torch.autocast(device.type, dtype=_AUTOCAST[self.precision]):
                yield
        else:
            yield


def best_device() -> torch.device:
    """Return the first GPU, or the processor."""
    return torch.device("cuda:0") if torch.cuda.is_available() else torch.device("cpu")


def one_each(device: torch.device, processes: int) -> bool:
    """Say whether as many processes of this machine can have a GPU of their own each; nccl takes no less."""
    return device.type == "cuda" and torch.cuda.device_count() >= processes


def prepare(policy: pb.ComputePolicy, *, macs_per_step: int) -> int:
    """Set threads and determinism for this process and return the number of threads in use."""
    torch.set_num_threads(policy.threads or (_DEFAULT_THREADS if macs_per_step >= THREADS_FROM_MACS else 1))
    # Warn only: a few backward passes on GPUs have no deterministic form, and a training is worth more than none.
    torch.set_deterministic_debug_mode("warn")  # use_deterministic_algorithms imports the compiler, 3 s
    deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # missing in torch's stubs
    torch.backends.cudnn.benchmark = False
    return torch.get_num_threads()


def candidates(policy: pb.ComputePolicy, *, total_steps: int) -> list[Choice]:
    """Return what the policy allows, what others are measured against first; only that where probing cannot pay."""
    precisions = ["float32", "bfloat16"] if policy.precision == pb.PRECISION_AUTO else [_PRECISIONS[policy.precision]]
    every = [Choice(precision, _LAYOUTS[policy.layout]) for precision in precisions]
    return every if total_steps >= PROBE_FROM_STEPS else every[:1]


def fastest(options: list[Choice], seconds: Callable[[Choice, float], float], memory: "ProbeMemory") -> Choice:
    """Return the first option, or one that is clearly faster, or what an earlier probe of the same question found.

    `seconds(option, best)` measures one, and may give up on what cannot come near the best so far.
    """
    known = memory.recall()
    if known in options:
        return known
    best, chosen = float("inf"), options[0]
    for option in options:
        took = seconds(option, best)
        if took * CLEARLY_FASTER < best:
            best, chosen = took, option
    return memory.keep(chosen)


class ProbeMemory:
    """Remembers what a probe chose: timings vary, and the same seed on the same machine must give the same weights."""

    def __init__(self, directory: Path, question: str) -> None:
        """`question` names everything that the answer depends on, for one machine."""
        host = f"{platform.node()} {platform.machine()} {os.cpu_count()} torch {torch.__version__}"
        self._file = directory / hashlib.sha256(f"{host}\n{question}".encode()).hexdigest()

    def recall(self) -> Choice | None:
        """Return the choice that was kept, if any."""
        try:
            precision, layout = self.recall_text().split()
        except ValueError:
            return None
        return Choice(precision, layout)

    def keep(self, choice: Choice) -> Choice:
        """Record the choice and return the one in force: the first that was recorded, when two processes probed."""
        self.keep_text(f"{choice.precision} {choice.layout}")
        return self.recall() or choice

    def recall_text(self) -> str:
        """Return what was kept; empty for nothing."""
        try:
            return self._file.read_text()
        except (OSError, ValueError):
            return ""

    def keep_text(self, text: str) -> str:
        """Record an answer and return the one in force: the first that was recorded, when two processes probed."""
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            part = self._file.with_name(f"{self._file.name}.{os.getpid()}")
            part.write_text(text)
            with contextlib.suppress(FileExistsError):
                os.link(part, self._file)
            part.unlink()
        except OSError:
            return text  # a read-only home costs repeatability of AUTO, not the training
        return self.recall_text() or text


def timer_of(device: torch.device, clock: Clock) -> Callable[[], float]:
    """Return what reads the seconds that work on a device takes; on processors those of this thread.

    Options are compared, and other programs slow whichever runs while they do: on the wall the slower one often won.
    """
    return thread_processor_s if device.type == "cpu" else clock.monotonic


def probe_seconds(module: fx.GraphModule, x: Tensor, timer: Callable[[], float]) -> Callable[[Choice, float], float]:
    """Return a function that times one forward and backward pass of a copy of the module over `x`, the best of a few.

    Infinite where a few samples show that the option is hopeless beside the first that was timed.
    """
    copied = (module.replica() if isinstance(module, Network) else copy.deepcopy(module)).train()
    few = x[:_SIEVE_SAMPLES] if x.device.type == "cpu" and len(x) > _SIEVE_SAMPLES else None
    first: list[float] = []

    def one_pass(choice: Choice, batch: Tensor) -> float:
        finish(x.device)
        begin = timer()
        with choice.arithmetic(x.device):
            outputs = copied(choice.arrange(batch))
        logits = outputs if isinstance(outputs, Tensor) else outputs[0]
        logits.float().square().mean().backward()
        finish(x.device)
        took = timer() - begin
        copied.zero_grad()
        return took

    def is_hopeless(choice: Choice) -> bool:
        if few is None:
            return False
        if not first:
            first.extend([one_pass(choice, few), one_pass(choice, few)])
            return False
        return all(one_pass(choice, few) > _HOPELESS * others for others in first)

    def seconds(choice: Choice, others: float) -> float:
        choice.place(copied)
        if is_hopeless(choice):
            return math.inf
        best = math.inf
        for number in range(1 + PROBE_STEPS):  # the first pays for set-up and is not counted
            took = one_pass(choice, x)
            if number:
                best = min(best, took)
            if took > (_BEATEN if number else _HOPELESS) * others:
                return took
        return best

    return seconds


def finish(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def describe(device: torch.device) -> str:
    """Return the device's model, for people."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def warm() -> None:
    """Pay for first use before the first job: torch's kernels and autograd start in a thread of their own."""
    x = torch.randn(2, 1, 8, 8, requires_grad=True)
    weight = torch.randn(4, 1, 3, 3, requires_grad=True)
    torch.nn.functional.conv2d(x, weight, padding=1).relu().mean().backward()  # type: ignore[no-untyped-call]
