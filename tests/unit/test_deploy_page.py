"""docs/deploy.md: each of its commands is one that its program understands, each file that it names is there."""

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from nasmesh.settings import KNOWN
from scheduler.deployers.config import parse_config
from tests.builders import deployments
from tests.builders.deployments import CHART, DEPLOY, ROOT, Command, tool
from tests.builders.understanding import understood

PAGE = ROOT / "docs" / "deploy.md"
# Run as they stand nowhere: they change a machine or a cluster. Their files are looked for all the same.
ELSEWHERE = {"docker", "kubectl", "useradd", "python3", "install", "systemctl", "/opt/nasmesh/bin/pip"}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def lines() -> list[list[str]]:
    return [shlex.split(line) for block in blocks("sh") for line in block.splitlines() if line]


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in KNOWN:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NASMESH_HOME", str(tmp_path))


def test_commands_of_nasmesh_are_understood_in_the_environment_that_the_page_sets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    environment: dict[str, str] = {}
    seen = 0
    for words in lines():
        if words[0] == "export":
            name, _, value = words[1].partition("=")
            environment[name] = value
        elif words[0] == "nasmesh":
            filled = tuple(re.sub(r"\$(\w+)", lambda match: environment[match[1]], word) for word in words[1:])
            # A store and a journal of the page's own belong to the block that sets them.
            understood(Command("page", filled, dict(environment)), monkeypatch)
            seen += 1
        else:
            assert words[0] in {*ELSEWHERE, "helm"}, words
    assert seen >= 13


def test_files_that_the_page_names_are_there() -> None:
    for words in lines():
        for word in words:
            if word.startswith(("deploy/", "examples/")):
                assert (ROOT / word).exists(), word
    for path in re.findall(r"`((?:deploy|tests)/[\w./@-]+)`", PAGE.read_text()):
        if path == "deploy/access/":  # made by the first start
            continue
        assert (ROOT / path).exists(), path
    for path in re.findall(r"`(ci/[\w.-]+)`", PAGE.read_text()):
        assert (CHART / path).exists(), path


def test_compose_understands_its_commands() -> None:
    ours = [words for words in lines() if words[:2] == ["docker", "compose"]]
    assert len(ours) >= 4
    services = deployments.compose("compose.yaml")["services"]
    for words in ours:
        files = [words[at + 1] for at, word in enumerate(words) if word == "--file"]
        done = subprocess.run(
            [tool("docker-compose"), *(w for path in files for w in ("--file", path)), "config", "--quiet"], cwd=ROOT
        )
        assert done.returncode == 0
        rest = words[2 + 2 * len(files) :]
        assert rest[0] in ("up", "run", "restart")
        if rest[0] == "restart":
            assert set(rest[1:]) <= set(services)
        elif rest[0] == "run" and rest[3:]:
            environment = services[rest[2]]["environment"]
            with pytest.MonkeyPatch.context() as patch:
                understood(Command("page", tuple(rest[3:]), environment), patch)
        elif rest[0] == "run":
            assert "entrypoint" in services[rest[2]]  # a script of its own


def test_helm_renders_what_the_page_installs() -> None:
    ours = [words for words in lines() if words[0] == "helm"]
    assert [words[1] for words in ours] == ["install", "install", "upgrade", "upgrade"]
    first = before = yaml.safe_load((ROOT / ours[0][5]).read_text())
    for words in ours:
        assert words[2:4] == [deployments.RELEASE, "deploy/helm/nasmesh"]
        assert words[4] == "--values"
        given = yaml.safe_load((ROOT / words[5]).read_text())
        if words[1] == "upgrade":
            assert words[6:] == ["--reset-then-reuse-values"]
            given = before = over(before, given)
        made = deployments.objects(given)
        if words[1] == "upgrade":  # in which a StatefulSet may not change its volumes
            assert claims(made) == claims(deployments.objects(first)) != []
        # What pods mount is what the page makes.
        secrets = {
            volume["secret"]["secretName"]
            for _, template in deployments.pods(made)
            for volume in template["spec"]["volumes"]
            if "secret" in volume
        }
        assert secrets <= made_secrets()
    (init,) = [words for words in lines() if words[:3] == ["nasmesh", "certs", "init"]]
    hosts = {init[at + 1] for at, word in enumerate(init) if word == "--host"}
    dialled = {c.flag("--scheduler") for c in deployments.pod_commands(made) if c.program not in ("", "scheduler")}
    assert {address.rpartition(":")[0] for text in dialled for address in text.split(",")} <= hosts
    assert {"127.0.0.1", "localhost"} <= hosts  # the probes'
    tokens = [words for words in lines() if words[:3] == ["nasmesh", "token", "create"] and "agent" in words]
    pools = {pool["name"] for pool in yaml.safe_load((CHART / "ci" / "deployer.yaml").read_text())["deployer"]["pools"]}
    assert {token[token.index("--name") + 1] for token in tokens} == {deployments.RELEASE, *pools}


def over(under: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """Return values laid over those of the release before, as Helm lays them."""
    both = {name for name in values if isinstance(values[name], dict) and isinstance(under.get(name), dict)}
    return {**under, **values, **{name: over(under[name], values[name]) for name in both}}


def claims(made: list[dict[str, Any]]) -> list[dict[str, Any]]:
    sets = [found["spec"] for found in made if found["kind"] == "StatefulSet"]
    return [claim for spec in sets for claim in spec.get("volumeClaimTemplates", [])]


def made_secrets() -> set[str]:
    return {words[4] for words in lines() if words[:3] == ["kubectl", "create", "secret"]}


def test_images_of_the_page_are_targets_of_the_dockerfile() -> None:
    targets = re.findall(r"^FROM \S+ AS (\S+)$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    built = [words[words.index("--target") + 1] for words in lines() if words[:2] == ["docker", "build"]]
    assert set(built) == set(targets) - {"wheel", "base"}


def test_pools_of_the_page_are_what_the_deployer_reads() -> None:
    engines = [pool.WhichOneof("engine") for text in blocks("yaml") for pool in parse_config(text).pools]
    assert engines == ["local", "local", "slurm", "ray"]
