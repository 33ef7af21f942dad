"""Three networks, each as an architecture and as a PyTorch module written by hand with the same parameter names."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from nasmesh.v1 import architecture_pb2 as pb

INPUT_DIMS = (3, 32, 32)
CLASSES = 10


# --- architectures --------------------------------------------------------------------------------------------------
def conv_unit(channels: int, kernel: int, **fields: int) -> pb.Operation:
    """Return conv-norm-relu; `fields`: stride, groups, separable, relu (0: none)."""
    conv = pb.Conv(
        channels=channels,
        kernel_h=kernel,
        kernel_w=kernel,
        stride=fields.get("stride", 1),
        groups=fields.get("groups", 1),
        separable=bool(fields.get("separable", 0)),
        padding=pb.PADDING_SAME,
    )
    unit = pb.ConvUnit(conv=conv, norm=pb.BatchNorm(scale=True, offset=True), order=pb.CONV_ORDER_CONV_NORM_ACT)
    if fields.get("relu", 1):
        unit.activation.kind = pb.ACTIVATION_KIND_RELU
    return pb.Operation(conv_unit=unit)


class _Drawing:
    """Collects the blocks of one architecture."""

    def __init__(self, dims: Sequence[int] = INPUT_DIMS) -> None:
        sample = pb.TensorInput(id="x", data_type=pb.DATA_TYPE_FLOAT32, dims=dims)
        self.architecture = pb.Architecture(inputs=[sample])

    def add(self, identifier: str, sources: Sequence[str], operation: pb.Operation, merge: int = 0) -> str:
        block = self.architecture.blocks.add(id=identifier, operation=operation, merge=merge)
        block.inputs.extend(pb.Edge(source=source) for source in sources)
        return identifier

    def finish(self, source: str) -> pb.Architecture:
        pool = pb.Operation(global_pool=pb.GlobalPool(kind=pb.POOL_KIND_AVERAGE))
        self.add("head_pool", [source], pool)
        self.add("head_fc", ["head_pool"], pb.Operation(linear=pb.Linear(features=CLASSES, bias=True)))
        self.architecture.output = "head_fc"
        return self.architecture


_RELU = pb.Operation(activation=pb.Activation(kind=pb.ACTIVATION_KIND_RELU))
_SHRINK = pb.Operation(pool=pb.Pool(kind=pb.POOL_KIND_MAX, kernel=2, stride=2, padding=pb.PADDING_SAME))


def resnet8_architecture(width: int = 16) -> pb.Architecture:
    """Return a residual network of three basic blocks (He et al. 2016, section 4.2, with n = 1)."""
    draw = _Drawing()
    value = draw.add("stem", ["x"], conv_unit(width, 3))
    for number, channels, stride in ((1, width, 1), (2, 2 * width, 2), (3, 4 * width, 2)):
        first = draw.add(f"r{number}_a", [value], conv_unit(channels, 3, stride=stride))
        second = draw.add(f"r{number}_b", [first], conv_unit(channels, 3, relu=0))
        if stride > 1:
            value = draw.add(f"r{number}_s", [value], conv_unit(channels, 1, stride=stride, relu=0))
        value = draw.add(f"r{number}", [second, value], _RELU, pb.MERGE_SUM)
    return draw.finish(value)


_BRANCHES = (("b1x1", 1, 0), ("b3x3", 3, 0), ("b3x3sep", 3, 1), ("b5x5sep", 5, 1))


def nac_architecture(width: int = 32, cells: int = 2, dropout: float = 0.0) -> pb.Architecture:
    """Return an envelope network: three stages of cells of four branches, a scaled skip in each, wideners between."""
    draw = _Drawing()
    value = draw.add("stem_conv", ["x"], conv_unit(width, 3))
    for stage in (1, 2, 3):
        for cell in range(1, cells + 1):
            value = _cell(draw, f"s{stage}_c{cell}", value, width, dropout)
        if stage < 3:
            width *= 2
            value = draw.add(f"w{stage}_pool", [value], _SHRINK)
            value = draw.add(f"w{stage}_conv", [value], conv_unit(width, 1))
    return draw.finish(value)


def _cell(draw: _Drawing, name: str, source: str, width: int, dropout: float) -> str:
    outputs = []
    for branch, kernel, separable in _BRANCHES:
        operation = conv_unit(width // len(_BRANCHES), kernel, separable=separable)
        if dropout:
            operation.conv_unit.dropout.rate = dropout
        outputs.append(draw.add(f"{name}_{branch}", [source], operation))
    joined = draw.add(f"{name}_cat", outputs, pb.Operation(identity=pb.Identity()), pb.MERGE_CONCAT)
    draw.add(name, [joined, source], pb.Operation(identity=pb.Identity()), pb.MERGE_SUM)
    scale = draw.architecture.blocks[-1].inputs[1].scale
    scale.init_mean, scale.init_std = 0.5, 0.01
    return name


def depthwise_architecture(width: int = 24) -> pb.Architecture:
    """Return inverted residual blocks (Sandler et al. 2018): mostly depthwise 3x3 and 1x1 convolutions."""
    draw = _Drawing()
    value = draw.add("stem", ["x"], conv_unit(width, 3))
    for number, channels, stride in _plan(width):
        wide = 4 * channels
        inner = draw.add(f"m{number}_expand", [value], conv_unit(wide, 1))
        inner = draw.add(f"m{number}_depth", [inner], conv_unit(wide, 3, stride=stride, groups=wide))
        inner = draw.add(f"m{number}_project", [inner], conv_unit(channels, 1, relu=0))
        if stride == 1 and number > 1:
            inner = draw.add(f"m{number}", [inner, value], pb.Operation(identity=pb.Identity()), pb.MERGE_SUM)
        value = inner
    return draw.finish(value)


def _plan(width: int) -> list[tuple[int, int, int]]:
    return [(1, width, 1), (2, width, 1), (3, 2 * width, 2), (4, 2 * width, 1), (5, 4 * width, 2), (6, 4 * width, 1)]


# --- the same by hand -----------------------------------------------------------------------------------------------
class Unit(nn.Module):
    """Convolution with same padding, batch norm, ReLU; names as the architecture's ConvUnit has them."""

    def __init__(self, inputs: int, outputs: int, kernel: int, **fields: int) -> None:
        """Make the layers; `fields` as of `conv_unit`, and dropout in percent."""
        super().__init__()
        self.stride = fields.get("stride", 1)
        # Same padding at stride 2 of an even size pads the bottom and right only, which no kernel does by itself.
        self.shift = kernel > 1 and self.stride > 1
        pad = 0 if self.shift else kernel // 2
        groups = fields.get("groups", 1)
        if fields.get("separable", 0):
            self.depthwise = nn.Conv2d(inputs, inputs, kernel, self.stride, pad, groups=inputs, bias=False)
            self.pointwise = nn.Conv2d(inputs, outputs, 1, bias=False)
            self.conv = None
        else:
            self.conv = nn.Conv2d(inputs, outputs, kernel, self.stride, pad, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.relu = bool(fields.get("relu", 1))
        self.dropout = fields.get("dropout", 0) / 100

    def forward(self, x: Tensor) -> Tensor:
        """Return the activations."""
        if self.shift:
            x = F.pad(x, (0, 1, 0, 1))
        x = self.pointwise(self.depthwise(x)) if self.conv is None else self.conv(x)
        x = self.norm(x)
        x = F.relu(x) if self.relu else x
        return F.dropout(x, self.dropout, self.training) if self.dropout else x


class ResNet8(nn.Module):
    """`resnet8_architecture` by hand."""

    def __init__(self, width: int = 16) -> None:
        """Make the layers."""
        super().__init__()
        self.stem = Unit(INPUT_DIMS[0], width, 3)
        self.r1_a, self.r1_b = Unit(width, width, 3), Unit(width, width, 3, relu=0)
        self.r2_a, self.r2_b = Unit(width, 2 * width, 3, stride=2), Unit(2 * width, 2 * width, 3, relu=0)
        self.r2_s = Unit(width, 2 * width, 1, stride=2, relu=0)
        self.r3_a, self.r3_b = Unit(2 * width, 4 * width, 3, stride=2), Unit(4 * width, 4 * width, 3, relu=0)
        self.r3_s = Unit(2 * width, 4 * width, 1, stride=2, relu=0)
        self.head_fc = nn.Linear(4 * width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        x = self.stem(x)
        x = F.relu(self.r1_b(self.r1_a(x)) + x)
        x = F.relu(self.r2_b(self.r2_a(x)) + self.r2_s(x))
        x = F.relu(self.r3_b(self.r3_a(x)) + self.r3_s(x))
        logits: Tensor = self.head_fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))
        return logits


class Nac(nn.Module):
    """`nac_architecture` by hand."""

    def __init__(self, width: int = 32, cells: int = 2, dropout: float = 0.0) -> None:
        """Make the layers."""
        super().__init__()
        percent = round(100 * dropout)
        self.stem_conv = Unit(INPUT_DIMS[0], width, 3)
        self.stages: list[list[str]] = []
        for stage in (1, 2, 3):
            names = [f"s{stage}_c{cell}" for cell in range(1, cells + 1)]
            for name in names:
                for branch, kernel, separable in _BRANCHES:
                    unit = Unit(width, width // len(_BRANCHES), kernel, separable=separable, dropout=percent)
                    self.add_module(f"{name}_{branch}", unit)
                self.add_module(name, _Scale(self._source(name, stage)))
            self.stages.append(names)
            if stage < 3:
                self.add_module(f"w{stage}_conv", Unit(width, 2 * width, 1))
                width *= 2
        self.head_fc = nn.Linear(width, CLASSES)

    @staticmethod
    def _source(name: str, stage: int) -> str:
        cell = int(name.rpartition("_c")[2])
        if cell > 1:
            return f"s{stage}_c{cell - 1}"
        return "stem_conv" if stage == 1 else f"w{stage - 1}_conv"

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        x = self.stem_conv(x)
        for stage, names in enumerate(self.stages, start=1):
            for name in names:
                joined = torch.cat([getattr(self, f"{name}_{branch}")(x) for branch, _, _ in _BRANCHES], 1)
                x = joined + getattr(self, name)(x)
            if stage < 3:
                x = getattr(self, f"w{stage}_conv")(F.max_pool2d(x, 2))
        logits: Tensor = self.head_fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))
        return logits


class _Scale(nn.Module):
    """One trainable scalar, named "scale.{source}"."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.scale = nn.ParameterDict({source: nn.Parameter(torch.tensor(0.5))})
        self.source = source

    def forward(self, x: Tensor) -> Tensor:
        scaled: Tensor = x * self.scale[self.source]
        return scaled


class Depthwise(nn.Module):
    """`depthwise_architecture` by hand."""

    def __init__(self, width: int = 24) -> None:
        """Make the layers."""
        super().__init__()
        self.stem = Unit(INPUT_DIMS[0], width, 3)
        self.plan = _plan(width)
        inputs = width
        for number, channels, stride in self.plan:
            wide = 4 * channels
            self.add_module(f"m{number}_expand", Unit(inputs, wide, 1))
            self.add_module(f"m{number}_depth", Unit(wide, wide, 3, stride=stride, groups=wide))
            self.add_module(f"m{number}_project", Unit(wide, channels, 1, relu=0))
            inputs = channels
        self.head_fc = nn.Linear(inputs, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        x = self.stem(x)
        for number, _, stride in self.plan:
            y = getattr(self, f"m{number}_expand")(x)
            y = getattr(self, f"m{number}_project")(getattr(self, f"m{number}_depth")(y))
            x = y + x if stride == 1 and number > 1 else y
        logits: Tensor = self.head_fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))
        return logits


# --- both ------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Twin:
    """One network twice."""

    name: str
    architecture: pb.Architecture
    by_hand: nn.Module


def twins() -> list[Twin]:
    """Return the three networks, each twice."""
    return [
        Twin("resnet8", resnet8_architecture(), ResNet8()),
        Twin("nac", nac_architecture(), Nac()),
        Twin("depthwise", depthwise_architecture(), Depthwise()),
    ]
