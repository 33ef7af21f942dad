"""The door to onnxruntime."""

import os
import subprocess
import sys
from pathlib import Path


def test_runtime_when_a_session_is_opened_then_nothing_is_kept_for_the_vendor(tmp_path: Path) -> None:
    code = (
        "from nasmesh.model import runtime\n"
        "from nasmesh.model.encode import to_bytes\n"
        "from nasmesh.model.lower import lower\n"
        "from tests.builders.networks import resnet8\n"
        "from tests.builders.inference import randomised\n"
        "runtime.open_session(to_bytes(randomised(lower(resnet8()), seed=1)))\n"
    )
    kept = {"CI", "ORT_DISABLE_TELEMETRY"}
    environment = {k: v for k, v in os.environ.items() if k not in kept} | {"HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, cwd=Path(__file__).parents[2])
    assert not list(tmp_path.rglob("*onnxruntime*"))
