"""Random valid architectures over the whole operation set, and a few fixed small ones.

`architectures()` is a hypothesis strategy; `random_architecture(seed)` gives the same for those without hypothesis.
"""

import random

from hypothesis import strategies as st

from nasmesh.model.architecture import merged_dims
from nasmesh.model.geometry import Dims
from nasmesh.model.operations import operation_dims
from nasmesh.v1 import architecture_pb2 as pb

ACTIVATIONS = [kind for kind in pb.ActivationKind.values() if kind]
_ALPHA = (pb.ACTIVATION_KIND_LEAKY_RELU, pb.ACTIVATION_KIND_ELU)


def activation(kind: int = pb.ACTIVATION_KIND_RELU, alpha: float = 0.0) -> pb.Activation:
    return pb.Activation(kind=kind, alpha=alpha)


def conv(channels: int, kernel: int = 3, **fields: object) -> pb.Conv:
    fields.setdefault("padding", pb.PADDING_SAME)
    fields.setdefault("kernel_h", kernel)
    fields.setdefault("kernel_w", kernel)
    return pb.Conv(channels=channels, **fields)


def block(identifier: str, source: str, merge: int = 0, group: str = "", **operation: object) -> pb.Block:
    """A block; `source` is one id or several separated by spaces; the operation is one keyword, e.g. conv=conv(8)."""
    edges = [pb.Edge(source=name) for name in source.split()]
    return pb.Block(id=identifier, inputs=edges, merge=merge, group=group, operation=pb.Operation(**operation))


def architecture(dims: tuple[int, ...], output: str, *blocks: pb.Block) -> pb.Architecture:
    sample = pb.TensorInput(id="x", data_type=pb.DATA_TYPE_FLOAT32, dims=dims)
    return pb.Architecture(inputs=[sample], blocks=blocks, output=output)


def small_cnn(channels: int = 8, dims: tuple[int, ...] = (1, 8, 8), classes: int = 10) -> pb.Architecture:
    """conv-norm-relu, max-pool, separable conv unit, global mean, linear."""
    norm = pb.BatchNorm(scale=True, offset=True)
    order = pb.CONV_ORDER_CONV_NORM_ACT
    first = pb.ConvUnit(conv=conv(channels), norm=norm, activation=activation(), order=order)
    second = pb.ConvUnit(conv=conv(2 * channels, separable=True), norm=norm, activation=activation(), order=order)
    return architecture(
        dims,
        "head_fc",
        block("stem_conv", "x", conv_unit=first),
        block("pool", "stem_conv", pool=pb.Pool(kind=pb.POOL_KIND_MAX, kernel=2, stride=2, padding=pb.PADDING_SAME)),
        block("body", "pool", conv_unit=second),
        block("head_pool", "body", global_pool=pb.GlobalPool(kind=pb.POOL_KIND_AVERAGE)),
        block("head_fc", "head_pool", linear=pb.Linear(features=classes, bias=True)),
    )


def architectures() -> st.SearchStrategy[pb.Architecture]:
    """Hypothesis strategy of valid architectures; shrinks towards fewer blocks."""
    return st.builds(random_architecture, st.integers(0, 2**32 - 1), blocks=st.integers(1, 12))


def random_architecture(seed: int, *, blocks: int = 8) -> pb.Architecture:
    """Return a valid architecture drawn from the whole operation set; the same for the same arguments."""
    return _Growth(random.Random(seed)).grow(blocks)


class _Growth:
    """Grows one architecture; every block left unused is joined in the head."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        image = (rng.randint(1, 4), rng.randint(3, 11), rng.randint(3, 11))
        self.known: dict[str, Dims] = {"x": rng.choice([image, image, image, image[:1], image[:2]])}
        self.result = architecture(self.known["x"], "")
        self.unused: list[str] = []

    def grow(self, blocks: int) -> pb.Architecture:
        self._dress()
        for number in range(max(blocks, 1)):
            self._append(f"b{number}", self._random_block(number))
        self._head()
        return self.result

    def _dress(self) -> None:
        channels = self.known["x"][0]
        if self.rng.random() < 0.5:
            self.result.preprocessing.mean.extend(self.rng.random() for _ in range(channels))
            self.result.preprocessing.std.extend(self.rng.uniform(0.1, 1) for _ in range(channels))
        elif self.rng.random() < 0.5:
            self.result.preprocessing.per_image = True
        self.result.groups.add(id="s1", kind=pb.GROUP_KIND_STAGE)
        self.result.groups.add(id="s1_c1", kind=pb.GROUP_KIND_CELL, parent="s1")

    def _append(self, identifier: str, made: pb.Block) -> None:
        made.id = identifier
        made.group = self.rng.choice(["", "s1", "s1_c1"])
        dims = merged_dims(made, self.known)
        self.known[identifier] = operation_dims(made.operation, dims, where=identifier)
        used = {edge.source for edge in made.inputs}
        self.unused = [name for name in self.unused if name not in used] + [identifier]
        self.result.blocks.append(made)

    def _random_block(self, number: int) -> pb.Block:
        made = pb.Block()
        first = self.rng.choice([*list(self.known)[-3:], *self.known])
        made.inputs.add(source=first)
        if number and self.rng.random() < 0.4:
            self._join(made, first)
        for edge in made.inputs:
            if self.rng.random() < 0.2:
                edge.scale.init_mean, edge.scale.init_std = 0.5, 0.01
        dims = merged_dims(made, self.known)
        made.operation.CopyFrom(self._operation(dims, mixed=self.rng.random() < 0.15))
        return made

    def _join(self, made: pb.Block, first: str) -> None:
        """Add up to two inputs that merge with the first one, resized where halving makes them fit."""
        target = self.known[first]
        names = [name for name in self.known if name != first and len(self.known[name]) == len(target)]
        self.rng.shuffle(names)
        sum_up = self.rng.random() < 0.5
        for name in names:
            dims = self.known[name]
            resized = _halved_to(dims, target) if len(dims) == 3 else (dims if dims[1:] == target[1:] else None)
            if resized is None or (sum_up and resized != target) or len(made.inputs) > 2:
                continue
            needs = resized != dims or (len(dims) == 3 and self.rng.random() < 0.2)
            made.inputs.add(source=name, resize=pb.RESIZE_MAX_POOL_2X2 if needs else 0)
        if len(made.inputs) > 1:
            made.merge = pb.MERGE_SUM if sum_up else pb.MERGE_CONCAT

    def _head(self) -> None:
        """Flatten whatever nothing uses, join it, and end in logits."""
        flat = []
        for number, name in enumerate(list(self.unused)):
            if len(self.known[name]) == 1:
                flat.append(name)
                continue
            made = pb.Block(inputs=[pb.Edge(source=name)])
            if len(self.known[name]) == 3 and self.rng.random() < 0.5:
                made.operation.global_pool.kind = self._pool_kind()
            else:
                made.operation.flatten.SetInParent()
            self._append(f"flat{number}", made)
            flat.append(f"flat{number}")
        made = pb.Block(inputs=[pb.Edge(source=name) for name in flat])
        if len(flat) > 1:
            made.merge = pb.MERGE_CONCAT
        made.operation.linear.features = self.rng.randint(2, 10)
        made.operation.linear.bias = self.rng.random() < 0.5
        self._append("head_fc", made)
        self.result.output = "head_fc"

    def _operation(self, dims: Dims, *, mixed: bool) -> pb.Operation:
        if mixed:
            return self._mixed(dims)
        everywhere = ["batch_norm", "layer_norm", "activation", "dropout", "identity", "zero", "flatten"]
        images = ["conv", "conv", "conv_unit", "conv_unit", "pool", "pool", "global_pool", "local_response_norm"]
        choices = everywhere + (images * 2 if len(dims) == 3 else ["linear"] * 3 if len(dims) == 1 else [])
        return getattr(self, f"_{self.rng.choice(choices)}")(dims)

    def _mixed(self, dims: Dims) -> pb.Operation:
        keep = [self._batch_norm(dims), self._activation(dims), self._identity(dims), self._zero(dims)]
        if len(dims) == 3:
            same = conv(dims[0], self.rng.randint(1, 5), separable=self.rng.random() < 0.5)
            unit = pb.ConvUnit(conv=same, norm=self._norm(), order=pb.CONV_ORDER_CONV_NORM_ACT)
            pool = pb.Pool(kind=self._pool_kind(), kernel=3, padding=pb.PADDING_SAME)
            keep += [pb.Operation(conv=same), pb.Operation(conv_unit=unit), pb.Operation(pool=pool)]
        picked = self.rng.sample(keep, self.rng.randint(2, 4))
        names = self.rng.sample(["a", "conv", "out", "norm", "skip3"], len(picked))
        candidates = [pb.MixedCandidate(id=n, operation=o) for n, o in zip(names, picked, strict=True)]
        return pb.Operation(mixed=pb.MixedOp(candidates=candidates))

    def _random_conv(self, dims: Dims) -> pb.Conv:
        made = pb.Conv(
            channels=self.rng.randint(1, 6), kernel_h=self.rng.randint(1, 5), kernel_w=self.rng.randint(1, 5)
        )
        made.stride, made.dilation = self.rng.choice([0, 1, 2, 3]), self.rng.choice([0, 1, 2])
        made.separable, made.bias = self.rng.random() < 0.3, self.rng.random() < 0.5
        made.padding = pb.PADDING_SAME
        dilation = made.dilation or 1
        fits = (made.kernel_h - 1) * dilation < dims[1] and (made.kernel_w - 1) * dilation < dims[2]
        if fits and self.rng.random() < 0.4:
            made.padding = pb.PADDING_VALID
        if not made.separable and self.rng.random() < 0.3:
            made.groups = dims[0]
            made.channels = dims[0] * self.rng.randint(1, 2)
        return made

    def _conv(self, dims: Dims) -> pb.Operation:
        return pb.Operation(conv=self._random_conv(dims))

    def _conv_unit(self, dims: Dims) -> pb.Operation:
        order = self.rng.choice([pb.CONV_ORDER_CONV_NORM_ACT, pb.CONV_ORDER_ACT_CONV_NORM])
        unit = pb.ConvUnit(conv=self._random_conv(dims), order=order)
        if self.rng.random() < 0.7:
            unit.norm.CopyFrom(self._norm())
        if self.rng.random() < 0.7:
            unit.activation.CopyFrom(self._activation(dims).activation)
        if self.rng.random() < 0.4:
            unit.dropout.rate = self.rng.choice([0.0, 0.2, 0.5])
        return pb.Operation(conv_unit=unit)

    def _pool(self, dims: Dims) -> pb.Operation:
        made = pb.Pool(kind=self._pool_kind(), kernel=self.rng.randint(1, 4), stride=self.rng.randint(0, 3))
        fits = made.kernel <= min(dims[1:])
        made.padding = pb.PADDING_VALID if fits and self.rng.random() < 0.5 else pb.PADDING_SAME
        return pb.Operation(pool=made)

    def _pool_kind(self) -> int:
        return self.rng.choice([pb.POOL_KIND_MAX, pb.POOL_KIND_AVERAGE])

    def _global_pool(self, _: Dims) -> pb.Operation:
        return pb.Operation(global_pool=pb.GlobalPool(kind=self._pool_kind()))

    def _linear(self, _: Dims) -> pb.Operation:
        return pb.Operation(linear=pb.Linear(features=self.rng.randint(1, 12), bias=self.rng.random() < 0.5))

    def _norm(self) -> pb.BatchNorm:
        made = pb.BatchNorm(scale=self.rng.random() < 0.5, offset=self.rng.random() < 0.5)
        if self.rng.random() < 0.3:
            made.momentum, made.epsilon = 0.99, 1e-3
        return made

    def _batch_norm(self, _: Dims) -> pb.Operation:
        return pb.Operation(batch_norm=self._norm())

    def _layer_norm(self, _: Dims) -> pb.Operation:
        return pb.Operation(layer_norm=pb.LayerNorm(epsilon=self.rng.choice([0.0, 1e-3])))

    def _activation(self, _: Dims) -> pb.Operation:
        kind = self.rng.choice(ACTIVATIONS)
        alpha = self.rng.choice([0.0, 0.25]) if kind in _ALPHA else 0.0
        return pb.Operation(activation=activation(kind, alpha))

    def _dropout(self, _: Dims) -> pb.Operation:
        return pb.Operation(dropout=pb.Dropout(rate=self.rng.choice([0.0, 0.3])))

    def _local_response_norm(self, _: Dims) -> pb.Operation:
        made = pb.LocalResponseNorm(size=self.rng.choice([1, 3, 9]), alpha=1e-3, beta=0.75, bias=1.0)
        return pb.Operation(local_response_norm=made)

    def _identity(self, _: Dims) -> pb.Operation:
        return pb.Operation(identity=pb.Identity())

    def _zero(self, _: Dims) -> pb.Operation:
        return pb.Operation(zero=pb.Zero())

    def _flatten(self, _: Dims) -> pb.Operation:
        return pb.Operation(flatten=pb.Flatten())


def _halved_to(dims: Dims, target: Dims) -> Dims | None:
    height, width = dims[1:]
    while (height, width) != target[1:]:
        if (height, width) == (1, 1):
            return None
        height, width = -(-height // 2), -(-width // 2)
    return dims[0], height, width
