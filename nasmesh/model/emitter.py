"""Collects nodes, parameters and constants of one ONNX graph in the order in which they are made."""

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from nasmesh.model.initializers import InitRule, annotate
from nasmesh.v1 import architecture_pb2 as pb

Attribute = int | float | str | Sequence[int]
_NAMES = {
    pb.ACTIVATION_KIND_RELU: "Relu",
    pb.ACTIVATION_KIND_LEAKY_RELU: "LeakyRelu",
    pb.ACTIVATION_KIND_ELU: "Elu",
    pb.ACTIVATION_KIND_SIGMOID: "Sigmoid",
    pb.ACTIVATION_KIND_TANH: "Tanh",
    pb.ACTIVATION_KIND_GELU: "Gelu",
    pb.ACTIVATION_KIND_HARD_SWISH: "HardSwish",
}
_ALPHA_DEFAULTS = {pb.ACTIVATION_KIND_LEAKY_RELU: 0.01, pb.ACTIVATION_KIND_ELU: 1.0}


class Emitter:
    """One graph under construction; every method returns the name of the value it made."""

    def __init__(self) -> None:
        """Start an empty graph."""
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.constants: list[onnx.TensorProto] = []

    def node(self, op_type: str, inputs: Sequence[str], output: str, **attributes: Attribute) -> str:
        """Append a node with one output; the node has the name of its output."""
        node = helper.make_node(op_type, inputs, [output], name=output)
        node.attribute.extend(helper.make_attribute(key, value) for key, value in sorted(attributes.items()))
        self.nodes.append(node)
        return output

    def split(self, source: str, outputs: Sequence[str]) -> None:
        """Append a Split of a vector into single elements."""
        self.nodes.append(
            helper.make_node("Split", [source], outputs, name=outputs[0], axis=0, num_outputs=len(outputs))
        )

    def parameter(self, name: str, dims: Sequence[int], rule: InitRule) -> str:
        """Declare a float32 parameter of fixed dims."""
        value = helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, list(dims))
        annotate(value, rule)
        self.inputs.append(value)
        return name

    def constant(self, name: str, values: np.ndarray) -> str:
        """Add a constant that nobody trains."""
        self.constants.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    def one_row(self, source: str) -> str:
        """Append what makes an image of one row of a series: [N, C, L] to [N, C, 1, L]."""
        axes = f"{source}.row.axes"
        self.constants.append(numpy_helper.from_array(np.asarray([2], dtype=np.int64), axes))
        return self.node("Unsqueeze", [source, axes], f"{source}.row")

    def activation(self, rule: pb.Activation, source: str, output: str) -> str:
        """Append an activation; SiLU is Sigmoid and Mul, since Swish enters ONNX in opset 24 only."""
        if rule.kind == pb.ACTIVATION_KIND_SILU:
            gate = self.node("Sigmoid", [source], f"{output}.gate")
            return self.node("Mul", [source, gate], output)
        if rule.kind in _ALPHA_DEFAULTS:
            alpha = rule.alpha or _ALPHA_DEFAULTS[rule.kind]
            return self.node(_NAMES[rule.kind], [source], output, alpha=alpha)
        return self.node(_NAMES[rule.kind], [source], output)

    def dropout(self, rule: pb.Dropout, source: str, output: str) -> str:
        """Append a dropout whose absent training_mode means false: the trainer decides."""
        ratio = self.constant(f"{output}.ratio", np.array(rule.rate))
        return self.node("Dropout", [source, ratio], output)
