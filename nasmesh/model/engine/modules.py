"""The modules of a converted network: holders of state whose paths are ONNX names, and the two operations with a mode.

Everything else in a converted network is a functional call. Batch normalisation and dropout read `self.training`, so
they are modules, but without state of their own: their tensors stay at the paths that their ONNX names give.
"""

import copy
import keyword
import re
from typing import Any

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, fx, nn

OPERATIONS = "_operations"
CONSTANTS = "_constants"
ESCAPE = "at_"
# fx writes a path into Python source: a quote or backslash in a network's names would be code of the network's author.
_PART = re.compile(r"[A-Za-z0-9_:;/@+#$~ -]{1,256}")
_TAKEN = frozenset(dir(nn.Module())) | frozenset(dir(fx.GraphModule(nn.Module(), fx.Graph()))) | {"self", "torch"}


class BatchNorm(nn.Module):
    """Batch normalisation (Ioffe and Szegedy 2015) over all dimensions but the second.

    `momentum` is PyTorch's: the weight of the new batch, 1 - ONNX's.
    """

    def __init__(self, epsilon: float, momentum: float) -> None:
        """Keep the constants; the tensors come with each call."""
        super().__init__()
        self.epsilon = epsilon
        self.momentum = momentum

    def forward(self, x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, variance: Tensor) -> Tensor:
        """Return x normalised, updating mean and variance (of shape [channels]) in training mode."""
        return F.batch_norm(x, mean, variance, weight, bias, self.training, self.momentum, self.epsilon)


class Dropout(nn.Module):
    """Dropout in training mode, identity in evaluation; `rate` may be changed between steps."""

    def __init__(self, rate: float) -> None:
        """Keep the probability that a value is zeroed."""
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Return x with values zeroed at random and the others scaled by 1 / (1 - rate)."""
        return F.dropout(x, self.rate, self.training)


class _EscapedNames(nn.Module):
    """Finds a child by its escaped name, so that "train.weight" may be a parameter although Module.train is taken."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith(ESCAPE):
            for table in ("_parameters", "_buffers", "_modules"):
                entries = self.__dict__.get(table, {})
                if name[len(ESCAPE) :] in entries:
                    return entries[name[len(ESCAPE) :]]
        return super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _TAKEN:  # Module's own refuses `self.training = False` where a child is called "training"
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)


class Scope(_EscapedNames):
    """One part of a dotted ONNX name: holds parameters, buffers and further scopes, and computes nothing."""


class Network(_EscapedNames, fx.GraphModule):
    """A converted network: one generated forward over tensors held at the paths of their ONNX names.

    `meta["values"]` maps the name of every ONNX value that is computed to the name of its fx node.
    """

    @staticmethod
    def assemble(scope: Scope, graph: fx.Graph, values: dict[str, str]) -> "Network":
        """Return the network that runs `graph` over the state in `scope` (which is taken over, not copied)."""
        network = Network(nn.Module(), fx.Graph())
        network.__dict__["_modules"].update(scope._modules)
        network.__dict__["_parameters"].update(scope._parameters)
        network.__dict__["_buffers"].update(scope._buffers)
        network._non_persistent_buffers_set |= scope._non_persistent_buffers_set
        network.graph = graph
        network.meta["values"] = values
        return network

    def __deepcopy__(self, memo: dict[int, Any]) -> "Network":
        """Return a copy with its own state; fx's own copy would make constants persistent and lose escaped names."""
        scope = Scope()
        for table in ("_modules", "_parameters", "_buffers"):
            scope.__dict__[table] = copy.deepcopy(self.__dict__[table], memo)
        scope._non_persistent_buffers_set = set(self._non_persistent_buffers_set)
        copied = Network.assemble(scope, copy.deepcopy(self.graph), dict(self.meta["values"]))
        copied.training = self.training
        memo[id(self)] = copied
        return copied

    def replica(self) -> "Network":
        """Return one with state of its own that runs the same code: a copy to measure with, not one to transform.

        A full copy writes that code anew, which takes longer than to run it a few times.
        """
        copied = _replica(self, {})
        assert isinstance(copied, Network)
        return copied


def _replica(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """Return a module with tensors of its own; one that may hold more than tensors and constants is copied whole."""
    if not isinstance(module, (Network, Scope, BatchNorm, Dropout)):
        return copy.deepcopy(module, memo)
    # fx makes a class, which has the code, for every network: not by calling it, which would make another.
    copied = object.__new__(type(module))
    memo[id(module)] = copied
    copied.__dict__.update(module.__dict__)
    for table in ("_parameters", "_buffers"):
        copied.__dict__[table] = copy.deepcopy(module.__dict__[table], memo)
    children = module.__dict__["_modules"].items()
    copied.__dict__["_modules"] = {name: child and _replica(child, memo) for name, child in children}
    return copied


def is_legal_name(name: str) -> bool:
    """Return whether a tensor of this name can be held: dotted, each part of printable ASCII without quotes."""
    parts = name.split(".")
    return all(_PART.fullmatch(part) for part in parts) and parts[0] not in (OPERATIONS, CONSTANTS)


def attribute_path(name: str) -> str:
    """Return the Python attribute path at which the tensor of this ONNX name is read."""
    return ".".join(_attribute(part) for part in name.split("."))


def _attribute(part: str) -> str:
    if part in _TAKEN or keyword.iskeyword(part) or part.startswith((ESCAPE, "_")):
        return ESCAPE + part
    return part


def place(root: Scope, name: str, tensor: Tensor, *, persistent: bool = True) -> None:
    """Put a parameter or buffer at the dotted path `name` under `root`, making scopes on the way.

    Raises KeyError where the path is taken: by the same name, or by a name that is a prefix of this one.
    """
    *path, leaf = name.split(".")
    scope: nn.Module = root
    for part in path:
        child = scope._modules.get(part)
        if child is None:
            if part in scope._parameters or part in scope._buffers:
                raise KeyError(name)
            child = scope._modules[part] = Scope()
        scope = child
    if leaf in scope._modules or leaf in scope._parameters or leaf in scope._buffers:
        raise KeyError(name)
    if isinstance(tensor, nn.Parameter):
        scope._parameters[leaf] = tensor
        return
    scope._buffers[leaf] = tensor
    if not persistent:
        scope._non_persistent_buffers_set.add(leaf)


def place_operation(root: Scope, operation: nn.Module, name: str) -> str:
    """Put an operation's module under `root` and return the path by which the graph calls it."""
    holder = root._modules.get(OPERATIONS)
    if holder is None:
        holder = root._modules[OPERATIONS] = Scope()
    key = f"{name}_{len(holder._modules)}"
    holder._modules[key] = operation
    return f"{OPERATIONS}.{key}"


def place_constant(root: Scope, value: Tensor) -> str:
    """Put a tensor that is never trained nor stored under `root` and return the path by which the graph reads it."""
    holder = root._modules.get(CONSTANTS)
    if holder is None:
        holder = root._modules[CONSTANTS] = Scope()
    key = f"c{len(holder._buffers)}"
    holder._buffers[key] = value
    holder._non_persistent_buffers_set.add(key)
    return f"{CONSTANTS}.{key}"
