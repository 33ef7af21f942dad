"""`python -m train_svc`: serves TrainService; trains in warm child processes."""

import argparse
import os
import sys

from nasmesh.agent.drivers.train import TrainDriver
from nasmesh.agent.flags import ServerSettings
from nasmesh.agent.program import Program, Served, run_server_program
from nasmesh.agent.targets import TRAIN, LocalTarget
from nasmesh.host import thread_environment
from nasmesh.jobs.table import JobTable
from nasmesh.rpc.server import Service
from nasmesh.store.open import open_store
from nasmesh.v1.train_service_pb2_grpc import add_TrainServiceServicer_to_server
from train_svc import address, room
from train_svc.address import GangAddress
from train_svc.heap import heap_environment
from train_svc.room import child_limits, shared_memory
from train_svc.service import TrainServicer


def build(settings: ServerSettings) -> Served:
    """Return the service over a table of children that train, sharing processors and memory between the slots."""
    open_store(settings.store, check=True)
    memory = shared_memory(settings)
    gang = GangAddress(settings.own.gang_listen, insecure=settings.insecure)
    table = JobTable(
        work="train_svc.job:run",
        slots=settings.slots,
        directory=settings.work_dir / "jobs",
        environment={
            "NASMESH_STORE": settings.store,
            "NASMESH_STORE_CREDENTIALS": str(settings.environment.store_credentials or ""),
            "NASMESH_HOME": str(settings.environment.home),
            "NASMESH_DATA": str(settings.environment.data),
            "NASMESH_GANG_LISTEN": gang.text,
            # Of connections to other processes that end, which is how one learns of it, torch prints long stories.
            "TORCH_CPP_LOG_LEVEL": "ERROR",
            # Only processes of one server use nccl, which would by itself choose an address that others reach.
            "NCCL_SOCKET_IFNAME": "lo",
            **thread_environment(settings.slots),
            **heap_environment(os.environ),
        },
        noun="training",
        limits=child_limits(memory),
        memory=memory,
    )
    servicer = TrainServicer(table, gang_address=gang.text)
    service = Service(TRAIN, add_TrainServiceServicer_to_server, servicer)
    return Served(service, TrainDriver(LocalTarget(servicer)), table)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that only the train server has."""
    room.add_flags(parser)
    address.add_flags(parser)


PROGRAM = Program(name="train_svc", listen="127.0.0.1:7402", build=build, add_flags=add_flags)

if __name__ == "__main__":
    sys.exit(run_server_program(PROGRAM))
