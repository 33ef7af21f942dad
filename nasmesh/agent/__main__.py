"""`python -m nasmesh.agent`: an agent in front of a server that somebody else wrote, in any language."""

import sys
from collections.abc import Sequence

from nasmesh.agent.backoff import Backoff
from nasmesh.agent.drivers.driver import Driver
from nasmesh.agent.drivers.evaluate import EvaluateDriver
from nasmesh.agent.drivers.train import TrainDriver
from nasmesh.agent.flags import AgentSettings, parse_agent_flags
from nasmesh.agent.lifetime import Lifetime, locked_directory
from nasmesh.agent.loop import DRAIN_S, Agent
from nasmesh.agent.targets import GENERATE, TRAIN, RemoteTarget, served_contract
from nasmesh.errors import Unavailable
from nasmesh.exits import guarded
from nasmesh.logs import configure, get_logger
from nasmesh.rpc.expiring import certificates_watched
from nasmesh.rpc.observing import metrics_served
from nasmesh.telemetry.tracing import configure_tracing, stop_tracing
from nasmesh.unpickling import forbid_unpickling

_LOG = get_logger("program")

TARGET_S = 60.0
"""How long to wait for the server at the start: it may be starting too."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run until a signal and return the exit code: 0, 2 wrong flags or target, 3 target or directory not to be had."""

    def run() -> int:
        forbid_unpickling()
        settings = parse_agent_flags(argv)
        configure("agent", settings=settings.environment)
        configure_tracing("agent", settings.environment)
        lifetime = Lifetime()
        with locked_directory(settings.work_dir):
            contract = _await_contract(settings, lifetime)
            if contract:
                agent = _agent(settings, contract)
                with (
                    certificates_watched(own=settings.access) as ends,
                    metrics_served(settings.metrics, [agent.readings, *ends]),
                ):
                    thread = lifetime.follow(agent)
                    lifetime.wait()
                    agent.drain()
                    lifetime.join(thread, DRAIN_S + 1.0)
            stop_tracing()
            return lifetime.exit_code()

    return guarded(run)


def _await_contract(settings: AgentSettings, lifetime: Lifetime) -> str:
    """Return what the target serves, or an empty text where a signal came first."""
    backoff = Backoff(cap_s=2.0)
    waited_s = 0.0
    while True:
        try:
            return served_contract(settings.target, insecure=settings.insecure, access=settings.target_access)
        except Unavailable:
            if waited_s >= TARGET_S:
                raise
        delay_s = backoff.next_s()
        waited_s += delay_s
        _LOG.info("target_away", target=settings.target)
        if lifetime.wait(delay_s):
            return ""


def _agent(settings: AgentSettings, contract: str) -> Agent:
    return Agent(
        scheduler=settings.scheduler,
        name=settings.name,
        drivers=[_driver(settings, contract)],
        work_dir=settings.work_dir,
        insecure=settings.insecure,
        access=settings.access,
        labels=settings.labels,
    )


def _driver(settings: AgentSettings, contract: str) -> Driver:
    target = RemoteTarget(settings.target, contract, insecure=settings.insecure, access=settings.target_access)
    if contract == GENERATE:
        # Imported here: only this driver needs onnx, which hosts of other servers need not have.
        from nasmesh.agent.drivers.generate import GenerateDriver
        from nasmesh.store.open import open_store

        return GenerateDriver(target, open_store(settings.store, check=True), slots=settings.slots)
    return TrainDriver(target) if contract == TRAIN else EvaluateDriver(target)


if __name__ == "__main__":
    sys.exit(main())
