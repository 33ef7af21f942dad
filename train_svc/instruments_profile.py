"""What each block of a network costs: time of its forward pass, and bytes of what it puts out."""

from statistics import median
from typing import Any

import torch
from torch import Tensor, fx

from nasmesh.clock import Clock
from train_svc.compute import OBSERVERS, Choice, finish
from train_svc.paths import SCOPE as PATHS
from train_svc.proxies import Subject

_REPEATS = 3
_ADDED = (f"{OBSERVERS}.", f"{PATHS}.")  # by training; no blocks of the network
_COMPUTING = ("call_function", "call_module", "call_method")


def blocks_of(module: fx.GraphModule) -> list[str]:
    """Return the ids of the blocks that compute something, in network order."""
    return list(dict.fromkeys(_blocks(module).values()))


def profile(subject: Subject, choice: Choice, clock: Clock) -> tuple[list[float], list[float]]:
    """Return milliseconds (the median of a few passes) and bytes of one batch, by block as `blocks_of` names them."""
    module, device = subject.copied(drops=True), subject.x.device
    passes = [_Profiler(module, clock) for _ in range(1 + _REPEATS)]
    with torch.random.fork_rng([device] if device.type == "cuda" else []):  # what is dropped here is not drawn there
        for one in passes:
            with torch.no_grad(), choice.arithmetic(device):
                one.run(choice.arrange(subject.x))
    blocks = blocks_of(subject.module)
    seconds = [median(one.seconds.get(block, 0.0) for one in passes[1:]) for block in blocks]
    return [1000 * value for value in seconds], [float(passes[-1].held.get(block, 0)) for block in blocks]


def _blocks(module: fx.GraphModule) -> dict[str, str]:
    """Return the block of every node that computes, by node; what leads to a block's value is the block's too."""
    owners: dict[str, str] = {}
    for value, node in module.meta["values"].items():
        owners.setdefault(node, value.partition(".")[0])  # later names of a node only pass it on
    found: dict[str, str] = {}
    waiting: list[str] = []
    for node in module.graph.nodes:
        if node.op not in _COMPUTING or str(node.target).startswith(_ADDED):
            continue
        waiting.append(node.name)
        if node.name in owners:
            found.update(dict.fromkeys(waiting, owners[node.name]))
            waiting.clear()
    return found


class _Profiler(fx.Interpreter):
    """Runs a network node by node, and keeps what each block takes."""

    def __init__(self, module: fx.GraphModule, clock: Clock) -> None:
        """Begin with nothing seen."""
        # Values stay until the end: the address of one that is freed would make the next one look like a view of it.
        super().__init__(module, garbage_collect_values=False)
        self.seconds: dict[str, float] = {}
        self.held: dict[str, int] = {}
        self._clock = clock
        self._blocks = _blocks(module)
        self._known = {tensor.untyped_storage().data_ptr() for tensor in module.state_dict().values()}

    def run_node(self, n: fx.Node) -> Any:
        """Compute one node."""
        block = self._blocks.get(n.name)
        if block is None:
            return super().run_node(n)
        device = next(iter(self.env.values())).device
        finish(device)
        begin = self._clock.monotonic()
        result = super().run_node(n)
        finish(device)
        self.seconds[block] = self.seconds.get(block, 0.0) + self._clock.monotonic() - begin
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor):
                self._hold(block, tensor)
        return result

    def _hold(self, block: str, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._known:
            self._known.add(storage.data_ptr())
            self.held[block] = self.held.get(block, 0) + storage.nbytes()
