"""The gate: what a network object from anywhere must satisfy before anything else reads it.

The checks run in a fixed order, cheapest first, on bytes only; onnx.checker is not the gate, since it accepts models
that cannot run and models that ask for 10^16 bytes. Every refusal is one of Reason, with the node's name.
"""

import functools
from dataclasses import dataclass

import onnx

from nasmesh import limits
from nasmesh.model.counting import Counts, count_with, peak_activation_bytes
from nasmesh.model.digest import structural_digest
from nasmesh.model.encode import from_bytes, to_bytes
from nasmesh.model.forbidden import check_counts, check_forbidden, check_parameter_names
from nasmesh.model.geometry import Dims
from nasmesh.model.inference import Inference, check_operators, node_label
from nasmesh.model.initializers import Interface, parameter_dims
from nasmesh.model.lower import lower
from nasmesh.model.metadata import AUXILIARY_KEY, DROP_PATH_KEY, named_values
from nasmesh.model.reasons import Reason, rejected
from nasmesh.model.recover import recover_checked
from nasmesh.model.tensors import check_tensor
from nasmesh.v1 import architecture_pb2 as pb

# A batch size that no sensible dimension has: what differs from batch 1 follows the batch, all else is fixed.
_BATCH = 7919


@dataclass(frozen=True, slots=True)
class Admitted:
    """A network that passed: the model, its structural digest, its counts, the dims of every value at batch 1.

    `content` is its canonical encoding, `architecture` what it was lowered from, None where it does not say.
    """

    model: onnx.ModelProto
    digest: str
    counts: Counts
    dims: dict[str, Dims]
    content: bytes
    architecture: pb.Architecture | None


def admit(content: bytes, *, checkpoint: bool = False) -> Admitted:
    """Return what the bytes hold if every rule of admission is kept; raises Rejected with a Reason and the node's name.

    `checkpoint` allows weights up to 1.9 GB and the training info of our own checkpoints. Reads in this process: for
    bytes from outside use nasmesh.model.quarantine.admit_untrusted.
    """
    model = from_bytes(content, limit=limits.CHECKPOINT_BYTES if checkpoint else limits.NETWORK_BYTES)
    return examine(model, content, checkpoint=checkpoint)


def admit_lowered(architecture: pb.Architecture) -> Admitted:
    """Return the network of an architecture, which passes the same gate; raises Rejected."""
    content = to_bytes(lower(architecture))
    # Read back from its bytes, so that what is admitted is what is stored.
    return examine(from_bytes(content), content, checkpoint=False, lowered_from=architecture)


def examine(
    model: onnx.ModelProto, content: bytes, *, checkpoint: bool, lowered_from: pb.Architecture | None = None
) -> Admitted:
    """Return the verdict on a parsed model whose bytes are `content`; cheap checks come first.

    `lowered_from` is the architecture that this process has just made the bytes of.
    """
    check_counts(model)
    check_forbidden(model, checkpoint=checkpoint)
    attributes = check_operators(model)
    _check_opset(model)
    interface = _check_graph(model)
    dims, counts = _check_shapes_and_totals(Inference.of(model, interface, attributes))
    for tensor in model.graph.initializer:
        check_tensor(tensor, tensor.name)
    _check_canonical(model, content)
    digest = structural_digest(model, interface)
    architecture = lowered_from or recover_checked(model, digest, content)
    return Admitted(model, digest, counts, dims, content, architecture)


def _check_opset(model: onnx.ModelProto) -> None:
    domains = [entry.domain for entry in model.opset_import]
    if domains not in ([""], ["ai.onnx"]):
        shown = ", ".join(repr(domain[:40]) for domain in domains[:8])
        raise rejected(Reason.DOMAIN_NOT_ALLOWED, f"opset domains {shown}; use one, the default", where="opset_import")
    version = model.opset_import[0].version
    low, high = limits.ADMISSION_OPSET_MIN, limits.ADMISSION_OPSET_MAX
    if not low <= version <= high:
        raise rejected(Reason.OPSET_NOT_ALLOWED, f"opset {version}; use {low} to {high}", where="opset_import")
    for index, node in enumerate(model.graph.node):
        if not _is_in_opset(node.op_type, version):
            message = f"{node.op_type} is not in opset {version}"
            raise rejected(Reason.OP_NOT_ALLOWED, message, where=node_label(node, index))


@functools.cache
def _is_in_opset(op_type: str, version: int) -> bool:
    """Tell whether an operator of the allow-list exists in an opset; there are few of both."""
    try:
        onnx.defs.get_schema(op_type, version, "")
    except onnx.defs.SchemaError:
        return False
    return True


def _check_graph(model: onnx.ModelProto) -> Interface:
    """One data input, one output, parameters with fixed dims and sound names, sorted nodes (onnx's checker)."""
    interface = Interface.of(model)
    check_parameter_names(interface.dims)
    data = interface.data
    if not data:
        raise rejected(Reason.INPUT_AMBIGUOUS, "there is no data input; call it 'x'", where="graph.input")
    for value in model.graph.input:
        tensor = value.type.tensor_type
        if not value.type.HasField("tensor_type") or tensor.elem_type != onnx.TensorProto.FLOAT:
            raise rejected(Reason.TENSOR_TYPE, "an input that is no float32 tensor", where=value.name)
        if value.name in data and (not tensor.shape.dim or tensor.shape.dim[0].HasField("dim_value")):
            raise rejected(Reason.SHAPE_UNKNOWN, "the batch is fixed; make the first dimension free", where=value.name)
    _check_values(model, interface)
    for name, dims in interface.dims.items():
        if any(size < 1 for size in dims):
            raise rejected(Reason.SHAPE_UNKNOWN, f"a parameter needs fixed dims of 1 or more, got {dims}", where=name)
    extra = [value.name for value in model.graph.output[1:]]
    if not model.graph.output or extra != named_values(model, AUXILIARY_KEY):
        message = f"{len(model.graph.output)} outputs; a network has the logits, and what {AUXILIARY_KEY} names"
        raise rejected(Reason.OUTPUT_NOT_LOGITS, message, where="graph.output")
    _check_marks(model)
    try:
        onnx.checker.check_model(_shell(model))
    except (onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        raise rejected(Reason.GRAPH_INVALID, str(error).splitlines()[0][:200], where="graph") from None
    return interface


def _check_marks(model: onnx.ModelProto) -> None:
    """Refuse drop-path marks on anything but a dropout of nothing, which is where lowering puts them."""
    marks = named_values(model, DROP_PATH_KEY)
    if not marks:
        return
    ends = {name for node in model.graph.node if node.op_type == "Dropout" for name in node.output[:1]}
    for mark in marks:
        if mark not in ends:
            raise rejected(Reason.NAME_INVALID, "a drop-path mark must name the value of a Dropout", where=mark[:128])


def _check_values(model: onnx.ModelProto, interface: Interface) -> None:
    """Refuse stored tensors that are trained without being float32, or that the list of inputs has otherwise."""
    inputs = {value.name: value for value in model.graph.input}
    for tensor in model.graph.initializer:
        if tensor.name in interface.dims and tensor.data_type != onnx.TensorProto.FLOAT:
            raise rejected(Reason.TENSOR_TYPE, "a parameter that is no float32 tensor", where=tensor.name)
        value = inputs.get(tensor.name)
        if value is None:
            continue
        declared = value.type.tensor_type
        if declared.elem_type != tensor.data_type or list(parameter_dims(value)) != list(tensor.dims):
            raise rejected(Reason.GRAPH_INVALID, "input and stored value differ in type or dims", where=tensor.name)


def _shell(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model for onnx's checker: without training info, its big tensors turned into inputs."""
    result = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    graph = result.graph
    graph.name = model.graph.name
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            kind = graph.input.add(name=tensor.name).type.tensor_type
            kind.elem_type = tensor.data_type
            kind.shape.SetInParent()  # a scalar has a shape too, without dims
            for size in tensor.dims:
                kind.shape.dim.add(dim_value=size)
        else:
            graph.initializer.append(tensor)
    return result


def _check_shapes_and_totals(inference: Inference) -> tuple[dict[str, Dims], Counts]:
    model = inference.model
    single, many = inference.dims(1), inference.dims(_BATCH)
    for name, dims in single.items():
        _check_batch(name, dims, many[name])
    first = model.graph.output[0].name
    for output in (value.name for value in model.graph.output):
        if output not in many or len(many[output]) != 2 or many[output][0] != _BATCH or many[output] != many[first]:
            raise rejected(Reason.OUTPUT_NOT_LOGITS, "the output is not [N, classes]", where=output)
    counts = count_with(model, single, inference.interface)
    peak = peak_activation_bytes(model, single, inference.interface)
    for what, value, limit in (
        ("parameters", counts.parameters, limits.ADMISSION_PARAMETERS),
        ("bytes of activations at batch 1", peak, limits.ADMISSION_ACTIVATION_BYTES),
        ("multiply-accumulates", counts.macs, limits.ADMISSION_MACS),
    ):
        if value > limit:
            raise rejected(Reason.TOO_LARGE, f"{value} {what}; the limit is {limit}", where="graph")
    _check_declared(model, single)
    return single, counts


def _check_declared(model: onnx.ModelProto, dims: dict[str, Dims]) -> None:
    """Refuse a file that says of a value what is not so: engines believe it."""
    outputs = {value.name for value in model.graph.output}
    for value in (*model.graph.output, *model.graph.value_info):
        if value.type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
            raise rejected(Reason.TENSOR_TYPE, "a value that is declared as no float32 tensor", where=value.name)
        tensor, found = value.type.tensor_type, dims.get(value.name)
        stated = [dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim]
        if not tensor.HasField("shape"):
            continue
        if (
            found is None
            or len(stated) != len(found)
            or any(size not in (None, known) for size, known in zip(stated[1:], found[1:], strict=True))
        ):
            message = f"declared as {stated}, its shape is {found}"
            raise rejected(Reason.SHAPE_MISMATCH, message, where=value.name)
        if value.name in outputs and stated[0] is not None:
            raise rejected(Reason.SHAPE_UNKNOWN, "the batch is fixed; make the first dimension free", where=value.name)


def _check_batch(name: str, single: Dims, many: Dims) -> None:
    """Refuse a value whose dims mix the batch with something else than a multiple in front."""
    tails_agree = len(single) == len(many) and single[1:] == many[1:]
    if not tails_agree or (single and many[0] not in (single[0], single[0] * _BATCH)):
        message = f"the batch is mixed into other dimensions: {single} at batch 1, {many} at {_BATCH}"
        raise rejected(Reason.SHAPE_UNKNOWN, message, where=name)


def _check_canonical(model: onnx.ModelProto, content: bytes) -> None:
    model.DiscardUnknownFields()  # in place: what had some is refused
    if to_bytes(model) != content:
        message = "the bytes are not the canonical encoding; import the network and store what that gives"
        raise rejected(Reason.NOT_CANONICAL, message, where="content")
