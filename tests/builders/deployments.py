"""What the files of deploy/ would run: every command of ours in them, with its environment, as our programs see it."""

from __future__ import annotations

import functools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm" / "nasmesh"
TOOLS = ROOT / ".tools"
SYSTEMD = DEPLOY / "systemd"
RELEASE = "mesh"


@dataclass(frozen=True, slots=True)
class Command:
    """One command line that begins with `nasmesh`, without that word."""

    where: str
    words: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def program(self) -> str:
        """The program that `nasmesh serve` becomes; nothing for another command."""
        return self.words[1] if self.words[:1] == ("serve",) else ""

    def flag(self, name: str) -> str:
        """Return a flag's value; nothing where it is not given."""
        for at, word in enumerate(self.words):
            if word.startswith(f"{name}="):
                return word.partition("=")[2]
            if word == name:
                return self.words[at + 1]
        return ""


def tool(name: str, *elsewhere: Path) -> str:
    """Return a tool's path; skips the test where there is none, and fails it where CI=true."""
    beside = Path(sys.executable).with_name(name)
    for path in (beside, *elsewhere):
        if path.exists():
            return str(path)
    if found := shutil.which(name):
        return found
    assert os.environ.get("CI") != "true", f"{name} must be there where CI=true"
    pytest.skip(f"no {name}; make setup and scripts/tools.sh obtain it")


# Docker Compose --------------------------------------------------------------------------------------------------


def compose(*files: str) -> dict[str, Any]:
    """Return what Docker Compose makes of files of deploy/, variables and shared parts filled in."""
    arguments = [word for name in files for word in ("--file", str(DEPLOY / name))]
    command = [tool("docker-compose"), *arguments, "--profile", "tools", "config", "--format", "json"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("NASMESH_", "TRAIN_"))}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=kept)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr  # warnings: a variable without a value, an obsolete element
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def compose_commands(project: Mapping[str, Any]) -> Iterator[Command]:
    """Yield the commands of the services that are ours, and of their probes."""
    for name, service in project["services"].items():
        if not service["image"].startswith("nasmesh"):
            continue
        environment = {key: str(value) for key, value in (service.get("environment") or {}).items()}
        if not service.get("entrypoint") and service.get("command"):
            yield Command(f"compose {name}", tuple(service["command"]), environment)
        probe = service.get("healthcheck", {}).get("test", [])
        if probe:
            assert probe[:2] == ["CMD", "nasmesh"], probe
            yield Command(f"compose {name} healthcheck", tuple(probe[2:]), environment)


# systemd ---------------------------------------------------------------------------------------------------------


def unit(path: Path) -> dict[str, list[str]]:
    """Return the settings of a unit by name, each with all of its values."""
    found: dict[str, list[str]] = {}
    for line in path.read_text().splitlines():
        if "=" in line and not line.startswith(("#", ";")):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def _filled(form: str, text: str, variables: Mapping[str, str]) -> str:
    """Return a text with variables put in; `form` is what one looks like."""
    return re.sub(form, lambda match: variables[match[1]], text)


def environment_file(path: Path) -> dict[str, str]:
    """Return the variables of a file that a unit reads."""
    lines = (line for line in path.read_text().splitlines() if line and not line.startswith("#"))
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


def unit_commands() -> Iterator[Command]:
    """Yield the command of each unit, an instance of a template being number 0."""
    for path in sorted(SYSTEMD.glob("*.service")):
        settings = unit(path)
        variables: dict[str, str] = {}
        for name in settings["EnvironmentFile"]:
            variables |= environment_file(SYSTEMD / Path(name).name)
        for text in settings["Environment"]:
            variables |= dict(pair.split("=", 1) for pair in shlex.split(text.replace("%i", "0")))
        (line,) = settings["ExecStart"]
        words = _filled(r"\$\{?(\w+)\}?", line.replace("%i", "0"), variables).split()
        assert words[0] == "/opt/nasmesh/bin/nasmesh", words
        yield Command(path.name, tuple(words[1:]), variables)


# Helm ------------------------------------------------------------------------------------------------------------

_RENDER = """
import json, sys
import helm_python as helm
chart, release, namespace, values = json.load(sys.stdin)
nobody = {"apiVersion": "v1", "kind": "Config", "clusters": [{"name": "none", "cluster": {"server": "http://127.0.0.1:1"}}],
          "contexts": [{"name": "none", "context": {"cluster": "none", "user": "none"}}],
          "users": [{"name": "none", "user": {}}], "current-context": "none"}
told = {"lint": helm.lint(chart, values, strict=True)}
try:
    with helm.Config(kubeconfig_content=json.dumps(nobody)) as config:
        told["manifest"] = config.install(chart, release, values, dry_run="client", namespace=namespace)["manifest"]
except helm.HelmError as error:
    told["error"] = str(error)
print(json.dumps(told))
"""


def values_files() -> list[Path]:
    """Return the files of values that the chart is rendered with, beside its own."""
    return sorted((CHART / "ci").glob("*.yaml"))


def helm(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what Helm says of the chart with values: `lint`, and `manifest` or `error`."""
    return dict(_helm(json.dumps(values)))


@functools.cache
def _helm(values: str) -> dict[str, Any]:
    place = TOOLS / "helm"
    if not place.exists():
        assert os.environ.get("CI") != "true", "scripts/tools.sh must bring Helm where CI=true"
        pytest.skip("no .tools/helm; scripts/tools.sh obtains it")
    done = subprocess.run(
        [sys.executable, "-c", _RENDER],
        input=json.dumps([str(CHART), RELEASE, "mesh-namespace", json.loads(values)]),
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(place)},
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def objects(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the objects that the chart makes with values."""
    told = helm(values)
    assert "error" not in told, told["error"]
    return [found for found in yaml.safe_load_all(told["manifest"]) if found]


def pods(made: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name and the pod's template of every workload."""
    for found in made:
        if found["kind"] in ("Deployment", "StatefulSet", "Job"):
            yield found["metadata"]["name"], found["spec"]["template"]


def pod_commands(made: list[dict[str, Any]]) -> Iterator[Command]:
    """Yield the commands of our containers, of their probes and of their hooks."""
    for name, template in pods(made):
        for container in template["spec"]["containers"]:
            environment = {
                variable["name"]: variable.get("value", "10.0.0.1" if variable["name"] == "POD_IP" else f"{name}-abcde")
                for variable in container.get("env", [])
            }

            own = {key: value for key, value in environment.items() if key.startswith("NASMESH_")}
            yield Command(
                f"helm {name}", tuple(_filled(r"\$\((\w+)\)", word, environment) for word in container["args"]), own
            )
            for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
                words = container[kind]["exec"]["command"]
                assert words[0] == "nasmesh", words
                yield Command(f"helm {name} {kind}", tuple(words[1:]), own)
            hook = container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command")
            if hook:
                assert hook[:2] == ["sh", "-c"], hook
                line = hook[2].replace("$POD_NAME", environment["POD_NAME"])
                words = shlex.split(line)
                assert words[:2] == ["exec", "nasmesh"], words
                yield Command(f"helm {name} preStop", tuple(words[2:]), own)
