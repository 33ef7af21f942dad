"""`python -m train_svc`: serves TrainService; trains in warm child processes."""

import sys

from nasmesh.agent.drivers.train import TrainDriver
from nasmesh.agent.flags import ServerSettings
from nasmesh.agent.program import Program, Served, run_server_program
from nasmesh.agent.targets import TRAIN, LocalTarget
from nasmesh.host import threads_per_slot
from nasmesh.jobs.table import JobTable
from nasmesh.rpc.server import Service
from nasmesh.v1.train_service_pb2_grpc import add_TrainServiceServicer_to_server
from train_svc.service import TrainServicer


def build(settings: ServerSettings) -> Served:
    """Return the service over a table of children that train, sharing the processors between the slots."""
    table = JobTable(
        work="train_svc.job:run",
        slots=settings.slots,
        directory=settings.work_dir / "jobs",
        environment={
            "NASMESH_STORE": settings.store,
            "NASMESH_HOME": str(settings.environment.home),
            "NASMESH_DATA": str(settings.environment.data),
            "OMP_NUM_THREADS": str(threads_per_slot(settings.slots)),
        },
        noun="training",
    )
    servicer = TrainServicer(table)
    service = Service(TRAIN, add_TrainServiceServicer_to_server, servicer)
    return Served(service, TrainDriver(LocalTarget(servicer)), table)


PROGRAM = Program(name="train_svc", listen="127.0.0.1:7402", build=build)

if __name__ == "__main__":
    sys.exit(run_server_program(PROGRAM))
