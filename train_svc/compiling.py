"""Whether a network is compiled: where a measurement says that the time is won back within this training."""

import copy
import math
import os
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, fx

from nasmesh.clock import Clock
from nasmesh.errors import Invalid
from nasmesh.logs import get_logger
from nasmesh.settings import home
from nasmesh.v1 import training_pb2 as pb
from train_svc.compute import OBSERVERS, Choice, ProbeMemory, finish

Forward = Callable[[Tensor], Tensor | tuple[Tensor, ...]]

_STEPS = 3
# Foretold before anything is compiled: 10-24 s were seen for 40 nodes, 159 s for 400, and a third of the time saved.
_COMPILE_S, _COMPILE_S_PER_NODE, _SHARE_SAVED = 5.0, 0.4, 0.35

_log = get_logger("compile")


@dataclass(frozen=True, slots=True)
class Gain:
    """What compiling one network brings, in seconds: a step as it is, a compiled one, and compiling itself.

    The last two are infinite where it was foretold that it cannot pay, or where compiling failed.
    """

    step_s: float
    compiled_s: float = math.inf
    compile_s: float = math.inf

    def pays(self, steps: int) -> bool:
        """Say whether the time is won back within so many steps."""
        return (self.step_s - self.compiled_s) * steps > self.compile_s

    def to_text(self) -> str:
        """Return what a probe's memory keeps."""
        return f"{self.step_s!r} {self.compiled_s!r} {self.compile_s!r}"

    @staticmethod
    def from_text(text: str) -> "Gain":
        """Return what was kept; raises ValueError."""
        step_s, compiled_s, compile_s = (float(number) for number in text.split())
        return Gain(step_s, compiled_s, compile_s)


@dataclass(frozen=True, slots=True)
class Question:
    """Whether to compile this module, for so many passes over batches, or parts of one, like this one."""

    module: fx.GraphModule
    choice: Choice
    x: Tensor
    passes: int
    observed: bool


def worthwhile(policy: pb.ComputePolicy, asked: Question, memory: ProbeMemory, clock: Clock) -> bool:
    """Say whether the network is to be compiled; measured once for a network, batch, arithmetic and machine."""
    if policy.compile != pb.COMPILE_MODE_AUTO or asked.observed:
        # Observers run Python code between the network's layers: compiled around them, little is won.
        return policy.compile == pb.COMPILE_MODE_ALWAYS
    try:
        gain = Gain.from_text(memory.recall_text())
    except ValueError:
        gain = Gain.from_text(memory.keep_text(_measure(asked, clock).to_text()))
    return gain.pays(asked.passes)


def _measure(asked: Question, clock: Clock) -> Gain:
    step_s, _ = _time(asked, None, clock)
    expected_s = _COMPILE_S + _COMPILE_S_PER_NODE * len(asked.module.graph.nodes)
    if step_s * asked.passes * _SHARE_SAVED < expected_s:
        return Gain(step_s)
    try:
        compiled_s, compile_s = _time(asked, compiled, clock)
    except Invalid as error:
        _log.warning("not_compiled", reason=error.reason, text=error.message)
        return Gain(step_s)
    _log.info("compile_measured", step_s=step_s, compiled_s=compiled_s, compile_s=compile_s)
    return Gain(step_s, compiled_s, compile_s)


def _time(asked: Question, build: Callable[[fx.GraphModule], Forward] | None, clock: Clock) -> tuple[float, float]:
    """Return (seconds of a step, the best of a few; seconds of the first one) on a copy of the module."""
    copied = copy.deepcopy(asked.module).train()
    asked.choice.place(copied)
    forward = build(copied) if build is not None else copied
    times = []
    for _ in range(1 + _STEPS):
        finish(asked.x.device)
        begin = clock.monotonic()
        with asked.choice.arithmetic(asked.x.device):
            outputs = forward(asked.choice.arrange(asked.x))
        logits = outputs if isinstance(outputs, Tensor) else outputs[0]
        logits.float().square().mean().backward()
        finish(asked.x.device)
        times.append(clock.monotonic() - begin)
        copied.zero_grad()
    return min(times[1:]), times[0]


def compiled(module: fx.GraphModule) -> Forward:
    """Return the module's compiled form, over the same parameters; compiling happens at its first call.

    What goes wrong there is Invalid (COMPILE_FAILED), with the field to change.
    """
    # What it builds is loaded as machine code: not from a folder that others of this machine may write to.
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(home() / "compiled")
    import torch._dynamo
    import torch._functorch.config as autograd_config
    import torch._inductor.config as inductor_config

    # Their caches unpickle what they find on disk, and their helpers what they are sent: no process here does that.
    inductor_config.fx_graph_cache = False
    inductor_config.autotune_local_cache = False
    inductor_config.compile_threads = 1
    autograd_config.enable_autograd_cache = False
    observers = module._modules.get(OBSERVERS)
    for observer in observers.children() if observers is not None else ():
        observer.forward = torch._dynamo.disable(observer.forward)  # type: ignore[no-untyped-call]
    run = torch.compile(module)

    def forward(x: Tensor) -> Tensor | tuple[Tensor, ...]:
        try:
            found: Tensor | tuple[Tensor, ...] = run(x)
        except torch._dynamo.exc.TorchDynamoException as error:
            text = (str(error).strip().splitlines() or [type(error).__name__])[0]
            message = f"config.compute.compile: {text[:300]}; set it to NEVER"
            raise Invalid("COMPILE_FAILED", message, field="config.compute.compile") from error
        return found

    return forward
