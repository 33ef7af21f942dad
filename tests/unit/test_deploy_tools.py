"""deploy/ as the tools of those who use it see it: hadolint, promtool, systemd-analyze, Helm, schemas of Kubernetes."""

import copy
import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from nasmesh.settings import read_settings
from nasmesh.telemetry.catalog import METRICS, Kind
from tests.builders import deployments
from tests.builders.deployments import DEPLOY, SYSTEMD, TOOLS, tool

PROMTOOL = TOOLS / "prometheus" / "usr" / "bin" / "promtool"
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "nasmesh.json"
KUBERNETES = ("1.29", "1.37")
"""The oldest version that the chart takes, and the newest whose schemas there are."""
CUSTOM = {"ScaledObject", "TriggerAuthentication", "PodMonitor"}
# Highest exposure that `systemd-analyze security` may find in a unit: its scale goes from 0 to 10, 2 is "OK".
EXPOSURE = 20  # tenths
ALLOWANCES = ("OPEN_SEARCHES", "QUEUED_NETWORKS", "WATCHES", "CLIENT_RATE", "AGENT_RATE")


def run(*command: str, text: str = "", where: Path = DEPLOY, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, input=text, capture_output=True, text=True, timeout=120, cwd=where, env={**os.environ, **more}
    )


# Dockerfile and compose --------------------------------------------------------------------------------------------


def test_hadolint_has_nothing_against_the_dockerfile() -> None:
    done = run(tool("hadolint"), "--failure-threshold", "style", "Dockerfile")
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_hadolint_sees_a_wrong_dockerfile() -> None:
    assert run(tool("hadolint"), "-", text="FROM debian\nRUN cd /tmp && sudo true\n").returncode != 0


def test_compose_refuses_a_wrong_service(tmp_path: Path) -> None:
    wrong = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    wrong["services"]["train"]["comand"] = ["serve"]
    (tmp_path / "compose.yaml").write_text(yaml.safe_dump(wrong))
    assert run(tool("docker-compose"), "--file", str(tmp_path / "compose.yaml"), "config", "--quiet").returncode != 0


def test_scripts_are_sound_shell() -> None:
    for path in (DEPLOY / "compose").glob("*.sh"):
        assert os.access(path, os.X_OK), path
        done = run("sh", "-n", str(path))
        assert done.returncode == 0, done.stderr


# Prometheus and Grafana --------------------------------------------------------------------------------------------


def test_promtool_accepts_settings_and_rules_and_their_tests_pass() -> None:
    promtool, place = tool("promtool", PROMTOOL), DEPLOY / "prometheus"
    for arguments in (
        ("check", "config", "--syntax-only", "prometheus.yml"),
        ("check", "rules", "alerts.yml"),
        ("test", "rules", "alerts.test.yml"),
    ):
        done = run(promtool, *arguments, where=place)
        assert done.returncode == 0, done.stdout + done.stderr
    tested = (place / "alerts.test.yml").read_text()
    for name in re.findall(r"alert: (\w+)", (place / "alerts.yml").read_text()):
        assert f"alertname: {name}\n        exp_alerts:\n" in tested, f"no test in which {name} fires"


def dashboard_queries() -> list[str]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", [])]


def alert_queries() -> list[str]:
    groups = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"]
    return [rule["expr"] for group in groups for rule in group["rules"]]


def scaling_queries() -> list[str]:
    made = [
        found for path in deployments.values_files() for found in deployments.objects(yaml.safe_load(path.read_text()))
    ]
    triggers = [t for found in made if found["kind"] == "ScaledObject" for t in found["spec"]["triggers"]]
    return [trigger["metadata"]["query"] for trigger in triggers if trigger["type"] == "prometheus"]


def shown(name: str) -> tuple[str, ...]:
    """Return the names under which a scrape shows a metric."""
    kind = METRICS[name].kind
    if kind is Kind.COUNTER:
        return (f"{name}_total",)
    return (f"{name}_bucket", f"{name}_sum", f"{name}_count") if kind is Kind.HISTOGRAM else (name,)


SHOWN = {text: METRICS[name] for name in METRICS for text in shown(name)}
# What Prometheus and Kubernetes add to every sample; `le` is a histogram's.
ADDED = {"job", "instance", "namespace", "pod", "le"}


def complaints(query: str) -> list[str]:
    """Return which metrics and labels of a query no program of ours has."""
    found = [f"{name}: no such metric" for name in re.findall(r"\bnasmesh_\w+", query) if name not in SHOWN]
    known = {label for name in re.findall(r"\bnasmesh_\w+", query) if name in SHOWN for label in SHOWN[name].labels}
    for name, selector in re.findall(r"\b(nasmesh_\w+)\{([^}]*)\}", query):
        for label in re.findall(r"(\w+)\s*[=!]", selector):
            if name in SHOWN and label not in {*SHOWN[name].labels, *ADDED}:
                found.append(f"{name}: no label {label}")
    for grouped in re.findall(r"\bby \(([^)]*)\)", query):
        found += [f"by ({label}): no such label" for label in grouped.split(", ") if label not in known | ADDED]
    return found


def test_queries_name_metrics_and_labels_that_exist() -> None:
    queries = [*dashboard_queries(), *alert_queries(), *scaling_queries()]
    assert len(queries) > 35
    assert [line for query in queries for line in complaints(query)] == []
    assert complaints('sum by (kidn) (nasmesh_tasks{stat="queued"}) + nasmesh_outcomes') == [
        "nasmesh_outcomes: no such metric",
        "nasmesh_tasks: no label stat",
        "by (kidn): no such label",
    ]


def test_every_metric_is_on_the_dashboard() -> None:
    text = " ".join(dashboard_queries())
    assert [name for name in METRICS if not any(re.search(rf"\b{s}\b", text) for s in shown(name))] == []


def test_legends_of_the_dashboard_name_labels_that_the_query_keeps() -> None:
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", []):
            kept = re.findall(r"\bby \(([^)]*)\)", target["expr"])
            for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
                plain = not re.search(r"\b(sum|max|min)\b", target["expr"])
                assert plain or any(label in group.split(", ") for group in kept), panel["title"]


def test_promtool_understands_every_query(tmp_path: Path) -> None:
    queries = [query.replace("$__rate_interval", "1m") for query in (*dashboard_queries(), *scaling_queries())]
    rules = [{"record": f"q:{number}", "expr": query} for number, query in enumerate(queries)]
    (tmp_path / "queries.yml").write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    done = run(tool("promtool", PROMTOOL), "check", "rules", "--lint=none", str(tmp_path / "queries.yml"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(queries)} rules found" in done.stdout + done.stderr


# systemd -----------------------------------------------------------------------------------------------------------


def systemd_analyze(*arguments: str, where: Path) -> subprocess.CompletedProcess[str]:
    unpacked = TOOLS / "systemd" / "bin" / "systemd-analyze"
    program = tool("systemd-analyze", unpacked)
    libraries = ":".join(map(str, (TOOLS / "systemd" / "usr" / "lib").glob("*/systemd")))
    more = {"LD_LIBRARY_PATH": libraries} if program == str(unpacked) else {}
    return run(program, *arguments, where=where, **more)


@pytest.fixture
def units(tmp_path: Path) -> list[Path]:
    """The units as copies whose program exists here; of a template an instance."""
    made = []
    for path in sorted(SYSTEMD.glob("*.service")):
        copy_of = tmp_path / path.name.replace("@", "@0")
        copy_of.write_text(path.read_text().replace("/opt/nasmesh/bin/nasmesh", shutil.which("true") or "/bin/true"))
        made.append(copy_of)
    assert len(made) == 4
    return made


def test_systemd_understands_every_unit(units: list[Path], tmp_path: Path) -> None:
    done = systemd_analyze("verify", "--man=no", *map(str, units), where=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    units[0].write_text(units[0].read_text().replace("ProtectHome=yes", "ProtectHome=perhaps"))
    done = systemd_analyze("verify", "--man=no", str(units[0]), where=tmp_path)
    assert "perhaps" in done.stderr


def test_systemd_finds_units_shut_in(units: list[Path], tmp_path: Path) -> None:
    for path in units:
        done = systemd_analyze(
            "security", "--offline=yes", f"--threshold={EXPOSURE}", "--no-pager", str(path), where=tmp_path
        )
        assert done.returncode == 0, f"{path.name}: {done.stdout[-200:]}{done.stderr}"


def test_units_let_servers_end_their_jobs_themselves() -> None:
    for path in SYSTEMD.glob("*.service"):
        settings = deployments.unit(path)
        (stop_s,) = settings["TimeoutStopSec"]
        if "scheduler" in path.name:
            assert int(stop_s) >= 15
            continue
        assert int(stop_s) >= 25
        # Else systemd tells jobs to end, too, and ends the server where one job ran out of memory.
        assert (settings["KillMode"], settings["OOMPolicy"]) == (["mixed"], ["continue"]), path.name
        # gloo, of torch's process groups, does not begin without.
        assert ("AF_NETLINK" in settings["RestrictAddressFamilies"][0].split()) is ("train" in path.name)


# Helm --------------------------------------------------------------------------------------------------------------


CHARTS = [{}, *(yaml.safe_load(path.read_text()) for path in deployments.values_files())]

LARGER = next(values for values in CHARTS if values.get("scheduler", {}).get("postgres"))


@pytest.mark.parametrize("values", CHARTS, ids=["default", *(path.stem for path in deployments.values_files())])
def test_helm_and_kubernetes_accept_the_chart(values: Mapping[str, Any]) -> None:
    told = deployments.helm(values)
    assert told["lint"]["errors"] == []
    # An icon is the one thing that Helm recommends and the chart has not.
    assert [said["error"] for said in told["lint"]["messages"]] == ["icon is recommended"]
    made = deployments.objects(values)
    assert len(made) >= 10
    for found in made:
        if found["kind"] not in CUSTOM:
            for version in KUBERNETES:
                kubernetes_validate.validate(found, version, strict=True)
    assert custom_complaints([found for found in made if found["kind"] in CUSTOM]) == []


def test_prometheus_finds_every_program_that_the_chart_runs() -> None:
    values = yaml.safe_load((deployments.CHART / "ci" / "deployer.yaml").read_text())
    made = deployments.objects({**values, "prometheus": {"podMonitors": True}})
    (monitor,) = [found["spec"] for found in made if found["kind"] == "PodMonitor"]
    commands = {found.program: found for found in deployments.pod_commands(made) if found.program}
    assert {"scheduler", "generate", "deployer"} <= set(commands)
    for name, template in deployments.pods(made):
        labels = template["metadata"]["labels"]
        assert monitor["selector"]["matchLabels"].items() <= labels.items(), name
        (port,) = [p for p in template["spec"]["containers"][0]["ports"] if p["name"] == "metrics"]
        command = commands[labels["app.kubernetes.io/component"]]
        assert command.flag("--metrics") == f"open:0.0.0.0:{port['containerPort']}", name
    assert [endpoint["port"] for endpoint in monitor["podMetricsEndpoints"]] == ["metrics"]


def custom_complaints(made: list[dict[str, Any]]) -> list[str]:
    """Return what the schemas of KEDA and of the Prometheus operator have against objects."""
    place = TOOLS / "kubernetes-models"
    if not (place / "node_modules").exists():
        assert os.environ.get("CI") != "true", "scripts/tools.sh must bring them where CI=true"
        pytest.skip("no .tools/kubernetes-models; scripts/tools.sh obtains them")
    script = Path(deployments.__file__).with_name("kubernetes_models.mjs").read_text()
    done = run(tool("node"), "--input-type=module", "-e", script, text=json.dumps(made), where=place)
    assert done.returncode == 0, done.stderr
    found: list[str] = json.loads(done.stdout)
    return found


def test_schemas_see_wrong_objects() -> None:
    made = deployments.objects(LARGER)
    deployment = copy.deepcopy(next(found for found in made if found["kind"] == "Deployment"))
    deployment["spec"]["template"]["spec"]["containers"][0]["livenesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, KUBERNETES[1], strict=True)
    scaled = copy.deepcopy(next(found for found in made if found["kind"] == "ScaledObject"))
    scaled["spec"]["triggers"] = "prometheus"
    assert len(custom_complaints([scaled])) == 1


def test_the_example_of_a_larger_mesh_has_what_it_should() -> None:
    made = deployments.objects(LARGER)
    names = {(found["kind"], found["metadata"]["name"]) for found in made}
    assert ("Deployment", "mesh-train") not in names  # of the defaults, taken out
    gpu = next(
        found for found in made if found["metadata"]["name"] == "mesh-train-a100" and found["kind"] == "Deployment"
    )
    spec = gpu["spec"]["template"]["spec"]
    assert spec["containers"][0]["resources"]["limits"] == {"memory": "64Gi", "nvidia.com/gpu": 1}
    assert spec["terminationGracePeriodSeconds"] == 340
    assert spec["nodeSelector"]
    assert {("ScaledObject", "mesh-train-a100"), ("PodMonitor", "mesh"), ("NetworkPolicy", "mesh-servers")} <= names
    scheduler = next(found for found in made if found["kind"] == "StatefulSet")
    assert scheduler["spec"]["replicas"] == 2
    assert "volumeClaimTemplates" not in scheduler["spec"]
    (program,) = scheduler["spec"]["template"]["spec"]["containers"]
    assert "--standby" in program["args"]
    told = {entry["name"]: entry["value"] for entry in program["env"]}
    given = {f"NASMESH_{name}": told.get(f"NASMESH_{name}", "") for name in ALLOWANCES}
    settings = read_settings(given)
    assert (settings.open_searches, settings.queued_networks, settings.watches) == (50, 100_000, None)
    assert (settings.client_rate, settings.agent_rate) == ((20.0, 100.0), None)


@pytest.mark.parametrize("wrong", ["{openSearchs: 5}", "{watches: 0}", "{clientRate: 10}", "{agentRate: 10}"])
def test_allowances_that_make_no_sense_are_refused_by_the_chart(wrong: str) -> None:
    told = deployments.helm({"scheduler": {"allowances": yaml.safe_load(wrong)}})
    assert "allowances" in told["error"]
