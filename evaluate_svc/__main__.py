"""`python -m evaluate_svc`: serves EvaluateService; scores in warm child processes."""

import sys

from evaluate_svc.service import EvaluateServicer
from nasmesh.agent.drivers.evaluate import EvaluateDriver
from nasmesh.agent.flags import ServerSettings
from nasmesh.agent.program import Program, Served, run_server_program
from nasmesh.agent.targets import EVALUATE, LocalTarget
from nasmesh.host import usable_memory_bytes
from nasmesh.jobs.bounds import has_gpu
from nasmesh.jobs.table import ChildLimits, JobTable, Memory
from nasmesh.rpc.server import Service
from nasmesh.store.open import open_store
from nasmesh.v1.evaluate_service_pb2_grpc import add_EvaluateServiceServicer_to_server

METRIC = "evaluate_memory_bytes"
"""The metric that an evaluation is outside of which does not fit."""


def build(settings: ServerSettings) -> Served:
    """Return the service over a table of children that score."""
    open_store(settings.store, check=True)
    most = min(ChildLimits().memory_bytes, usable_memory_bytes())
    table = JobTable(
        work="evaluate_svc.job:run",
        slots=settings.slots,
        directory=settings.work_dir / "jobs",
        environment={
            "NASMESH_STORE": settings.store,
            "NASMESH_STORE_CREDENTIALS": str(settings.environment.store_credentials or ""),
            "NASMESH_HOME": str(settings.environment.home),
            "NASMESH_DATA": str(settings.environment.data),
        },
        noun="evaluation",
        limits=ChildLimits(memory_bytes=most),
        # With a GPU it may have been the device's that was short, of which others hold a part that nobody here knows.
        memory=Memory(metric=METRIC, each=0 if has_gpu() else most),
    )
    servicer = EvaluateServicer(table)
    service = Service(EVALUATE, add_EvaluateServiceServicer_to_server, servicer)
    return Served(service, EvaluateDriver(LocalTarget(servicer)), table)


PROGRAM = Program(name="evaluate_svc", listen="127.0.0.1:7403", build=build)

if __name__ == "__main__":
    sys.exit(run_server_program(PROGRAM))
