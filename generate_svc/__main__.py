"""`python -m generate_svc`: serves GenerateService; with a scheduler, works on generate tasks."""

import sys

from generate_svc.service import GenerateServicer
from nasmesh.agent.drivers.generate import GenerateDriver
from nasmesh.agent.flags import ServerSettings
from nasmesh.agent.program import Program, Served, run_server_program
from nasmesh.agent.targets import GENERATE, LocalTarget
from nasmesh.rpc.server import Service
from nasmesh.store.open import open_store
from nasmesh.v1.generate_service_pb2_grpc import add_GenerateServiceServicer_to_server


def build(settings: ServerSettings) -> Served:
    """Return the service; the store is only for the networks that its agent makes of proposals."""
    servicer = GenerateServicer()
    service = Service(GENERATE, add_GenerateServiceServicer_to_server, servicer)
    driver = GenerateDriver(LocalTarget(servicer), open_store(settings.store), slots=settings.slots)
    return Served(service, driver)


PROGRAM = Program(name="generate_svc", listen="127.0.0.1:7401", build=build)

if __name__ == "__main__":
    sys.exit(run_server_program(PROGRAM))
