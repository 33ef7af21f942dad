"""What is off costs nothing: no program imports a telemetry library unless it is told to."""

import os
import subprocess
import sys

import pytest

HEAVY = ("opentelemetry", "prometheus_client", "requests")


@pytest.mark.parametrize(
    "module",
    ["scheduler.__main__", "generate_svc.__main__", "nasmesh.agent.program", "nasmesh.client", "clients.cli.main"],
)
def test_import_when_nothing_is_on_then_no_telemetry_library(module: str) -> None:
    code = (
        f"import sys, {module}\n"
        "from nasmesh.settings import read_settings\n"
        "from nasmesh.telemetry.tracing import configure_tracing, enabled\n"
        "configure_tracing('x', read_settings({}))\n"
        "assert not enabled()\n"
        f"found = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "assert not found, found\n"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith("NASMESH_")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 0, done.stderr
