"""Windows cut from rows that come in pieces: those that one would cut from the whole by hand."""

from collections import Counter

import numpy as np
import pytest

from nasmesh.data.adding.windows import RowsIn, Windows

SEEDS = range(40)


def by_hand(rows: RowsIn, length: int, stride: int) -> tuple[list, list, list, list]:
    """Walk through every run of rows of one file, group and split."""
    samples, labels, groups, broken = [], [], [], []
    keys = list(zip(rows.files.tolist(), rows.groups.tolist(), rows.mine.tolist(), strict=True))
    first = 0
    while first < len(keys):
        end = first
        while end < len(keys) and keys[end] == keys[first]:
            end += 1
        for start in range(first, end - length + 1, stride) if keys[first][2] else ():
            here = slice(start, start + length)
            if rows.fine[here].all():
                samples.append(rows.values[here].T)
                labels.append(Counter(rows.answers[here].tolist()).most_common(1)[0][0])
                groups.append(keys[first][1])
            else:
                broken.append(start)
        first = end
    return samples, labels, groups, broken


@pytest.mark.parametrize("seed", SEEDS)
def test_windows_of_pieces_are_those_of_the_whole(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count, length, stride = 400, int(rng.integers(1, 12)), int(rng.integers(1, 15))
    rows = RowsIn(
        rng.normal(size=(count, 2)).astype(np.float32).astype(np.float64),
        rng.integers(0, 3, count).repeat(2)[:count],
        np.sort(rng.integers(0, 6, count)),
        np.sort(rng.integers(0, 3, count)),
        rng.random(count // 50).repeat(50) < 0.8,
        rng.random(count) < 0.97,
    )
    windows, first = Windows(length, stride, regression=False), 0
    cuts = []
    while first < count:
        end = min(count, first + int(rng.integers(1, 90)))
        cuts.append(windows.add(RowsIn(*(part[first:end] for part in rows))))
        first = end
    samples, labels, groups, broken = by_hand(rows, length, stride)
    assert np.concatenate([cut.samples for cut in cuts]).tolist() == [sample.tolist() for sample in samples]
    assert np.concatenate([cut.answers for cut in cuts]).tolist() == labels
    assert np.concatenate([cut.groups for cut in cuts]).tolist() == groups
    assert [row for cut in cuts for row in cut.broken] == broken
