"""Every service of the mesh, really served on this machine: scheduler, generate, train and evaluate."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from evaluate_svc.service import EvaluateServicer
from generate_svc.service import GenerateServicer
from nasmesh.jobs.context import JobContext
from nasmesh.jobs.table import JobTable
from nasmesh.keda import externalscaler_pb2
from nasmesh.rpc.gate import Gate
from nasmesh.rpc.server import Door, Service, serve_threads
from nasmesh.store.memory import MemoryStore
from nasmesh.v1 import (
    deployer_service_pb2,
    dispatch_service_pb2,
    evaluate_service_pb2,
    evaluate_service_pb2_grpc,
    generate_service_pb2,
    generate_service_pb2_grpc,
    scheduler_service_pb2,
    train_service_pb2,
    train_service_pb2_grpc,
)
from scheduler.deployers.board import Board
from scheduler.deployers.service import services
from scheduler.program import Options, Scheduler, start
from train_svc.service import TrainServicer

_MODULES = (
    scheduler_service_pb2,
    dispatch_service_pb2,
    generate_service_pb2,
    train_service_pb2,
    evaluate_service_pb2,
    deployer_service_pb2,
    externalscaler_pb2,
)
_STANDARD = (health_pb2, reflection_pb2)
ADD = {
    "GenerateService": generate_service_pb2_grpc.add_GenerateServiceServicer_to_server,
    "TrainService": train_service_pb2_grpc.add_TrainServiceServicer_to_server,
    "EvaluateService": evaluate_service_pb2_grpc.add_EvaluateServiceServicer_to_server,
}


@dataclass(frozen=True)
class Method:
    """One method as its descriptor has it."""

    path: str
    service: str
    descriptor: MethodDescriptor


def methods(*, standard: bool = False) -> list[Method]:
    """Return all methods of the mesh's services, with `standard` those of health and reflection too."""
    services: list[ServiceDescriptor] = [
        service
        for module in (*_MODULES, *(_STANDARD if standard else ()))
        for service in module.DESCRIPTOR.services_by_name.values()
    ]
    return [
        Method(f"/{service.full_name}/{method.name}", service.name, method)
        for service in services
        for method in service.methods
    ]


def work(_request: bytes, _context: JobContext) -> bytes:
    """Do nothing, in the child of a job table."""
    return b""


class SchedulerThread:
    """A whole scheduler on a thread of its own."""

    def __init__(self, door: Door, options: Options) -> None:
        import threading

        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, name="scheduler")
        self.thread.start()
        self.scheduler: Scheduler = self.wait(start(options, store=MemoryStore(), door=door))
        self.address = self.scheduler.address
        self.gate: Gate = self.scheduler._server.gate

    def wait(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout=60)

    def stop(self) -> None:
        self.wait(self.scheduler.stop(0))
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(timeout=30)
        self.loop.close()


@dataclass(frozen=True)
class Everything:
    """Where each service is served, and its gate."""

    addresses: dict[str, str]
    gates: dict[str, Gate]
    scheduler: SchedulerThread


@contextmanager
def every_service(directory: Path, door: Door) -> Iterator[Everything]:
    """Serve everything behind doors of one kind, within the block."""
    with ExitStack() as stack:
        scheduler = SchedulerThread(door, Options("127.0.0.1:0", "memory:", "memory:"))
        stack.callback(scheduler.stop)
        names = ("SchedulerService", "DispatchService")
        addresses, gates = dict.fromkeys(names, scheduler.address), dict.fromkeys(names, scheduler.gate)
        tables: dict[str, Callable[[], object]] = {
            "GenerateService": GenerateServicer,
            "TrainService": lambda: TrainServicer(_table(stack, directory, "training")),
            "EvaluateService": lambda: EvaluateServicer(_table(stack, directory, "evaluation")),
        }
        for name, make in tables.items():
            service = Service(f"nasmesh.v1.{name}", ADD[name], make())
            running = serve_threads([service], "127.0.0.1:0", door=door)
            stack.callback(running.stop, 0)
            addresses[name], gates[name] = running.address, running.gate
        deployer = serve_threads(services(Board("deployer")), "127.0.0.1:0", door=door)
        stack.callback(deployer.stop, 0)
        for name in ("DeployerService", "ExternalScaler"):
            addresses[name], gates[name] = deployer.address, deployer.gate
        for name in ("Health", "ServerReflection"):
            addresses[name], gates[name] = scheduler.address, scheduler.gate
        yield Everything(addresses, gates, scheduler)


def _table(stack: ExitStack, directory: Path, noun: str) -> JobTable:
    table = JobTable(work="tests.builders.every_service:work", slots=1, directory=directory / noun, noun=noun)
    stack.callback(table.close)
    return table
