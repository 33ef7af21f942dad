"""`python -m train_svc`: serves TrainService; trains in warm child processes."""

import sys

from nasmesh.agent.drivers.train import TrainDriver
from nasmesh.agent.flags import ServerSettings
from nasmesh.agent.program import Program, Served, run_server_program
from nasmesh.agent.targets import TRAIN, LocalTarget
from nasmesh.host import thread_environment
from nasmesh.jobs.table import JobTable
from nasmesh.rpc.server import Service
from nasmesh.v1.train_service_pb2_grpc import add_TrainServiceServicer_to_server
from train_svc.room import add_flags, child_limits, shared_memory
from train_svc.service import TrainServicer


def build(settings: ServerSettings) -> Served:
    """Return the service over a table of children that train, sharing processors and memory between the slots."""
    memory = shared_memory(settings)
    table = JobTable(
        work="train_svc.job:run",
        slots=settings.slots,
        directory=settings.work_dir / "jobs",
        environment={
            "NASMESH_STORE": settings.store,
            "NASMESH_HOME": str(settings.environment.home),
            "NASMESH_DATA": str(settings.environment.data),
            **thread_environment(settings.slots),
            # Each heap that the C library opens for a thread sets 64 MiB of addresses aside, which jobs are bounded by.
            "MALLOC_ARENA_MAX": "2",
        },
        noun="training",
        limits=child_limits(memory),
        memory=memory,
    )
    servicer = TrainServicer(table)
    service = Service(TRAIN, add_TrainServiceServicer_to_server, servicer)
    return Served(service, TrainDriver(LocalTarget(servicer)), table)


PROGRAM = Program(name="train_svc", listen="127.0.0.1:7402", build=build, add_flags=add_flags)

if __name__ == "__main__":
    sys.exit(run_server_program(PROGRAM))
