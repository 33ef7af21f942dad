"""Every command, variable and port in deploy/ is one that our programs have: read by their own parsers."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from nasmesh.errors import NasmeshError
from nasmesh.settings import DEFAULT_SCHEDULER, KNOWN
from nasmesh.v1 import deployer_pb2 as pb
from scheduler.deployers.config import parse_config
from scheduler.deployers.engines.kubernetes_bodies import job_body
from scheduler.deployers.orders import make_order
from tests.builders import deployments
from tests.builders.deployments import CHART, DEPLOY, Command
from tests.builders.understanding import SERVERS, ClickError, understood

LISTENS = {"scheduler": DEFAULT_SCHEDULER, **{name: program.listen for name, program in SERVERS.items()}}


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in KNOWN:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NASMESH_HOME", str(tmp_path))


def values(path: Path | None) -> dict[str, Any]:
    return {} if path is None else yaml.safe_load(path.read_text())


def ids(path: Path | None) -> str:
    return "default" if path is None else path.stem


CHARTS = pytest.mark.parametrize("path", [None, *deployments.values_files()], ids=ids)


def check_probes(commands: list[Command]) -> None:
    """Assert that each probe asks where the program of the same container listens."""
    served = {}
    for found in commands:
        if found.program:
            served[found.where] = found.flag("--listen") or LISTENS[found.program]
    probes = [found for found in commands if found.words[0] == "health"]
    assert probes
    for probe in probes:
        container = next(name for name in served if probe.where.startswith(name))
        assert probe.words[1].rpartition(":")[2] == served[container].rpartition(":")[2], probe


def check_all(commands: list[Command], monkeypatch: pytest.MonkeyPatch) -> None:
    for found in commands:
        try:
            understood(found, monkeypatch)
        except (NasmeshError, ClickError) as error:
            pytest.fail(f"{found.where}: nasmesh {' '.join(found.words)}: {error}")


def test_a_flag_or_variable_that_nobody_has_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Command("here", ("serve", "train", "--slots=2"))
    check_all([right], monkeypatch)
    for wrong in (
        Command("here", ("serve", "train", "--slot=2")),
        Command("here", ("serve", "train", "--slots=0")),
        Command("here", ("serve", "scheduler", "--metrics=0.0.0.0:9400")),
        Command("here", ("serve", "scheduler", "--journal=postgresql://u:secret@h/d")),
        Command("here", ("serve", "train"), {"NASMESH_STOER": "s3://b?endpoint=h:1"}),
        Command("here", ("health", "--al")),
        Command("here", ("agent", "drain", "a", "--wait", "long")),
    ):
        with pytest.raises(pytest.fail.Exception):
            check_all([wrong], monkeypatch)


def test_compose_runs_commands_that_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    for files in (("compose.yaml",), ("compose.yaml", "compose.gpu.yaml")):
        commands = list(deployments.compose_commands(deployments.compose(*files)))
        assert {found.program for found in commands} >= set(LISTENS)
        check_all(commands, monkeypatch)
        check_probes(commands)


def test_compose_ports_are_where_prometheus_scrapes_and_agents_dial() -> None:
    commands = {c.program: c for c in deployments.compose_commands(deployments.compose("compose.yaml")) if c.program}
    scraped = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    targets = {job["job_name"]: job["static_configs"][0]["targets"] for job in scraped}
    assert set(targets) == set(LISTENS)
    for name, found in commands.items():
        assert targets[name] == [f"{name}:{found.flag('--metrics').rpartition(':')[2]}"]
        if name != "scheduler":
            assert found.flag("--scheduler") == f"scheduler:{commands['scheduler'].flag('--listen').rpartition(':')[2]}"


def test_compose_services_are_watched_started_again_and_hold_no_secret() -> None:
    for name, service in deployments.compose("compose.yaml")["services"].items():
        if name not in ("access", "bucket", "cli"):  # which end by themselves
            assert service["restart"] == "unless-stopped", name
            assert service["healthcheck"]["test"][0] == "CMD", name
            assert service["logging"] == {"driver": "local"}, name
        for key in service.get("environment") or {}:
            assert not re.search("PASSWORD|SECRET|TOKEN|_KEY", key) or key.endswith("_FILE"), f"{name}: {key}"
    # Unless it is told otherwise Grafana makes an admin of the password "admin", and lets it in by HTTP's own means.
    grafana = deployments.compose("compose.yaml")["services"]["grafana"]["environment"]
    assert grafana["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
    assert grafana["GF_AUTH_BASIC_ENABLED"] == "false"


def test_compose_scripts_name_commands_that_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    found = list(script_commands())
    assert len(found) >= 4
    check_all(found, monkeypatch)


def script_commands() -> Iterator[Command]:
    """Yield the commands of the scripts beside compose.yaml, their variables filled in with something."""
    for path in sorted((DEPLOY / "compose").glob("*.sh")):
        text = path.read_text().replace("$hosts", "--host h").replace('"$days"', "90").replace("$days", "90")
        for line in re.findall(r"^\s*(?:\[.*\] \|\| )?nasmesh (.*)$", text, re.MULTILINE):
            words = re.sub(r"\s*> /dev/null.*$", "", line)
            words = re.sub(r'"[^"]*"', "x", words)
            yield Command(path.name, tuple("agent" if word == "$2" else word for word in words.split()))


def test_units_run_commands_that_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    commands = list(deployments.unit_commands())
    assert {found.program for found in commands} == set(LISTENS)
    check_all(commands, monkeypatch)
    for found in commands:
        assert found.environment["NASMESH_HOME"].startswith("/var/lib/nasmesh")


@CHARTS
def test_the_chart_runs_commands_that_exist(path: Path | None, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = list(deployments.pod_commands(deployments.objects(values(path))))
    assert {found.program for found in commands} >= ({"scheduler"} if deploys(path) else set(LISTENS))
    assert ("deployer" in {found.program for found in commands}) is deploys(path)
    check_all(commands, monkeypatch)
    check_probes(commands)


def deploys(path: Path | None) -> bool:
    return bool(values(path).get("deployer", {}).get("enabled"))


def pools_of(made: list[dict[str, Any]]) -> pb.DeployerConfig:
    (given,) = [found["data"]["pools.yaml"] for found in made if found["kind"] == "ConfigMap"]
    config = parse_config(given)
    (scheduler,) = {c.flag("--scheduler") for c in deployments.pod_commands(made) if c.program == "deployer"}
    assert config.scheduler == scheduler
    assert config.store.startswith("s3://")
    return config


def test_pools_of_the_chart_are_what_the_deployer_reads() -> None:
    config = pools_of(deployments.objects(values(CHART / "ci" / "deployer.yaml")))
    assert [(pool.name, pool.kubernetes.namespace) for pool in config.pools] == [
        ("gpu", "mesh-namespace"),
        ("score", "mesh-namespace"),
    ]


def test_servers_that_the_charts_deployer_starts_run_commands_that_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    config = pools_of(deployments.objects(values(CHART / "ci" / "deployer.yaml")))
    for pool in config.pools:
        order = make_order(pool, f"{pool.name}-abcdef", scheduler=config.scheduler, store=config.store)
        job = job_body(order, pool, config.name)
        for version in ("1.29", "1.37"):
            kubernetes_validate.validate(job, version, strict=True)
        spec = job["spec"]["template"]["spec"]
        assert (spec["enableServiceLinks"], spec["securityContext"]["fsGroup"]) == (False, 10001)
        (container,) = spec["containers"]
        variables = {variable["name"]: variable.get("value", "") for variable in container["env"]}
        own = {name: value for name, value in variables.items() if name.startswith("NASMESH_")}
        assert container["command"] == ["nasmesh"]
        check_all([Command(pool.name, tuple(container["args"]), own)], monkeypatch)
        assert own["NASMESH_STORE_CREDENTIALS"].startswith("/etc/nasmesh/")  # where the pool's secret is mounted


@CHARTS
def test_pods_of_the_chart_keep_their_promises(path: Path | None) -> None:
    made = deployments.objects(values(path))
    for name, template in deployments.pods(made):
        spec = template["spec"]
        # Kubernetes would set NASMESH_SCHEDULER_PORT and the like, at which our programs refuse to start.
        assert spec["enableServiceLinks"] is False, name
        assert spec["automountServiceAccountToken"] is (name == "mesh-deployer"), name
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["terminationGracePeriodSeconds"] >= 30, name
        for container in [*spec["containers"], *spec.get("initContainers", [])]:
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] is True
            assert security["allowPrivilegeEscalation"] is False
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["limits"]["memory"]
            mounted = {mount["name"] for mount in container["volumeMounts"]}
            claims = {
                claim["metadata"]["name"] for claim in workload(made, name)["spec"].get("volumeClaimTemplates", [])
            }
            assert mounted <= {volume["name"] for volume in spec["volumes"]} | claims, name
        check_ports(spec["containers"][0])
    check_selectors(made)


def workload(made: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(
        found for found in made if found["kind"] in ("Deployment", "StatefulSet") and found["metadata"]["name"] == name
    )


def check_ports(container: Mapping[str, Any]) -> None:
    """Assert that a container says which ports its command opens to others, and no more."""
    found = Command("", tuple(container["args"]))
    opened = {"metrics": found.flag("--metrics").rpartition(":")[2]}
    if found.flag("--listen").startswith("0.0.0.0:"):
        opened["grpc"] = found.flag("--listen").rpartition(":")[2]
    if found.flag("--gang-listen"):
        opened["gang"] = found.flag("--gang-listen").rpartition(":")[2]
    assert {port["name"]: str(port["containerPort"]) for port in container["ports"]} == opened


def check_selectors(made: list[dict[str, Any]]) -> None:
    """Assert that everything that selects pods selects some, and that named ports exist there."""
    templates = [template["metadata"]["labels"] for _, template in deployments.pods(made)]
    names = {
        port["name"] for _, template in deployments.pods(made) for port in template["spec"]["containers"][0]["ports"]
    }
    for found in made:
        spec = found.get("spec", {})
        selector = {"Service": spec.get("selector"), "PodDisruptionBudget": spec.get("selector", {}).get("matchLabels")}
        wanted = selector.get(found["kind"])
        if wanted:
            known = {key: value for key, value in wanted.items() if not key.startswith("statefulset.kubernetes.io/")}
            assert any(known.items() <= labels.items() for labels in templates), found["metadata"]["name"]
        if found["kind"] == "Service":
            assert {port["targetPort"] for port in spec["ports"]} <= names
        if found["kind"] in ("ScaledObject", "HorizontalPodAutoscaler"):
            assert workload(made, spec["scaleTargetRef"]["name"])["spec"].get("replicas") is None


def test_agents_of_the_chart_dial_schedulers_that_it_makes() -> None:
    for path in (None, *deployments.values_files()):
        made = deployments.objects(values(path))
        sets = [found for found in made if found["kind"] == "StatefulSet"]
        hosts = {
            f"{found['metadata']['name']}-{n}.{found['spec']['serviceName']}:7400"
            for found in sets
            for n in range(found["spec"]["replicas"])
        }
        services = {found["metadata"]["name"] for found in made if found["kind"] == "Service"}
        assert {found["spec"]["serviceName"] for found in sets} <= services
        dialled = [c.flag("--scheduler") for c in deployments.pod_commands(made) if c.program in SERVERS]
        assert dialled
        assert all(set(text.split(",")) == hosts for text in dialled)


@pytest.mark.parametrize(
    "wrong",
    [
        {"servers": {"train": {"program": "trainer"}}},
        {"servers": {"train": {"program": "train", "slot": 2}}},
        {"store": {"url": "/var/lib/objects"}},
        {"scheduler": {"replicas": 2}},
        {"imagee": {"tag": "1"}},
    ],
    ids=str,
)
def test_the_chart_refuses_values_that_are_misspelt(wrong: dict[str, Any]) -> None:
    told = deployments.helm(wrong)
    assert "manifest" not in told
    assert "values don't meet the specifications" in told["error"] or "additional properties" in told["error"].lower()


def test_dockerfile_has_a_target_for_each_program_and_torch_in_train_alone() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    stages = dict(re.findall(r"^FROM \S+ AS (\S+)\n(.*?)(?=^FROM |\Z)", text, re.MULTILINE | re.DOTALL))
    project = deployments.compose("compose.yaml", "compose.gpu.yaml")
    wanted = {service["build"]["target"] for service in project["services"].values() if "build" in service}
    assert wanted | set(LISTENS) <= set(stages)
    for name in (*LISTENS, "train-cuda", "deployer"):
        program = name.removesuffix("-cuda")
        assert f'CMD ["serve", "{program}"]' in stages[name]
        assert "USER 10001:10001" in stages[name]
        (extras,) = re.findall(r"\[([a-z0-9,]+)\]\"$", stages[name], re.MULTILINE)
        more = {"kubernetes", "scheduler"} if program == "deployer" else {program}
        assert set(extras.split(",")) == {*more, "s3", "telemetry"}
        assert ("EXPOSE 7400" in stages[name]) is (name == "scheduler")  # whoever else listens does so for itself
    assert 'EXPOSE 9400\nENTRYPOINT ["tini", "--", "nasmesh"]' in stages["base"]
    assert f"version: {read_version()}" in (CHART / "Chart.yaml").read_text()


def read_version() -> str:
    from nasmesh import __version__

    return __version__
