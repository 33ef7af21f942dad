"""`python -m generate_svc`: serves GenerateService; with a scheduler, works on generate tasks."""

import argparse
import sys
from pathlib import Path

from generate_svc.algorithm import Algorithm
from generate_svc.program import ProgramGenerator
from generate_svc.registry import GENERATORS
from generate_svc.service import GenerateServicer
from nasmesh import ids
from nasmesh.agent.drivers.generate import GenerateDriver
from nasmesh.agent.flags import ServerSettings
from nasmesh.agent.program import Program, Served, run_server_program
from nasmesh.agent.targets import GENERATE, LocalTarget
from nasmesh.errors import Invalid
from nasmesh.jobs.confinement import SandboxLimits
from nasmesh.jobs.sandbox import Sandbox
from nasmesh.limits import MIB
from nasmesh.rpc.server import Service
from nasmesh.store.open import open_store
from nasmesh.v1.generate_service_pb2_grpc import add_GenerateServiceServicer_to_server


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of a generator that is a program of its own."""
    limits = SandboxLimits()
    group = parser.add_argument_group(
        "your own generator", "A program in any language, run in a sandbox for every call."
    )
    group.add_argument("--program", type=Path, metavar="FILE", help="serve this generator instead of the built-in ones")
    group.add_argument(
        "--program-format", choices=("protobuf", "json"), default="protobuf", help="what it reads and writes [protobuf]"
    )
    group.add_argument(
        "--program-reads",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="directory it may read; may repeat",
    )
    group.add_argument(
        "--program-memory-mib",
        type=int,
        default=limits.memory_bytes // MIB,
        metavar="N",
        help="its memory [%(default)s]",
    )
    group.add_argument(
        "--program-time-s",
        type=float,
        default=limits.time_s,
        metavar="S",
        help="longest that a call takes [%(default)g]",
    )


def build(settings: ServerSettings) -> Served:
    """Return the service; the store is only for the networks that its agent makes of proposals."""
    servicer = GenerateServicer(_served(settings))
    service = Service(GENERATE, add_GenerateServiceServicer_to_server, servicer)
    driver = GenerateDriver(LocalTarget(servicer), open_store(settings.store, check=True), slots=settings.slots)
    return Served(service, driver)


def _served(settings: ServerSettings) -> dict[str, Algorithm]:
    """Return the built-in algorithms, or the one program that is served instead of them."""
    own = settings.own
    if own.program is None:
        return GENERATORS
    if not 16 <= own.program_memory_mib <= 1 << 20 or not 0.1 <= own.program_time_s <= 240:
        # Longer than that, the caller of Propose has given up.
        message = "program: use --program-memory-mib 16 to 1048576 and --program-time-s 0.1 to 240"
        raise Invalid("PROGRAM_LIMITS_INVALID", message, field="program")
    is_python = own.program.suffix == ".py"
    sandbox = Sandbox(
        own.program,
        interpreter=[sys.executable, "-I"] if is_python else [],
        expose=[*own.program_reads, *([Path(sys.prefix), Path(sys.base_prefix)] if is_python else [])],
        limits=SandboxLimits(memory_bytes=own.program_memory_mib * MIB, time_s=own.program_time_s),
    )
    generator = ProgramGenerator(sandbox, form=own.program_format, slots=settings.slots)
    return {ids.parse_name("generators", generator.describe().name): generator}


PROGRAM = Program(name="generate_svc", listen="127.0.0.1:7401", build=build, add_flags=add_flags)

if __name__ == "__main__":
    sys.exit(run_server_program(PROGRAM))
