"""Networks from papers whose published figures are test anchors."""

from nasmesh.v1 import architecture_pb2 as pb
from tests.builders.architectures import activation, architecture, block, conv

_NORM = pb.BatchNorm(scale=True, offset=True)


def unit(channels: int, kernel: int = 3, *, stride: int = 1, act: bool = True, first: bool = False) -> pb.ConvUnit:
    """Convolution and batch norm, with ReLU last (default) or first."""
    order = pb.CONV_ORDER_ACT_CONV_NORM if first else pb.CONV_ORDER_CONV_NORM_ACT
    made = pb.ConvUnit(conv=conv(channels, kernel, stride=stride), norm=_NORM, order=order)
    if act:
        made.activation.CopyFrom(activation())
    return made


def resnet8(channels: int = 3) -> pb.Architecture:
    """ResNet-8 of MLPerf Tiny at 32x32: 78,042 parameters, 12,501,632 multiply-accumulates."""
    blocks = [block("stem", "x", conv_unit=unit(16))]
    source = "stem"
    for number, (width, stride) in enumerate([(16, 1), (32, 2), (64, 2)]):
        name = f"s{number}"
        blocks.append(block(f"{name}_a", source, conv_unit=unit(width, stride=stride)))
        blocks.append(block(f"{name}_b", f"{name}_a", conv_unit=unit(width, act=False)))
        if stride == 2:
            blocks.append(block(f"{name}_short", source, conv_unit=unit(width, 1, stride=2, act=False)))
            source = f"{name}_short"
        blocks.append(block(f"{name}_sum", f"{name}_b {source}", pb.MERGE_SUM, activation=activation()))
        source = f"{name}_sum"
    return architecture((channels, 32, 32), "fc", *blocks, *_head(source))


def nasbench201(code: str) -> pb.Architecture:
    """The network of a NAS-Bench-201 code (Dong and Yang 2020) for CIFAR-10: 5 cells at each of 16, 32, 64 channels.

    Digits: 0 none, 1 skip, 2 1x1, 3 3x3, 4 average pool; edges 0-1, 0-2, 1-2, 0-3, 1-3, 2-3.
    """
    blocks = [block("stem", "x", conv_unit=unit(16, act=False))]
    source = "stem"
    for stage, width in enumerate([16, 32, 64]):
        if stage:
            name = f"r{stage}"
            pool = pb.Pool(kind=pb.POOL_KIND_AVERAGE, kernel=2, stride=2, padding=pb.PADDING_VALID)
            blocks += [
                block(f"{name}_a", source, conv_unit=unit(width, stride=2, first=True)),
                block(f"{name}_b", f"{name}_a", conv_unit=unit(width, first=True)),
                block(f"{name}_pool", source, pool=pool),
                block(f"{name}_down", f"{name}_pool", conv=conv(width, 1)),
                block(f"{name}_sum", f"{name}_b {name}_down", pb.MERGE_SUM, identity=pb.Identity()),
            ]
            source = f"{name}_sum"
        for cell in range(5):
            made, source = _cell(f"s{stage}_c{cell}", code, source, width)
            blocks += made
    last = pb.Operation(batch_norm=_NORM)
    blocks.append(pb.Block(id="last_norm", inputs=[pb.Edge(source=source)], operation=last))
    blocks.append(block("last_act", "last_norm", activation=activation()))
    return architecture((3, 32, 32), "fc", *blocks, *_head("last_act"))


def _cell(name: str, code: str, source: str, width: int) -> tuple[list[pb.Block], str]:
    edges = [(0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3)]
    nodes = {0: source}
    blocks: list[pb.Block] = []
    for target in (1, 2, 3):
        arriving = []
        for digit, (start, end) in zip(code, edges, strict=True):
            if end == target:
                blocks.append(_edge(f"{name}_e{start}{end}", nodes[start], digit, width))
                arriving.append(blocks[-1].id)
        merge = pb.MERGE_SUM if len(arriving) > 1 else 0
        blocks.append(block(f"{name}_n{target}", " ".join(arriving), merge, identity=pb.Identity()))
        nodes[target] = blocks[-1].id
    return blocks, nodes[3]


def _edge(name: str, source: str, digit: str, width: int) -> pb.Block:
    if digit in "23":
        return block(name, source, conv_unit=unit(width, 1 if digit == "2" else 3, first=True))
    if digit == "4":
        pool = pb.Pool(kind=pb.POOL_KIND_AVERAGE, kernel=3, stride=1, padding=pb.PADDING_SAME)
        return block(name, source, pool=pool)
    return block(name, source, **({"zero": pb.Zero()} if digit == "0" else {"identity": pb.Identity()}))


def _head(source: str) -> list[pb.Block]:
    return [
        block("gap", source, global_pool=pb.GlobalPool(kind=pb.POOL_KIND_AVERAGE)),
        block("fc", "gap", linear=pb.Linear(features=10, bias=True)),
    ]
