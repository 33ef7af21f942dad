"""A server program as ours are, over the fake train server: `python agent_program.py FLAGS`."""

import sys

from agent_fakes import FakeTrainServer

from nasmesh.agent.drivers.train import TrainDriver
from nasmesh.agent.flags import ServerSettings
from nasmesh.agent.program import Program, Served, run_server_program
from nasmesh.agent.targets import TRAIN, LocalTarget
from nasmesh.rpc.server import Service
from nasmesh.v1.train_service_pb2_grpc import add_TrainServiceServicer_to_server


def build(settings: ServerSettings) -> Served:
    server = FakeTrainServer(settings.work_dir / "jobs", settings.slots)
    return Served(
        Service(TRAIN, add_TrainServiceServicer_to_server, server), TrainDriver(LocalTarget(server)), server.table
    )


if __name__ == "__main__":
    sys.exit(run_server_program(Program(name="fake_svc", listen="127.0.0.1:0", build=build)))
