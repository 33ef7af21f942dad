"""Short constructors for the architecture messages that the spaces emit."""

from collections.abc import Sequence

from nasmesh.v1 import architecture_pb2 as pb

_RELU = pb.Activation(kind=pb.ACTIVATION_KIND_RELU)
AUXILIARY = "auxiliary"
LEAST_CELLS = 2
"""For an auxiliary classifier: behind the only cell it would be the classifier."""


def block(identifier: str, group: str, sources: Sequence[str | pb.Edge], operation: pb.Operation) -> pb.Block:
    """Return a block; several sources are concatenated along channels."""
    edges = [source if isinstance(source, pb.Edge) else pb.Edge(source=source) for source in sources]
    merge = pb.MERGE_CONCAT if len(edges) > 1 else pb.MERGE_UNSPECIFIED
    return pb.Block(id=identifier, group=group, inputs=edges, merge=merge, operation=operation)


def convolution(kernel: int, channels: int, *, stride: int = 1, separable: bool = False, bias: bool = False) -> pb.Conv:
    """Return a square convolution with same padding."""
    return pb.Conv(
        channels=channels,
        kernel_h=kernel,
        kernel_w=kernel,
        stride=stride,
        dilation=1,
        groups=1,
        separable=separable,
        padding=pb.PADDING_SAME,
        bias=bias,
    )


def conv_relu(conv: pb.Conv) -> pb.Operation:
    """Return convolution then ReLU, without normalisation."""
    unit = pb.ConvUnit(conv=conv, activation=_RELU, order=pb.CONV_ORDER_CONV_NORM_ACT)
    return pb.Operation(conv_unit=unit)


def conv_norm_relu(conv: pb.Conv, *, affine: bool, dropout: float = 0.0) -> pb.Operation:
    """Return convolution, batch normalisation, ReLU and, above rate 0, dropout."""
    norm = pb.BatchNorm(scale=affine, offset=affine, momentum=0.9, epsilon=1e-5)
    unit = pb.ConvUnit(conv=conv, norm=norm, activation=_RELU, order=pb.CONV_ORDER_CONV_NORM_ACT)
    if dropout > 0:
        unit.dropout.rate = dropout
    return pb.Operation(conv_unit=unit)


def max_pool() -> pb.Operation:
    """Return a 2x2 max-pool with stride 2; an odd size is rounded up."""
    pool = pb.Pool(kind=pb.POOL_KIND_MAX, kernel=2, stride=2, padding=pb.PADDING_SAME)
    return pb.Operation(pool=pool)


def identity() -> pb.Operation:
    """Return the operation that only merges its inputs."""
    return pb.Operation(identity=pb.Identity())


def image_input(dims: Sequence[int]) -> pb.TensorInput:
    """Return the data input "x"."""
    return pb.TensorInput(id="x", data_type=pb.DATA_TYPE_FLOAT32, dims=dims)


def head_blocks(source: str, classes: int, dropout: float) -> list[pb.Block]:
    """Return the classifier: global mean, dropout above rate 0, linear. The last block gives the logits."""
    head = [block("head_pool", "head", [source], pb.Operation(global_pool=pb.GlobalPool(kind=pb.POOL_KIND_AVERAGE)))]
    if dropout > 0:
        drop = pb.Operation(dropout=pb.Dropout(rate=dropout))
        head.append(block("head_dropout", "head", [head[-1].id], drop))
    head.append(classifier(head[-1].id, classes))
    return head


def classifier(source: str, classes: int) -> pb.Block:
    """Return the linear layer that gives the logits."""
    return block("head_linear", "head", [source], pb.Operation(linear=pb.Linear(features=classes, bias=True)))


def auxiliary_cell(cells: int) -> int:
    """Return behind which cell, from 1, an auxiliary classifier stands: the last one in the first two thirds."""
    return max(1, 2 * cells // 3)


def add_auxiliary(built: pb.Architecture, cell: str, source: str, channels: int, classes: int) -> None:
    """Append an auxiliary classifier that reads block `source`, the output of a cell of so many channels.

    NASNet's but for the pooling (Zoph et al. 2018), which is global here and so fits images of any size. Ids begin with
    the cell's: where a network grows and the classifier moves on, it is another one.
    """
    built.groups.add(id=AUXILIARY, kind=pb.GROUP_KIND_HEAD)
    name = f"{cell}_aux"
    mean = pb.Operation(global_pool=pb.GlobalPool(kind=pb.POOL_KIND_AVERAGE))
    linear = pb.Operation(linear=pb.Linear(features=classes, bias=True))
    unit = conv_norm_relu(convolution(1, channels), affine=True)
    built.blocks.append(block(f"{name}_conv", AUXILIARY, [source], unit))
    built.blocks.append(block(f"{name}_pool", AUXILIARY, [f"{name}_conv"], mean))
    built.blocks.append(block(f"{name}_linear", AUXILIARY, [f"{name}_pool"], linear))
    built.auxiliary_outputs.append(f"{name}_linear")


def linear_norm_relu(cell: str, source: str, features: int) -> list[pb.Block]:
    """Return a fully connected layer, batch normalisation and ReLU as three blocks of a cell."""
    norm = pb.BatchNorm(scale=True, offset=True, momentum=0.9, epsilon=1e-5)
    return [
        block(f"{cell}_linear", cell, [source], pb.Operation(linear=pb.Linear(features=features, bias=False))),
        block(f"{cell}_norm", cell, [f"{cell}_linear"], pb.Operation(batch_norm=norm)),
        block(f"{cell}_relu", cell, [f"{cell}_norm"], pb.Operation(activation=_RELU)),
    ]
