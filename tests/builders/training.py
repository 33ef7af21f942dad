"""Pieces of training that tests of the engine share: samples, a step, a network with running statistics that differ."""

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn
from torch.nn import functional


def batch(dims: tuple[int, ...], *, size: int = 4, seed: int = 0, classes: int = 10) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(size, *dims, generator=draw), torch.randint(classes, (size,), generator=draw)


def disturb(module: nn.Module, *, seed: int = 0) -> None:
    """Move every tensor off its start, so that a mistake in a scale or statistic shows."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            noise = torch.randn(tensor.shape, generator=draw) * 0.1
            tensor.copy_(torch.exp(noise) if name.endswith("running_var") else tensor + noise)


def train(
    module: nn.Module, optimizer: torch.optim.Optimizer, feed: Callable[[int], tuple[Tensor, Tensor]], steps: range
):
    module.train()
    losses = []
    for step in steps:
        x, y = feed(step)
        optimizer.zero_grad()
        loss = functional.cross_entropy(module(x), y)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def serve(model: onnx.ModelProto, x: Tensor) -> np.ndarray:
    """Return what onnxruntime computes, its optimisations on, as users run it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
