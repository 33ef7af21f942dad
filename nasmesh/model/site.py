"""One node as a shape rule sees it: attributes, dims of its inputs, values of its constant inputs."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx

from nasmesh.limits import ADMISSION_INTEGERS
from nasmesh.model.geometry import Dims
from nasmesh.model.reasons import Reason, rejected


@dataclass(frozen=True, slots=True)
class Site:
    """One node with what its rule may look at."""

    node: onnx.NodeProto
    where: str
    opset: int
    attributes: dict[str, object]
    inputs: list[Dims | None]  # None: absent
    constants: list[np.ndarray | None]  # values of constant inputs

    def dims(self, position: int) -> Dims:
        """Return the dims of an input that must be there."""
        found = self.inputs[position] if position < len(self.inputs) else None
        if found is None:
            raise self.fail(f"input {position} is missing")
        return found

    def optional(self, position: int) -> Dims | None:
        """Return the dims of an input that may be absent."""
        return self.inputs[position] if position < len(self.inputs) else None

    def integers(self, position: int) -> list[int] | None:
        """Return the values of a constant integer input, None where it is absent."""
        if self.optional(position) is None:
            return None
        value = self.constants[position]
        if value is None or value.dtype.kind not in "iu" or value.ndim > 1 or value.size > ADMISSION_INTEGERS:
            raise self.fail(f"input {position} must be a constant list of integers")
        return [int(number) for number in value.reshape(-1)]

    def ints(self, name: str, default: list[int]) -> list[int]:
        """Return a list attribute of the length of its default."""
        value = self.attributes.get(name, default)
        if not isinstance(value, list | tuple) or len(value) != len(default):
            raise self.fail(f"attribute {name} needs {len(default)} numbers")
        return [int(number) for number in value]

    def integer(self, name: str, default: int) -> int:
        """Return an int attribute."""
        value = self.attributes.get(name, default)
        if not isinstance(value, int):
            raise self.fail(f"attribute {name} must be an int")
        return value

    def axis(self, rank: int, default: int) -> int:
        """Return the attribute `axis`, counted from the front."""
        return self.position(self.integer("axis", default), rank)

    def position(self, axis: int, rank: int) -> int:
        """Return an axis counted from the front."""
        if not -rank <= axis < rank:
            raise self.fail(f"axis {axis} of a tensor of rank {rank}")
        return axis % rank

    def fail(self, message: str) -> Exception:
        """Return the error that refuses this node."""
        return rejected(Reason.SHAPE_MISMATCH, f"{self.node.op_type}: {message}", where=self.where)


ShapeRule = Callable[[Site], list[Dims]]
