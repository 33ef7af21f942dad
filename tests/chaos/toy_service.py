"""`python -m tests.chaos.toy_service KIND FLAGS`: our server programs with toy work; all else in them is real."""

import sys

from evaluate_svc.service import EvaluateServicer
from nasmesh.agent.attempt import Attempt
from nasmesh.agent.drivers.evaluate import EvaluateDriver
from nasmesh.agent.drivers.train import TrainDriver
from nasmesh.agent.flags import ServerSettings
from nasmesh.agent.program import Program, Served, run_server_program
from nasmesh.agent.targets import EVALUATE, GENERATE, TRAIN, LocalTarget
from nasmesh.jobs.table import JobTable
from nasmesh.rpc.server import Service
from nasmesh.v1 import dispatch_service_pb2 as pb
from nasmesh.v1 import job_pb2, search_pb2
from nasmesh.v1.evaluate_service_pb2_grpc import add_EvaluateServiceServicer_to_server
from nasmesh.v1.generate_service_pb2_grpc import (
    GenerateServiceServicer,
    add_GenerateServiceServicer_to_server,
)
from nasmesh.v1.train_service_pb2_grpc import add_TrainServiceServicer_to_server
from tests.builders import scheduling as make
from tests.chaos.witness import toy_outcome
from tests.e2e.mesh import ROOT
from train_svc.service import TrainServicer


class ToyGenerateDriver:
    """Proposes as the tests' generator does."""

    kind = search_pb2.TASK_KIND_GENERATE
    slots = 1

    def describe(self) -> job_pb2.Server:
        return job_pb2.Server(engine="toy", slots=1, generators=[make.make_generator()])

    def run(self, attempt: Attempt) -> pb.AttemptOutcome:
        return toy_outcome(attempt.lease)

    def forget(self, job_id: str) -> None:
        """Nothing is kept."""


def build_generate(_settings: ServerSettings) -> Served:
    service = Service(GENERATE, add_GenerateServiceServicer_to_server, GenerateServiceServicer())
    return Served(service, ToyGenerateDriver())


def build_train(settings: ServerSettings) -> Served:
    table = _table(settings, "train", "training")
    servicer = TrainServicer(table)
    return Served(
        Service(TRAIN, add_TrainServiceServicer_to_server, servicer), TrainDriver(LocalTarget(servicer)), table
    )


def build_evaluate(settings: ServerSettings) -> Served:
    table = _table(settings, "evaluate", "evaluation")
    servicer = EvaluateServicer(table)
    service = Service(EVALUATE, add_EvaluateServiceServicer_to_server, servicer)
    return Served(service, EvaluateDriver(LocalTarget(servicer)), table)


def _table(settings: ServerSettings, work: str, noun: str) -> JobTable:
    return JobTable(
        work=f"tests.chaos.toy_work:{work}",
        slots=settings.slots,
        directory=settings.work_dir / "jobs",
        environment={"PYTHONPATH": str(ROOT)},
        noun=noun,
    )


BUILD = {"generate": build_generate, "train": build_train, "evaluate": build_evaluate}

if __name__ == "__main__":
    kind = sys.argv.pop(1)
    sys.exit(run_server_program(Program(name=f"toy-{kind}", listen="127.0.0.1:0", build=BUILD[kind])))
