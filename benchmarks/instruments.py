"""What reading statistics costs: time of a training step with a plan, divided by that of the same training without.

The default plan is the one that NAC's proposals carry, the only one that anything in the mesh asks for by itself: mean,
variance and mean of squares of every branch's activation, and every skip's scalar, at each step. On networks without
branches it is read at every convolution unit. "norms" are norms of weights and gradients and sparsity at each tenth
step; "all" is every statistic at every place, at each step. Both trainings take turns step by step in one process, on
one thread. The target for the default plan is at most 1.03.
"""

import argparse
import os
import tempfile
from pathlib import Path

from benchmarks import networks
from benchmarks.report import Spread, interleave, print_figures, print_table, spread
from benchmarks.train_step import random_images, through_the_server
from nasmesh.clock import SystemClock
from nasmesh.model.encode import to_bytes
from nasmesh.model.lower import lower
from nasmesh.store.keys import ObjectKind
from nasmesh.store.memory import MemoryStore
from nasmesh.v1 import architecture_pb2, dataset_pb2
from nasmesh.v1 import train_service_pb2 as train_pb
from nasmesh.v1 import training_pb2 as pb
from train_svc import compute
from train_svc.training import assemble

TARGET = 1.03
_STEPS = 100_000
_BATCH = 64  # TrainConfig's own; what an observer costs whatever the batch weighs more in smaller ones
_MOMENTS = [pb.STATISTIC_MEAN, pb.STATISTIC_VARIANCE, pb.STATISTIC_MEAN_SQUARE]
_EVERY = [*_MOMENTS, pb.STATISTIC_SPARSITY, pb.STATISTIC_NORM]


def _plans(architecture: architecture_pb2.Architecture) -> dict[str, pb.InstrumentationPlan]:
    units = [block.id for block in architecture.blocks if block.operation.conv_unit.HasField("activation")]
    branches = [name for name in units if "_b" in name] or units
    return {
        "default": pb.InstrumentationPlan(
            probes=[pb.Probe(elements=branches, tap=pb.TAP_ACTIVATION, statistics=_MOMENTS, every_steps=1)]
        ),
        "norms": pb.InstrumentationPlan(
            probes=[
                pb.Probe(tap=pb.TAP_WEIGHT, statistics=[pb.STATISTIC_NORM], every_steps=10),
                pb.Probe(tap=pb.TAP_GRADIENT, statistics=[pb.STATISTIC_NORM], every_steps=10),
                pb.Probe(tap=pb.TAP_ACTIVATION, statistics=[pb.STATISTIC_SPARSITY], every_steps=10),
            ]
        ),
        "all": pb.InstrumentationPlan(
            probes=[
                pb.Probe(tap=tap, statistics=_EVERY)
                for tap in (pb.TAP_ACTIVATION, pb.TAP_OUTPUT, pb.TAP_WEIGHT, pb.TAP_GRADIENT)
            ]
        ),
    }


def _measure(
    architecture: architecture_pb2.Architecture,
    store: MemoryStore,
    data: dataset_pb2.DatasetSpec,
    *,
    seconds: float,
) -> dict[str, Spread]:
    """Return the ratio of processor time of a step for every plan."""
    plans = {"none": pb.InstrumentationPlan(), **_plans(architecture)}
    config = pb.TrainConfig(
        steps=_STEPS,
        batch_size=_BATCH,
        optimizer=pb.OptimizerConfig(kind=pb.OPTIMIZER_KIND_NESTEROV, learning_rate=0.01),
        augmentation=pb.AugmentationConfig(crop_padding=4, flip=True),
        compute=pb.ComputePolicy(layout=pb.LAYOUT_NHWC, threads=1),
    )
    network = store.put(ObjectKind.NETWORK, to_bytes(lower(architecture)))
    contenders = {}
    for name, plan in plans.items():
        request = train_pb.StartTrainingRequest(network=network, config=config, data=data, instrumentation=plan)
        contenders[name] = through_the_server(assemble(request, store, SystemClock()))
    times = interleave(contenders, seconds=seconds)
    return {
        name: spread([ours.cpu_s / bare.cpu_s for ours, bare in zip(times[name], times["none"], strict=True)])
        for name in plans
        if name != "none"
    }


def main() -> None:
    """Measure, print the table, then the JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="end within 50 s")
    quick = parser.parse_args().quick
    seconds = 17.0 if quick else 120.0
    cases = {"nac": networks.nac_architecture(), "resnet8": networks.resnet8_architecture()}
    rows, figures = [], dict[str, float]()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NASMESH_HOME"] = folder
        store = MemoryStore()
        data = random_images(store, Path(folder))
        for name, architecture in cases.items():
            found = _measure(architecture, store, data, seconds=seconds)
            rows.append([name, *found.values()])
            figures |= {f"{name}_{plan}_plan_ratio": value.median for plan, value in found.items()}
    print_table(
        f"step with a plan ÷ step without, batch {_BATCH}, 1 thread, {compute.best_device()}; median [quartiles]",
        ["network", f"default plan (target <= {TARGET})", "norms, each tenth step", "all, each step"],
        rows,
    )
    worst = max(figures[f"{name}_default_plan_ratio"] for name in cases)
    print_figures({**figures, "worst_default_plan_ratio": worst, "batch": _BATCH})


if __name__ == "__main__":
    main()
