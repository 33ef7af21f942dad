"""A train or evaluate server with real children and a directory store, served on a free port of this machine."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import psutil

from nasmesh.jobs.table import JobTable
from nasmesh.rpc.channel import open_channel
from nasmesh.rpc.server import Service, serve_threads
from nasmesh.store.open import open_store
from nasmesh.v1 import train_service_pb2_grpc as rpc
from train_svc.service import TrainServicer


@contextmanager
def serving(
    directory: Path, *, noun: str, work: str, service, stub, slots: int = 1, **variables: str
) -> Iterator[SimpleNamespace]:
    """Yield (table, stub, store, address, directory); `service(table)` returns the Service, `stub` is the class.

    `variables`: more of the children's environment, as gang_listen for NASMESH_GANG_LISTEN, or another store.
    """
    store = variables.setdefault("store", f"dir:{directory / 'objects'}")
    environment = {"NASMESH_HOME": str(directory), "OMP_NUM_THREADS": "1"}
    environment |= {f"NASMESH_{name.upper()}": value for name, value in variables.items()}
    table = JobTable(work=work, slots=slots, directory=directory / "jobs", environment=environment, noun=noun)
    made: Service = service(table)
    server = serve_threads([made], "127.0.0.1:0", workers=16)
    try:
        with open_channel(server.address) as channel:
            yield SimpleNamespace(
                table=table, stub=stub(channel), store=open_store(store), address=server.address, directory=directory
            )
    finally:
        server.stop(0.5)
        table.close()


def serving_trainings(directory: Path, **more) -> AbstractContextManager[SimpleNamespace]:
    """Serve trainings as the train server does; see `serving`."""

    def service(table):
        return Service("nasmesh.v1.TrainService", rpc.add_TrainServiceServicer_to_server, TrainServicer(table))

    stub = rpc.TrainServiceStub
    return serving(directory, noun="training", work="train_svc.job:run", service=service, stub=stub, **more)


def children(server: SimpleNamespace) -> list[psutil.Process]:
    """Return a server's own children; this process has others, as a database that later tests still need."""
    found = []
    for child in psutil.Process().children():
        with suppress(psutil.Error):  # gone meanwhile, or a zombie
            if child.environ().get("NASMESH_HOME") == str(server.directory):
                found.append(child)
    return found
