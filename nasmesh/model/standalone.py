"""A network as one Python file with its weights beside it: needs torch and numpy, and nothing of this package.

The file's `forward` is the graph that the engine trains, written out; where an operator needs more than a call of
torch, the engine's own function stands above it. So what the engine computes, the file computes.

    python -m nasmesh.model.standalone MODEL.onnx FOLDER FACTS.json    # writes model.py and model.npz
"""

import io
import json
import keyword
import math
import operator as python_operator
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
import onnx
import torch
from torch import fx, nn

from nasmesh.errors import Invalid, Rejected
from nasmesh.exits import guarded
from nasmesh.model.engine.bundle import Bundle, is_ours
from nasmesh.model.engine.convert import to_module
from nasmesh.model.engine.modules import BatchNorm, Dropout, Network
from nasmesh.model.initializers import data_inputs
from nasmesh.model.metadata import PREPROCESSING_KEY, metadata_value
from nasmesh.model.standalone_proof import largest_difference
from nasmesh.model.standalone_text import FRAME, IMPORTS, RESERVED

SOURCE, WEIGHTS = "model.py", "model.npz"
_INFIX: dict[object, str] = {
    python_operator.add: "+",
    python_operator.mul: "*",
    python_operator.sub: "-",
    python_operator.truediv: "/",
}


@dataclass(frozen=True, slots=True)
class Standalone:
    """The text of the file, and the bytes of the archive of weights that it reads."""

    source: str
    weights: bytes


def standalone(model: onnx.ModelProto, facts: Mapping[str, object]) -> Standalone:
    """Return a trained network as a file of its own; `facts` is JSON that the file shows as FACTS.

    Known facts: "title", "sample_type" ("uint8" where samples are bytes), "class_names", "target_mean", "target_std",
    "channel_names", "target_names". Raises what `to_module` raises, and Invalid (SEED_MISSING) for a network without
    weights.
    """
    module = to_module(model, seed=None)
    (name,) = data_inputs(model)
    value = next(value for value in model.graph.input if value.name == name)
    dims = [int(dim.dim_value) for dim in value.type.tensor_type.shape.dim[1:]]
    rule = json.loads(metadata_value(model, PREPROCESSING_KEY) or "{}")
    source = write_source(module, {**facts, "input_dims": dims, "preprocessing": rule})
    return Standalone(source, _archive(module))


def write_source(module: Network, facts: Mapping[str, object]) -> str:
    """Return the text of the file for a converted network."""
    written = _write_forward(module)
    return FRAME.format(
        title=_comment(str(facts.get("title", "A network."))),
        imports="\n".join(sorted({*IMPORTS, *written.bundle.imports}, key=_import_order)),
        facts=_pretty(facts),
        functions=f"\n\n{written.bundle.text()}\n" if written.bundle.definitions else "",
        state=_state_table(module),
        inputs=", ".join(written.inputs),
        forward="\n".join(f"        {line}" for line in written.lines),
    )


@dataclass(slots=True)
class _Forward:
    """The inputs and lines of a forward function, and the functions of the engine that it calls."""

    inputs: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    bundle: Bundle = field(default_factory=Bundle)


def _write_forward(module: Network) -> _Forward:
    written = _Forward()
    calls = [node for node in module.graph.nodes if node.op == "call_function" and is_ours(node.target)]
    for node in calls:
        written.bundle.add(node.target)
    taken = {*RESERVED, *written.bundle.names}
    names: dict[fx.Node, str] = {}
    for node in module.graph.nodes:
        if node.op == "get_attr":
            names[node] = f"self.tensor({_tensor_name(module, str(node.target))!r})"
        elif node.op != "output":
            local = node.name
            while local in taken or keyword.iskeyword(local):
                local += "_"
            taken.add(local)
            names[node] = local
    for node in module.graph.nodes:
        if node.op == "output":
            written.lines.append(f"return {_argument(node.args[0], names)}")
        elif node.op in ("call_function", "call_module"):
            written.lines.append(f"{names[node]} = {_call(module, node, names)}")
        elif node.op == "placeholder":
            written.inputs.append(names[node])
    return written


def _call(module: Network, node: fx.Node, names: Mapping[fx.Node, str]) -> str:
    arguments = [_argument(item, names) for item in node.args]
    if node.op == "call_module":
        return _call_operation(module.get_submodule(str(node.target)), arguments)
    if node.target in _INFIX:
        return f"{arguments[0]} {_INFIX[node.target]} {arguments[1]}"
    if node.target is python_operator.getitem:
        return f"{arguments[0]}[{arguments[1]}]"
    arguments += [f"{key}={_argument(item, names)}" for key, item in node.kwargs.items()]
    return f"{_function(cast(Callable[..., object], node.target))}({', '.join(arguments)})"


def _call_operation(operation: nn.Module, arguments: list[str]) -> str:
    if isinstance(operation, BatchNorm):
        x, weight, bias, mean, variance = arguments
        numbers = f"{operation.momentum!r}, {operation.epsilon!r}"
        return f"F.batch_norm({x}, {mean}, {variance}, {weight}, {bias}, self.training, {numbers})"
    if isinstance(operation, Dropout):
        return f"F.dropout({arguments[0]}, {operation.rate!r}, self.training)"
    raise Rejected("OP_NOT_ALLOWED", f"{type(operation).__name__} cannot be written out", field="network")


def _function(target: Callable[..., object]) -> str:
    """Return the text by which the file calls a function: its own name, or torch's."""
    if is_ours(target):
        return target.__name__
    if getattr(torch.nn.functional, target.__name__, None) is target:
        return f"F.{target.__name__}"
    for holder, prefix in ((torch, "torch"), (torch.linalg, "torch.linalg"), (torch.Tensor, "torch.Tensor")):
        if getattr(holder, target.__name__, None) is target:
            return f"{prefix}.{target.__name__}"
    raise Rejected("OP_NOT_ALLOWED", f"{target.__name__} cannot be written out", field="network")


def _argument(value: object, names: Mapping[fx.Node, str]) -> str:
    if isinstance(value, fx.Node):
        return names[value]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return f"{type(value).__name__}({', '.join(_argument(item, names) for item in value)})"
    if isinstance(value, tuple | list):
        inside = ", ".join(_argument(item, names) for item in value)
        if isinstance(value, list):
            return f"[{inside}]"
        return f"({inside},)" if len(value) == 1 else f"({inside})"
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    if value is None or isinstance(value, bool | int | float | str | torch.dtype):
        return repr(value)
    raise Rejected("OP_NOT_ALLOWED", f"an argument of type {type(value).__name__} cannot be written out")


def _tensor_name(module: Network, path: str) -> str:
    """Return the name of the tensor at an attribute path: the path without the engine's escapes."""
    holder: nn.Module = module
    parts = []
    for part in path.split("."):
        tables = (holder._parameters, holder._buffers, holder._modules)
        plain = part if any(part in table for table in tables) else part.removeprefix("at_")
        parts.append(plain)
        child = holder._modules.get(plain)
        holder = child if child is not None else holder
    return ".".join(parts)


def _tensors(module: Network) -> dict[str, torch.Tensor]:
    """Return all tensors of a network by name, constants included."""
    return {**dict(module.named_buffers()), **dict(module.named_parameters())}


def _state_table(module: Network) -> str:
    trained = {name for name, _ in module.named_parameters()}
    rows = [
        f"    ({name!r}, {tuple(tensor.shape)!r}, {str(tensor.dtype)!r}, {name in trained}),"
        for name, tensor in _tensors(module).items()
    ]
    return "\n".join(rows)


def _archive(module: Network) -> bytes:
    # Entries are numbered: a tensor's name may be none that a file in an archive can have.
    arrays = {f"t{position}": tensor.detach().numpy() for position, tensor in enumerate(_tensors(module).values())}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]  # numpy's stub takes the keywords for `allow_pickle`
    return buffer.getvalue()


def _pretty(facts: Mapping[str, object]) -> str:
    """Return facts as a Python literal, a line each."""
    plain = json.loads(json.dumps(facts))
    return "\n".join(f"    {key!r}: {value!r}," for key, value in plain.items())


def _comment(text: str) -> str:
    """Return text that cannot leave the docstring it is put into."""
    return text.replace("\\", "/").replace('"', "'").replace("{", "(").replace("}", ")")


def _import_order(line: str) -> tuple[int, str]:
    from_library = line.split()[1].partition(".")[0] in ("torch", "numpy")
    return (int(from_library) * 2 + int(line.startswith("from ")), line)


def main(arguments: list[str]) -> int:
    """Write the files for `MODEL.onnx FOLDER FACTS.json`, the facts a file; returns the exit code.

    Prints by how much their outputs differ from the ONNX network's, nothing where that cannot be run here.
    """
    if len(arguments) != 3:
        raise Invalid("USAGE", "python -m nasmesh.model.standalone MODEL.onnx FOLDER FACTS.json")
    path, folder, facts = map(Path, arguments)
    content = path.read_bytes()
    made = standalone(onnx.ModelProto.FromString(content), json.loads(facts.read_text(encoding="utf-8")))
    (folder / SOURCE).write_text(made.source, encoding="utf-8")
    (folder / WEIGHTS).write_bytes(made.weights)
    difference = largest_difference(content, folder / SOURCE)
    if difference is not None:
        sys.stdout.write(f"{difference:.2g}\n")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(sys.argv[1:])))
