"""Brings an ONNX model written elsewhere into the form of our networks, without changing what it computes.

Reads opset 13 to 26, model-local functions included. For bytes from outside use quarantine.import_untrusted.
"""

import onnx
import onnx.inliner

from nasmesh import limits
from nasmesh.limits import ADMISSION_NAME_CHARS
from nasmesh.model.admission import examine
from nasmesh.model.encode import from_bytes, to_bytes
from nasmesh.model.imported_graph import Workbench, drop_dead, inference_form, lift_constants, untie_identities
from nasmesh.model.imported_names import mark_parameters, sound_names
from nasmesh.model.imported_shapes import fold_shapes
from nasmesh.model.initializers import DATA_INPUT, data_inputs
from nasmesh.model.lower import IR_VERSION, OUTPUT
from nasmesh.model.reasons import Reason, rejected

_OWN_METADATA = "nasmesh."


def import_onnx(content: bytes) -> onnx.ModelProto:
    """Return the network in an ONNX file, with its weights if it has any, as an admissible network of ours.

    Functions are inlined; the data input becomes "x" with a free batch, the output "logits"; constants are lifted out
    of Constant nodes; shape arithmetic is folded; batch norm and dropout take their inference form (the trainer
    decides); trained tensors are marked with an init rule; training info and documentation are dropped. The opset
    stays. Raises Rejected: what admission raises, and INPUT_AMBIGUOUS, OUTPUT_NOT_LOGITS, OP_NOT_ALLOWED by name.
    """
    model = from_bytes(content, limit=limits.NETWORK_BYTES)
    _refuse(model)
    if model.functions:
        try:
            model = onnx.inliner.inline_local_functions(model)
        except (RuntimeError, ValueError) as error:
            raise rejected(Reason.FUNCTIONS, f"cannot be inlined: {str(error)[:120]}", where="functions") from None
    _check_domains(model)
    bench = Workbench.of(model)
    lift_constants(bench)
    untie_identities(bench)
    inference_form(bench)
    data, batch = _free_batch(bench, model)
    fold_shapes(bench, data=data, static_batch=batch)
    drop_dead(bench)
    sound_names(bench, data=data)
    mark_parameters(bench, data=DATA_INPUT)
    result = _assemble(bench, model)
    examine(result, to_bytes(result), checkpoint=False)
    return result


def _refuse(model: onnx.ModelProto) -> None:
    for tensor in model.graph.initializer:
        if tensor.data_location != onnx.TensorProto.DEFAULT or tensor.external_data:
            raise rejected(Reason.EXTERNAL_DATA, "the tensor's data is outside the file", where=tensor.name)
    if model.graph.sparse_initializer:
        raise rejected(Reason.TENSOR_TYPE, "sparse tensors are not supported", where="graph.sparse_initializer")
    if len(model.graph.output) != 1:
        message = f"{len(model.graph.output)} outputs; export the network with one, the logits"
        raise rejected(Reason.OUTPUT_NOT_LOGITS, message, where="graph.output")
    versions = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    low, high = limits.ADMISSION_OPSET_MIN, limits.ADMISSION_OPSET_MAX
    if len(versions) != 1 or not low <= versions[0] <= high:
        raise rejected(Reason.OPSET_NOT_ALLOWED, f"opset {versions}; export with {low} to {high}", where="opset_import")


def _check_domains(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx"):
            message = f"{node.op_type} of domain {node.domain[:60]!r} is not an ONNX operator"
            raise rejected(Reason.DOMAIN_NOT_ALLOWED, message, where=node.name[:ADMISSION_NAME_CHARS] or node.op_type)


def _free_batch(bench: Workbench, model: onnx.ModelProto) -> tuple[str, int]:
    """Make the data input's first dimension free; return its name and the batch that it was exported with, or 0."""
    names = data_inputs(model)
    value = next((value for value in bench.inputs if [value.name] == names), None)
    if value is None:
        raise rejected(Reason.INPUT_AMBIGUOUS, "there is no data input", where="graph.input")
    dims = value.type.tensor_type.shape.dim
    if len(dims) < 2:
        message = "the data input needs a batch and one more dimension"
        raise rejected(Reason.SHAPE_UNKNOWN, message, where=value.name)
    batch = dims[0].dim_value
    dims[0].Clear()
    dims[0].dim_param = "N"
    return value.name, batch


def _assemble(bench: Workbench, model: onnx.ModelProto) -> onnx.ModelProto:
    result = onnx.ModelProto(ir_version=max(IR_VERSION, model.ir_version), producer_name="nasmesh")
    result.opset_import.add(domain="", version=bench.opset)
    result.graph.name = "network"
    result.graph.node.extend(bench.nodes)
    result.graph.initializer.extend(bench.tensors.values())
    result.graph.input.extend(bench.inputs)
    output = onnx.ValueInfoProto()
    output.CopyFrom(model.graph.output[0])
    output.ClearField("doc_string")
    output.name = OUTPUT
    # The exporter's idea of the output's shape may hold its batch; ours is inferred by who reads.
    classes = output.type.tensor_type.shape.dim[-1].dim_value if output.type.tensor_type.shape.dim else 0
    size: list[str | int | None] = ["N", classes or "classes"]
    result.graph.output.append(onnx.helper.make_tensor_value_info(OUTPUT, onnx.TensorProto.FLOAT, size))
    for prop in model.metadata_props:
        if prop.key.startswith(_OWN_METADATA):
            result.metadata_props.add(key=prop.key, value=prop.value)
    return result
