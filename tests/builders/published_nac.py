"""The final CIFAR-10 network of NAC as its authors published it (branches and skips of each cell), as choice values."""

from nasmesh import spaces
from nasmesh.spaces.envelope import cell_id
from nasmesh.spaces.envelope_network import Cell, EnvelopeNetwork, encode
from nasmesh.v1 import space_pb2 as pb
from tests.builders.generating import CONSTRUCTION, envelope

_FULL = "1x1 3x3 3x3sep 5x5 5x5sep 7x7sep"
# Per stage and cell: live branches; skip sources by entry number (1 is the first cell; wideners 8 and 16 count).
_STAGES: tuple[tuple[tuple[str, tuple[int, ...]], ...], ...] = (
    (
        ("3x3sep 5x5sep 7x7sep", ()),
        ("5x5sep 7x7sep", ()),
        ("5x5 7x7sep", (1,)),
        ("3x3 5x5", (1,)),
        ("1x1", (1,)),
        ("5x5 5x5sep", (2, 4)),
        (_FULL, (5, 4, 3, 2, 1)),
    ),
    (
        ("5x5 5x5sep 7x7sep", (1, 7)),
        ("1x1 7x7sep", (1, 8, 7)),
        ("1x1 3x3", (9, 6, 7)),
        ("3x3 7x7sep", (9, 1, 7)),
        ("1x1 7x7sep", (1, 6, 10, 7)),
        ("1x1", (9, 1, 3, 8, 10, 12, 7)),
        (_FULL, tuple(range(13, 0, -1))),
    ),
    ((_FULL, (9, 1, 6, 7, 15)), (_FULL, (12, 16, 14, 7, 15))),
)


def published_space() -> pb.Space:
    """The final phase's space: stem 3x3 of 128 channels without normalisation."""
    space = envelope(*CONSTRUCTION, width=128)
    space.envelope.stem.kernel = 3
    space.envelope.stem.local_response_norm = False
    return spaces.complete(space)


def published_network() -> pb.ChoiceValues:
    entries = EnvelopeNetwork(
        tuple(tuple(Cell(cell_id(s, k), ()) for k in range(1, len(cells) + 1)) for s, cells in enumerate(_STAGES, 1))
    ).entries()
    stages = tuple(
        tuple(
            Cell(cell_id(s, k), tuple(branches.split()), tuple(entries[number] for number in sorted(skips)))
            for k, (branches, skips) in enumerate(cells, 1)
        )
        for s, cells in enumerate(_STAGES, 1)
    )
    return encode(published_space().envelope, EnvelopeNetwork(stages))
