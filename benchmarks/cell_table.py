"""Makes the table `digits-cell`: every network of a small cell space, really trained on digits, with several seeds.

The search algorithms are tested against it: its optimum is known, and looking a network up takes no time. Trainings and
evaluations are the servers' own, one thread each; a training's cost is its processor time, which on an idle machine is
its wall time. What was trained is kept beside --out as it comes, so a run that was stopped goes on.
"""

import argparse
import json
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.report import print_figures, print_table
from evaluate_svc import job as evaluate_job
from nasmesh import spaces
from nasmesh.clock import SystemClock
from nasmesh.data import catalog
from nasmesh.jobs.context import JobContext
from nasmesh.model.admission import Admitted, admit_lowered
from nasmesh.spaces import cell
from nasmesh.store.keys import ObjectKind
from nasmesh.store.memory import MemoryStore
from nasmesh.tables.table import About, Figure, Table, to_bytes
from nasmesh.v1 import (
    architecture_pb2,
    dataset_pb2,
    evaluate_service_pb2,
    evaluation_pb2,
    measurement_pb2,
    object_pb2,
    space_pb2,
    train_service_pb2,
    training_pb2,
)
from train_svc import job as train_job

DATASET = "datasets/digits"
# A third of the samples validate: with fewer, many networks would share the best score.
DATA = dataset_pb2.DatasetSpec(dataset=DATASET, validation_fraction=0.4)
SPACE = space_pb2.Space(cell=cell.complete(space_pb2.CellSpace(nodes=3, cells=[1, 1], width=4)))
EPOCHS = 8.0
BATCH = 64
LEARNING_RATE = 0.1
_TRAINED_FIGURES = ("train_loss", "train_accuracy")
_SCORED_FIGURES = ("accuracy", "loss", "top5_accuracy")
_SPLITS = (measurement_pb2.SPLIT_VALIDATION, measurement_pb2.SPLIT_TEST)
_QUICK = 4


class _ProcessorClock(SystemClock):
    """Counts processor time, so that other programs' use of the machine does not make a network costly."""

    def monotonic(self) -> float:
        """Return the seconds that processors spent on this process."""
        return time.process_time()


@dataclass(frozen=True, slots=True)
class Network:
    """One network of the space; `digest` is equal for choices that mean the same network."""

    code: tuple[int, ...]
    admitted: Admitted

    @property
    def digest(self) -> str:
        """The structural digest."""
        return self.admitted.digest


def networks() -> Iterator[Network]:
    """Yield every network of the space, in the order of its choices."""
    info = catalog.describe(DATASET)
    choices = spaces.choices(SPACE, input_dims=info.sample_dims, classes=info.classes)
    rule = architecture_pb2.Preprocessing(mean=info.mean, std=info.std)
    for code in np.ndindex(*(len(choice.categorical.values) for choice in choices)):
        values = {choice.name: choice.categorical.values[at] for choice, at in zip(choices, code, strict=True)}
        built = spaces.build(
            SPACE,
            space_pb2.ChoiceValues(values=values),
            input_dims=info.sample_dims,
            classes=info.classes,
            preprocessing=rule,
        )
        yield Network(tuple(code), admit_lowered(built))


def _config(seed: int) -> training_pb2.TrainConfig:
    return training_pb2.TrainConfig(
        epochs=EPOCHS,
        batch_size=BATCH,
        seed=seed,
        optimizer=training_pb2.OptimizerConfig(
            kind=training_pb2.OPTIMIZER_KIND_NESTEROV, learning_rate=LEARNING_RATE, momentum=0.9, weight_decay=5e-4
        ),
        schedule=training_pb2.ScheduleConfig(kind=training_pb2.SCHEDULE_KIND_COSINE),
        compute=training_pb2.ComputePolicy(threads=1, layout=training_pb2.LAYOUT_NCHW),
    )


def train(network: Network, seed: int) -> dict[str, float]:
    """Train a network and return what that measures, by "metric split", with its cost as "cost_s"."""
    store, clock = MemoryStore(), _ProcessorClock()
    context = JobContext("cell-table", send=lambda _: None, cancelled=threading.Event(), clock=clock)
    start = train_service_pb2.StartTrainingRequest(
        training_id="cell-table",
        network=store.put(ObjectKind.NETWORK, network.admitted.content),
        config=_config(seed),
        data=DATA,
    )
    trained = train_job.train(start, context, store, clock)
    found = {f"{m.metric} {m.split}": m.value for m in trained.measurements if m.metric in _TRAINED_FIGURES}
    for split in _SPLITS:
        found.update(_score(trained.model, split, context, store))
    return {**found, "cost_s": trained.device_time_s}


def _score(
    model: object_pb2.ObjectRef, split: measurement_pb2.Split.ValueType, context: JobContext, store: MemoryStore
) -> dict[str, float]:
    start = evaluate_service_pb2.StartEvaluationRequest(
        evaluation_id="cell-table",
        model=model,
        config=evaluation_pb2.EvaluateConfig(split=split, latency=False),
        data=DATA,
    )
    scored = evaluate_job.evaluate(start, context, store, _ProcessorClock())
    return {f"{m.metric} {m.split}": m.value for m in scored.measurements if m.metric in _SCORED_FIGURES}


def _measure(networks: list[Network], seeds: int, kept: Path) -> dict[tuple[str, int], dict[str, float]]:
    """Return the figures of every distinct network and seed, those of an earlier run included."""
    done: dict[tuple[str, int], dict[str, float]] = {}
    if kept.exists():
        for line in kept.read_text().splitlines():
            row = json.loads(line)
            done[row["digest"], row["seed"]] = row["figures"]
    distinct = {network.digest: network for network in networks}
    total, begin = len(distinct) * seeds, time.monotonic()
    with kept.open("a") as notes:
        for seed in range(seeds):
            for digest, network in distinct.items():
                if (digest, seed) in done:
                    continue
                done[digest, seed] = train(network, seed)
                notes.write(json.dumps({"digest": digest, "seed": seed, "figures": done[digest, seed]}) + "\n")
                notes.flush()
                if len(done) % 25 == 0:
                    print(f"  {len(done)} of {total} trainings, {time.monotonic() - begin:.0f} s")
    return done


def _table(networks: list[Network], seeds: int, done: dict[tuple[str, int], dict[str, float]]) -> Table:
    info = catalog.describe(DATASET)
    names = sorted(next(iter(done.values())))

    def column(name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        return np.array([[done[network.digest, seed][name] for seed in range(seeds)] for network in networks])

    figures: dict[Figure, np.ndarray[tuple[int, ...], np.dtype[np.float64]]] = {
        (metric, int(split)): column(f"{metric} {split}")
        for metric, _, split in (name.partition(" ") for name in names if name != "cost_s")
    }
    return Table(
        about=About(
            table_id="digits-cell",
            description=f"every cell of {len(networks)} on digits, {EPOCHS:g} epochs, {seeds} seeds each",
            dataset=DATASET,
            sample_dims=tuple(info.sample_dims),
            classes=info.classes,
            source="python -m benchmarks.cell_table",
            licence="Apache-2.0",
            settings={
                "epochs": EPOCHS,
                "batch_size": BATCH,
                "optimizer": "NESTEROV",
                "learning_rate": LEARNING_RATE,
                "weight_decay": 5e-4,
                "schedule": "COSINE",
                "seeds": seeds,
                "validation_fraction": DATA.validation_fraction,
                "distinct_networks": len({network.digest for network in networks}),
            },
        ),
        space=SPACE,
        codes=np.array([network.code for network in networks], dtype=np.uint8),
        costs_s=column("cost_s"),
        parameters=np.array([network.admitted.counts.parameters for network in networks], dtype=np.int64),
        macs=np.array([network.admitted.counts.macs for network in networks], dtype=np.int64),
        figures=figures,
    )


def _print(table: Table, seconds: float) -> None:
    accuracy, test = ("accuracy", _SPLITS[0]), ("accuracy", _SPLITS[1])
    means = table.figures[accuracy].mean(axis=1)
    order = np.argsort(-means, kind="stable")
    rows = []
    for row in (*order[:5], *order[-2:]):
        values = table.values_of(int(row)).values
        chosen = " ".join(values[choice.name] for choice in table.choices())
        spread = table.figures[accuracy][row].std()
        rows.append(
            [
                chosen,
                table.parameters[row],
                f"{means[row]:.4f} ± {spread:.4f}",
                f"{table.figures[test][row].mean():.4f}",
            ]
        )
    print_table("networks by mean validation accuracy", ["cell", "parameters", "validation", "test"], rows)
    deviations = table.figures[accuracy].std(axis=1)
    print_figures(
        {
            "networks": len(means),
            "trainings": int(table.figures[accuracy].size),
            "best_validation_accuracy": float(means[order[0]]),
            "median_validation_accuracy": float(np.median(means)),
            "mean_deviation_of_seeds": float(deviations.mean()),
            "cost_s_in_all": float(table.costs_s.sum()),
            "wall_s": seconds,
        }
    )


def main() -> None:
    """Train, write the table, print its best networks, then the JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few networks, one seed; writes no table")
    parser.add_argument("--seeds", type=int, default=5, help="trainings of each network")
    parser.add_argument("--out", type=Path, default=Path("nasmesh/tables/data/digits-cell.npz"), help="file to write")
    given = parser.parse_args()
    begin = time.monotonic()
    everything = list(networks())
    if given.quick:
        chosen = everything[:: len(everything) // _QUICK][:_QUICK]
        with tempfile.TemporaryDirectory() as folder:
            table = _table(chosen, 1, _measure(chosen, 1, Path(folder) / "trained.jsonl"))
    else:
        table = _table(everything, given.seeds, _measure(everything, given.seeds, given.out.with_suffix(".jsonl")))
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_bytes(to_bytes(table))
    _print(table, time.monotonic() - begin)


if __name__ == "__main__":
    main()
