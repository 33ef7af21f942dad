"""A training's state in one ONNX object: the network with its weights, and beside the graph all that resuming needs.

Weights are initialisers of the main graph, so onnxruntime serves a checkpoint as it is. Optimiser tensors and the
random generator's state are initialisers of training_info[0].algorithm, where the ONNX specification puts them, named
"{parameter}::{slot}" and "::rng"; scalars are JSON in metadata_props["nasmesh.training"].
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import onnx
import torch
from google.protobuf.message import DecodeError
from torch import Tensor, nn

from nasmesh.errors import Invalid
from nasmesh.limits import CHECKPOINT_BYTES
from nasmesh.model import initializers
from nasmesh.model.engine.initialise import init_rules
from nasmesh.model.engine.tensors import to_proto, to_tensor
from nasmesh.model.fields import copy_fields
from nasmesh.model.reasons import Reason, rejected

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
OptimizerState = Mapping[str, Mapping[str, Tensor]]

SCALARS_KEY = "nasmesh.training"
SLOT = "::"
RNG = "::rng"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a checkpoint object holds.

    model: the network with weights and without training info. state: tensors by ONNX name. optimizer_state: by
    parameter and slot. rng: torch's generator state (uint8), None in a published network. scalars: the trainer's own.
    """

    model: onnx.ModelProto
    state: dict[str, Tensor]
    optimizer_state: dict[str, dict[str, Tensor]]
    rng: Tensor | None
    scalars: dict[str, Json]


def write_back(model: onnx.ModelProto, state: Mapping[str, Tensor]) -> onnx.ModelProto:
    """Return the same network with `state` as its parameters' values, bit for bit; the argument is left as it was.

    Raises Invalid where `state` is not exactly the network's parameters: STATE_MISSING, STATE_UNKNOWN, STATE_SHAPE,
    STATE_TYPE; CHECKPOINT_TOO_LARGE above nasmesh.limits.CHECKPOINT_BYTES.
    """
    dims = initializers.parameters(model)
    _check_state(dims, state)
    _check_size(state.values())
    rules = init_rules(model, dims)
    fresh = {}
    for name in dims:
        fresh[name] = to_proto(name, state[name])
        initializers.annotate(fresh[name], rules[name])
    written = onnx.ModelProto()
    copy_fields(model, written, {"graph", "training_info"})
    graph, source = written.graph, model.graph
    copy_fields(source, graph, {"input", "initializer"})
    graph.input.extend(value for value in source.input if value.name not in fresh)
    graph.initializer.extend(fresh.pop(tensor.name, tensor) for tensor in source.initializer)
    graph.initializer.extend(fresh.values())
    return written


def save_checkpoint(
    model: onnx.ModelProto,
    state: Mapping[str, Tensor],
    *,
    optimizer_state: OptimizerState,
    rng: Tensor | None,
    scalars: Mapping[str, Json],
) -> bytes:
    """Return the bytes of a checkpoint object; raises what `write_back` raises, and Invalid (SCALARS_NOT_JSON)."""
    beside = [tensor for slots in optimizer_state.values() for tensor in slots.values()]
    _check_size([*state.values(), *beside])
    written = write_back(model, state)
    kept = [prop for prop in written.metadata_props if prop.key != SCALARS_KEY]
    del written.metadata_props[:]
    written.metadata_props.extend(kept)
    written.metadata_props.add(key=SCALARS_KEY, value=_to_json(scalars))
    algorithm = written.training_info.add().algorithm
    algorithm.name = "nasmesh"
    for parameter, slots in optimizer_state.items():
        for slot, tensor in slots.items():
            if SLOT in slot:
                raise Invalid("SLOT_INVALID", f"optimiser slot {slot[:64]!r} contains {SLOT!r}", field=parameter)
            algorithm.initializer.append(to_proto(f"{parameter}{SLOT}{slot}", tensor))
    if rng is not None:
        algorithm.initializer.append(to_proto(RNG, rng))
    return written.SerializeToString(deterministic=True)


def load_checkpoint(content: bytes) -> Checkpoint:
    """Return what a checkpoint, or a published network with weights, holds.

    Raises Rejected: NOT_ONNX, TRAINING_INFO, TENSOR_TYPE, DATA_LENGTH; Invalid: STATE_MISSING for a weightless network,
    CHECKPOINT_TOO_LARGE.
    """
    if len(content) > CHECKPOINT_BYTES:
        raise _too_large(len(content))
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError as error:
        raise rejected(Reason.NOT_ONNX, "the bytes are no ONNX object", where="checkpoint") from error
    names = initializers.parameters(model)
    values = {tensor.name: tensor for tensor in model.graph.initializer}
    missing = next((name for name in names if name not in values), None)
    if missing is not None or not names:
        raise Invalid(
            "STATE_MISSING", f"{missing or 'checkpoint'}: the object holds no weights", field=missing or "state"
        )
    optimizer_state, rng = _read_training_info(model)
    scalars = _from_json(next((prop.value for prop in model.metadata_props if prop.key == SCALARS_KEY), "{}"))
    published = onnx.ModelProto()
    copy_fields(model, published, {"training_info", "metadata_props"})
    published.metadata_props.extend(prop for prop in model.metadata_props if prop.key != SCALARS_KEY)
    state = {name: to_tensor(values[name]) for name in names}
    return Checkpoint(published, state, optimizer_state, rng, scalars)


@dataclass(frozen=True, slots=True)
class InheritReport:
    """What a network took from a parent's checkpoint.

    taken: names of tensors, and taken_share: their numbers as a share of the network's. skipped: the network's other
    tensors with the reason, "absent" or "shape". unused: the parent's tensors that found no place.
    """

    taken: tuple[str, ...]
    taken_share: float
    skipped: tuple[tuple[str, str], ...]
    unused: tuple[str, ...]


def inherit(module: nn.Module, checkpoint: Checkpoint) -> InheritReport:
    """Copy into `module` every tensor whose name and shape the checkpoint has; the others keep their start values."""
    taken: list[str] = []
    skipped: list[tuple[str, str]] = []
    numbers = every = 0
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            parent = checkpoint.state.get(name)
            every += tensor.numel()
            if parent is None or parent.shape != tensor.shape:
                skipped.append((name, "absent" if parent is None else "shape"))
                continue
            tensor.copy_(parent)
            taken.append(name)
            numbers += tensor.numel()
    placed = set(taken)
    unused = tuple(name for name in checkpoint.state if name not in placed)
    return InheritReport(tuple(taken), numbers / every if every else 0.0, tuple(skipped), unused)


def _read_training_info(model: onnx.ModelProto) -> tuple[dict[str, dict[str, Tensor]], Tensor | None]:
    if len(model.training_info) > 1:
        raise rejected(Reason.TRAINING_INFO, "more than one training_info", where="training_info")
    found: dict[str, dict[str, Tensor]] = {}
    rng = None
    for proto in model.training_info[0].algorithm.initializer if model.training_info else ():
        parameter, mark, slot = proto.name.rpartition(SLOT)
        if not mark or not slot:
            raise rejected(Reason.TRAINING_INFO, "a name that is not parameter::slot", where=proto.name)
        if proto.name == RNG:
            rng = to_tensor(proto)
        else:
            found.setdefault(parameter, {})[slot] = to_tensor(proto)
    return found, rng


def _check_state(dims: Mapping[str, tuple[int, ...]], state: Mapping[str, Tensor]) -> None:
    for name in state:
        if name not in dims:
            raise Invalid("STATE_UNKNOWN", f"{name[:128]} is no parameter of this network", field=name[:128])
    for name, expected in dims.items():
        if name not in state:
            raise Invalid("STATE_MISSING", f"{name} has no value", field=name)
        if tuple(state[name].shape) != expected:
            found = list(state[name].shape)
            raise Invalid("STATE_SHAPE", f"{name} has shape {found}, the network's is {list(expected)}", field=name)
        if state[name].dtype != torch.float32:
            raise Invalid("STATE_TYPE", f"{name} is {state[name].dtype}, and parameters are float32", field=name)


def _check_size(tensors: Iterable[Tensor]) -> None:
    """Refuse before any memory is spent: protobuf fails late, with an error that names nothing."""
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    if size > CHECKPOINT_BYTES:
        raise _too_large(size)


def _too_large(size: int) -> Invalid:
    message = f"{size} bytes of tensors; a checkpoint holds at most {CHECKPOINT_BYTES}: use a smaller network"
    return Invalid("CHECKPOINT_TOO_LARGE", message, field="checkpoint")


def _to_json(scalars: Mapping[str, Json]) -> str:
    try:
        return json.dumps(scalars, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise Invalid("SCALARS_NOT_JSON", "scalars must be finite JSON values", field="scalars") from error


def _from_json(text: str) -> dict[str, Json]:
    try:
        scalars = json.loads(text)
    except ValueError as error:
        raise rejected(Reason.TRAINING_INFO, "the scalars are no JSON", where=SCALARS_KEY) from error
    if not isinstance(scalars, dict):
        raise rejected(Reason.TRAINING_INFO, "the scalars are no JSON object", where=SCALARS_KEY)
    return scalars
