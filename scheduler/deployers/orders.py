"""What a server of a pool is started with: its command line, environment and resources."""

from nasmesh.clock import new_id
from nasmesh.v1 import deployer_pb2 as pb
from scheduler.deployers.base import Order, Resources
from scheduler.deployers.rules import EVALUATE, GENERATE, TRAIN

PROGRAMS = {GENERATE: "generate", TRAIN: "train", EVALUATE: "evaluate"}
_WORK_DIR = "~/.nasmesh/servers"


def new_name(pool: str) -> str:
    """Return a name that no server of a pool has had."""
    return f"{pool}-{new_id()[:6]}"


def make_order(pool: pb.ServerPool, name: str, *, scheduler: str, store: str) -> Order:
    """Return the order of one server, which dials `scheduler` and uses the object store at `store` ("": its default).

    What the pool's own arguments say comes last, and holds.
    """
    work_dir = f"{(pool.work_dir or _WORK_DIR).rstrip('/')}/{name}"
    labels = {**pool.labels, "pool": pool.name}
    said = [part for label in sorted(labels) for part in ("--label", f"{label}={labels[label]}")]
    command = ("nasmesh", "serve", PROGRAMS[pool.kind], "--scheduler", scheduler, "--name", name)
    flags = ("--slots", str(pool.slots), "--listen", "127.0.0.1:0", "--work-dir", work_dir)
    return Order(
        name=name,
        pool=pool.name,
        command=(*command, *said, *flags, *pool.arguments),
        environment={**({"NASMESH_STORE": store} if store else {}), **pool.environment},
        resources=resources_of(pool.resources),
        labels=labels,
    )


def resources_of(given: pb.ServerResources) -> Resources:
    """Return what an engine reserves for each server of a pool."""
    return Resources(
        cpus=given.cpus,
        memory_bytes=given.memory_bytes,
        gpus=given.gpus,
        gpu_memory_bytes=given.gpu_memory_bytes,
        custom={custom.name: custom.amount for custom in given.custom},
    )
