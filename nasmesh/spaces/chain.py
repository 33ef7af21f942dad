"""The chain space: convolution units one after another, each perhaps followed by a pool, then a linear classifier.

Of the columns of a table the units are fully connected layers, as wide as the space's channels.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from random import Random

from nasmesh.errors import FieldViolation, Invalid
from nasmesh.limits import ADMISSION_KERNEL
from nasmesh.spaces import blocks
from nasmesh.spaces.domains import OFF_ON, at_least, categorical, integer, resolve
from nasmesh.v1 import architecture_pb2 as arch
from nasmesh.v1 import space_pb2 as pb

MAX_LAYERS = 32
MAX_CHANNELS = 4096


def check(space: pb.ChainSpace) -> None:
    """Raise Invalid (SPACE_INVALID) with every field that is out of bounds."""
    found: list[FieldViolation] = []
    if not 1 <= space.min_layers <= MAX_LAYERS:
        found.append(_violation("min_layers", f"{space.min_layers}; use 1 to {MAX_LAYERS}"))
    elif not space.min_layers <= space.max_layers <= MAX_LAYERS:
        found.append(_violation("max_layers", f"{space.max_layers}; use min_layers to {MAX_LAYERS}"))
    found += _check_list("kernels", space.kernels, ADMISSION_KERNEL)
    found += _check_list("channels", space.channels, MAX_CHANNELS)
    if found:
        raise Invalid("SPACE_INVALID", found[0].description, field=found[0].field, violations=found)


def _check_list(name: str, values: Sequence[int], most: int) -> list[FieldViolation]:
    found = [] if values else [_violation(name, f"is empty; list values from 1 to {most}")]
    for index, value in enumerate(values):
        if not 1 <= value <= most:
            found.append(_violation(f"{name}[{index}]", f"{value}; use 1 to {most}"))
        elif value in values[:index]:
            found.append(_violation(f"{name}[{index}]", f"{value} is listed twice"))
    return found


def _violation(field: str, what: str) -> FieldViolation:
    path = f"space.chain.{field}"
    return FieldViolation(path, f"{path}: {what}")


def choices(space: pb.ChainSpace) -> list[pb.Choice]:
    """Return "layers", then kernel, channels and pool of each layer."""
    found = [integer("layers", space.min_layers, space.max_layers)]
    for layer in range(1, space.max_layers + 1):
        exists = [at_least("layers", layer)] if layer > space.min_layers else []
        found.append(categorical(f"layer_{layer}.kernel", [str(kernel) for kernel in space.kernels], exists))
        found.append(categorical(f"layer_{layer}.channels", [str(width) for width in space.channels], exists))
        if space.pooling:
            found.append(categorical(f"layer_{layer}.pool", OFF_ON, exists))
    return found


def check_columns(space: pb.ChainSpace) -> None:
    """Raise Invalid (SPACE_INVALID) where a space has choices that make no difference for the columns of a table."""
    if list(space.kernels) != [1] or space.pooling:
        message = "space.chain.kernels: for columns of a table there are none: give [1], and no pooling"
        raise Invalid("SPACE_INVALID", message, field="space.chain.kernels")


def build(space: pb.ChainSpace, values: pb.ChoiceValues, input_dims: Sequence[int], classes: int) -> arch.Architecture:
    """Return the network of `values` in a checked space; raises Invalid naming a wrong choice."""
    columns = len(input_dims) == 1
    if columns:
        check_columns(space)
    resolved = resolve(choices(space), values)
    built = arch.Architecture(inputs=[blocks.image_input(input_dims)])
    built.groups.add(id="stage_1", kind=arch.GROUP_KIND_STAGE)
    source = "x"
    for layer in range(1, int(resolved["layers"]) + 1):
        cell = f"layer_{layer}"
        built.groups.add(id=cell, kind=arch.GROUP_KIND_CELL, parent="stage_1")
        for unit in (_columns_layer if columns else _image_layer)(cell, source, resolved):
            built.blocks.append(unit)
            source = unit.id
    built.groups.add(id="head", kind=arch.GROUP_KIND_HEAD)
    head = [blocks.classifier(source, classes)] if columns else blocks.head_blocks(source, classes, 0.0)
    built.blocks.extend(head)
    built.output = built.blocks[-1].id
    return built


def _image_layer(cell: str, source: str, resolved: Mapping[str, str]) -> Iterator[arch.Block]:
    conv = blocks.convolution(int(resolved[f"{cell}.kernel"]), int(resolved[f"{cell}.channels"]))
    unit = blocks.block(f"{cell}_conv", cell, [source], blocks.conv_norm_relu(conv, affine=True))
    yield unit
    if resolved.get(f"{cell}.pool") == "on":
        yield blocks.block(f"{cell}_pool", cell, [unit.id], blocks.max_pool())


def _columns_layer(cell: str, source: str, resolved: Mapping[str, str]) -> Iterable[arch.Block]:
    return blocks.linear_norm_relu(cell, source, int(resolved[f"{cell}.channels"]))


def count_networks(space: pb.ChainSpace) -> int:
    """Return how many networks a checked space has."""
    return sum(_per_layer(space) ** layers for layers in range(space.min_layers, space.max_layers + 1))


def _per_layer(space: pb.ChainSpace) -> int:
    return len(space.kernels) * len(space.channels) * (2 if space.pooling else 1)


def sample(space: pb.ChainSpace, rng: Random) -> pb.ChoiceValues:
    """Draw one network of a checked space; each is equally likely, so long chains come more often than short ones."""
    point = rng.randrange(count_networks(space))
    layers = space.min_layers
    while point >= _per_layer(space) ** layers:
        point -= _per_layer(space) ** layers
        layers += 1
    values = {"layers": str(layers)}
    for layer in range(1, layers + 1):
        values[f"layer_{layer}.kernel"] = str(space.kernels[rng.randrange(len(space.kernels))])
        values[f"layer_{layer}.channels"] = str(space.channels[rng.randrange(len(space.channels))])
        if space.pooling:
            values[f"layer_{layer}.pool"] = OFF_ON[rng.randrange(2)]
    return pb.ChoiceValues(values=values)
