"""The chart and the deployer's engine at a real API server: installed, upgraded, with no more than its rights."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client as api

from nasmesh.errors import Unavailable
from nasmesh.v1 import deployer_pb2 as pb
from scheduler.deployers.base import ENGINE_DOWN, Site, Standing, State
from scheduler.deployers.config import parse_config
from scheduler.deployers.engines.kubernetes import KubernetesEngine
from scheduler.deployers.engines.kubernetes_bodies import job_body
from scheduler.deployers.orders import make_order
from tests.builders.deployments import CHART, TOOLS
from tests.builders.kubernetes_server import ApiServer, absent, api_server, custom_kind
from tests.unit.test_deploy_page import over

LOCATION = "kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION"
CUSTOM = (
    ("keda.sh", "v1alpha1", "ScaledObject"),
    ("keda.sh", "v1alpha1", "TriggerAuthentication"),
    ("monitoring.coreos.com", "v1", "PodMonitor"),
    ("trainer.kubeflow.org", "v1alpha1", "TrainJob"),
)
# Arguments as JSON on standard input: chart, release, kubeconfig, values of the installation and of each upgrade.
_HELM = """
import json, sys
import helm_python as helm
chart, release, kubeconfig, steps = json.load(sys.stdin)
with helm.Config(kubeconfig_path=kubeconfig, namespace="default") as config:
    for number, values in enumerate(steps):
        act = config.upgrade if number else config.install
        print(json.dumps(act(chart, release, values, namespace="default")["manifest"]))
"""
POOL = """
pools:
  - { name: eval, kind: TASK_KIND_EVALUATE, maxServers: 4, kubernetes: { image: nasmesh-evaluate, namespace: default } }
"""
TRAIN_JOB = """
pools:
  - name: train
    kind: TASK_KIND_TRAIN
    maxServers: 4
    resources: { gpus: 1 }
    kubernetes: { workload: KUBERNETES_WORKLOAD_TRAIN_JOB, runtime: torch-distributed, namespace: default }
"""
WITHIN_S = 60.0


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    why = absent() or ("" if (TOOLS / "helm").exists() else "no .tools/helm; scripts/tools.sh obtains it")
    if why:
        pytest.skip(why)
    with api_server(tmp_path_factory.mktemp("cluster") / "files") as running:
        kinds = api.ApiextensionsV1Api(running.client())
        for group, version, kind in CUSTOM:
            definition: Any = custom_kind(group, version, kind)
            kinds.create_custom_resource_definition(definition)
        for group, version, kind in CUSTOM:
            until(partial(running.serves, f"/apis/{group}/{version}/{kind.lower()}s"))
        yield running


def until(holds: Callable[[], bool]) -> None:
    ends = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < ends, f"not within {WITHIN_S:.0f} s"
        time.sleep(0.1)


def values(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((CHART / "ci" / f"{name}.yaml").read_text())
    return found


def helm(there: ApiServer, release: str, *steps: dict[str, Any]) -> list[dict[str, Any]]:
    """Install a release and upgrade it; returns the objects of the last."""
    done = subprocess.run(
        [sys.executable, "-c", _HELM],
        input=json.dumps([str(CHART), release, str(there.kubeconfig), steps]),
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(TOOLS / "helm")},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    manifests = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(manifests) == len(steps)
    return [found for found in yaml.safe_load_all(manifests[-1]) if found]


@pytest.fixture(scope="module")
def installed(there: ApiServer) -> list[dict[str, Any]]:
    """The page's installation and both of its upgrades."""
    first = values("sqlite-hpa")
    second = over(first, values("deployer"))
    return helm(there, "mesh", first, second, over(second, values("deployer-keda")))


def test_a_cluster_takes_the_chart_its_upgrades_and_the_larger_example(
    there: ApiServer, installed: list[dict[str, Any]]
) -> None:
    larger = helm(there, "larger", values("postgres-gpu-keda"))
    apps = api.AppsV1Api(there.client())
    made = {item.metadata.name for item in apps.list_namespaced_deployment("default").items}
    wanted = {found["metadata"]["name"] for found in [*installed, *larger] if found["kind"] == "Deployment"}
    assert "mesh-deployer" in wanted
    assert made == wanted, "those that an upgrade took out are gone"
    # Its controllers make pods of them: nothing that they are refused for.
    sets = {found["metadata"]["name"] for found in [*installed, *larger] if found["kind"] == "StatefulSet"}
    core = api.CoreV1Api(there.client())

    def owners() -> set[str]:
        pods = core.list_namespaced_pod("default").items
        return {
            "-".join(pod.metadata.name.split("-")[:2]) for pod in pods if pod.metadata.name.rsplit("-", 1)[1] == "0"
        }

    until(lambda: owners() >= sets)


@pytest.fixture
def deployer(
    there: ApiServer, installed: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> ApiServer:
    """The cluster as the chart's deployer may use it: by the token of its account."""
    accounts = [found["metadata"]["name"] for found in installed if found["kind"] == "ServiceAccount"]
    assert "mesh-deployer" in accounts
    asked: Any = {"spec": {"audiences": ["https://kubernetes.default.svc"]}}
    core = api.CoreV1Api(there.client())
    token = core.create_namespaced_service_account_token("mesh-deployer", "default", asked).status.token
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(there.config_of(str(token))))
    monkeypatch.setattr(LOCATION, str(path))
    return there


def pool_of(text: str) -> pb.ServerPool:
    return parse_config(text).pools[0]


def order_of(pool: pb.ServerPool, number: int) -> Any:
    return make_order(pool, f"{pool.name}-{number:06x}", scheduler="hub:7400", store="s3://nas?endpoint=minio:9000")


def only(engine: KubernetesEngine) -> Standing:
    (found,) = engine.standings()
    return found


def pod_of(there: ApiServer, server: str) -> str:
    """Return the pod that the cluster has made of a server's job."""
    core, found = api.CoreV1Api(there.client()), []

    def made() -> bool:
        found[:] = core.list_namespaced_pod("default", label_selector=f"nasmesh.dev/server={server}").items
        return bool(found)

    until(made)
    return str(found[0].metadata.name)


def test_a_server_runs_through_a_job_that_the_chart_lets_the_deployer_make(deployer: ApiServer, tmp_path: Path) -> None:
    pool = pool_of(POOL)
    engine, core = KubernetesEngine(pool, Site("nasmesh", tmp_path)), api.CoreV1Api(deployer.client())
    assert not engine.standings()
    order = order_of(pool, 1)
    engine.start(order)
    engine.start(order)
    assert only(engine)[:2] == (order.name, State.PENDING)
    pod = pod_of(deployer, order.name)
    # What a scheduler of pods and a kubelet would say.
    target = api.V1Binding(metadata={"name": pod}, target={"kind": "Node", "name": "n1"})  # type: ignore[arg-type]
    core.create_namespaced_pod_binding(pod, "default", target, _preload_content=False)
    tell(core, pod, {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]})
    until(lambda: only(engine)[1:] == (State.RUNNING, "pod Running on n1"))

    engine.stop(order.name, 30.0)
    until(lambda: only(engine)[1:] == (State.RUNNING, "is being removed"))  # until the kubelet says that it is gone
    core.delete_namespaced_pod(pod, "default", grace_period_seconds=0)
    until(lambda: not engine.standings())

    order = order_of(pool, 2)
    engine.start(order)
    ended = {"name": "server", "state": {"terminated": {"exitCode": 2, "reason": "Error"}}, "ready": False}
    ended |= {"image": "nasmesh-evaluate", "imageID": "", "restartCount": 0}
    tell(core, pod_of(deployer, order.name), {"phase": "Failed", "containerStatuses": [ended]})
    until(lambda: only(engine).state is State.ENDED)
    assert "failed" in only(engine).reason
    engine.stop(order.name, 30.0)
    until(lambda: not engine.standings())


def tell(core: api.CoreV1Api, pod: str, said: dict[str, Any]) -> None:
    patch: Any = {"status": said}
    core.patch_namespaced_pod_status(pod, "default", patch)


def test_what_a_queue_holds_back_has_no_pod_until_it_is_admitted(deployer: ApiServer, tmp_path: Path) -> None:
    pool = pool_of(POOL.replace("image:", "queue: gpus, image:").replace("name: eval", "name: queued"))
    engine, order = KubernetesEngine(pool, Site("nasmesh", tmp_path)), order_of(pool, 3)
    engine.start(order)
    until(lambda: only(engine)[1:] == (State.PENDING, "waits for its queue to admit it"))
    admitted: Any = {"spec": {"suspend": False}}  # which Kueue does
    api.BatchV1Api(deployer.client()).patch_namespaced_job(order.name, "default", admitted)
    assert pod_of(deployer, order.name)
    assert only(engine).reason != "waits for its queue to admit it"
    engine.stop(order.name, 30.0)
    until(lambda: not engine.standings())


@pytest.mark.usefixtures("deployer")
def test_train_jobs_are_within_its_rights_and_other_namespaces_are_not(tmp_path: Path) -> None:
    pool = pool_of(TRAIN_JOB)
    engine, order = KubernetesEngine(pool, Site("nasmesh", tmp_path)), order_of(pool, 4)
    engine.start(order)
    engine.start(order)
    assert only(engine).name == order.name
    engine.stop(order.name, 30.0)
    until(lambda: not engine.standings())

    elsewhere = KubernetesEngine(pool_of(POOL.replace("default", "kube-system")), Site("nasmesh", tmp_path))
    for act in (elsewhere.standings, lambda: elsewhere.start(order_of(pool_of(POOL), 5))):
        with pytest.raises(Unavailable, match="mesh-deployer") as caught:
            act()
        assert caught.value.reason == ENGINE_DOWN
        assert "403" in caught.value.message


def test_a_job_has_no_field_that_the_cluster_does_not_know(there: ApiServer) -> None:
    body = job_body(order_of(pool_of(POOL), 6), pool_of(POOL), "nasmesh")
    path = "/apis/batch/v1/namespaces/default/jobs?dryRun=All&fieldValidation=Strict"
    assert there.ask(path, body)[0] == 201
    body["spec"]["template"]["spec"]["containers"][0]["cpus"] = 1
    refused, why = there.ask(path, body)
    assert refused == 400
    assert 'unknown field \\"spec.template.spec.containers[0].cpus\\"' in why
