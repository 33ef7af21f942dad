"""The Kubernetes engine by the official client against an API server in memory, and its bodies against the schemas."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from kubeflow_trainer_api.models.trainer_v1alpha1_train_job import TrainerV1alpha1TrainJob
from kubernetes import client as api

from nasmesh.errors import Invalid, Unavailable
from nasmesh.v1 import deployer_pb2 as pb
from scheduler.deployers.base import DOES_NOT_FIT, ENGINE_DOWN, Site, State
from scheduler.deployers.config import parse_config
from scheduler.deployers.engines.kubernetes import KubernetesEngine
from scheduler.deployers.engines.kubernetes_bodies import job_body, train_job_body
from scheduler.deployers.engines.kubernetes_status import has_ended, standing
from scheduler.deployers.orders import make_order
from tests.builders.kubernetes_api import Cluster, cluster

LOCATION = "kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION"
JOB = """
pools:
  - name: train
    kind: TASK_KIND_TRAIN
    maxServers: 4
    slots: 2
    stopGrace: 45s
    arguments: [--gang-listen, "$(POD_IP):7403", --token-file, /etc/nasmesh/token]
    resources: { cpus: 1.5, memoryBytes: 4294967296, gpus: 2, gpuMemoryBytes: 25769803776,
                 custom: [{ name: example.com/nic, amount: 1 }] }
    kubernetes: { namespace: nas, image: registry.example/nasmesh-train:1, queue: gpus, secret: access,
                  nodeSelector: { pool: gpu }, serviceAccount: nas, imagePullSecrets: [pull], priorityClass: low }
"""
PLAIN = """
pools:
  - { name: eval, kind: TASK_KIND_EVALUATE, maxServers: 4, kubernetes: { image: nasmesh-evaluate } }
"""
TRAIN_JOB = """
pools:
  - name: train
    kind: TASK_KIND_TRAIN
    maxServers: 4
    resources: { gpus: 1 }
    kubernetes: { workload: KUBERNETES_WORKLOAD_TRAIN_JOB, runtime: torch-distributed, queue: gpus }
"""


def pool_of(text: str) -> pb.ServerPool:
    return parse_config(text).pools[0]


def order_of(pool: pb.ServerPool, name: str = "") -> Any:
    return make_order(pool, name or f"{pool.name}-0a1b2c", scheduler="hub:7400", store="s3://nas?endpoint=minio:9000")


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    with cluster(tmp_path) as running:
        # The client reads KUBECONFIG once, when it is imported.
        monkeypatch.setattr(LOCATION, str(running.kubeconfig))
        yield running


def engine(text: str, tmp_path: Path, deployer: str = "nasmesh") -> KubernetesEngine:
    return KubernetesEngine(pool_of(text), Site(deployer, tmp_path))


def batch(there: Cluster) -> api.BatchV1Api:
    settings = api.Configuration()
    settings.host = json.loads(json.dumps(_server(there)))
    return api.BatchV1Api(api.ApiClient(settings))


def _server(there: Cluster) -> str:
    return next(line.split()[-1] for line in there.kubeconfig.read_text().splitlines() if "server:" in line)


def patch(there: Cluster, name: str, status: dict[str, Any]) -> None:
    body: Any = {"status": status}
    batch(there).patch_namespaced_job(name, "default", body, _preload_content=False)


@pytest.mark.parametrize("text", [JOB, PLAIN])
def test_jobs_are_valid_by_kubernetes_own_schema(text: str) -> None:
    body = job_body(order_of(pool_of(text)), pool_of(text), "nasmesh")
    kubernetes_validate.validate(body, "1.30", strict=True)
    broken = json.loads(json.dumps(body))
    broken["spec"]["template"]["spec"]["containers"][0]["cpus"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, "1.30", strict=True)


def test_a_job_reserves_what_the_pool_says_and_runs_the_server_as_nobody() -> None:
    pool = pool_of(JOB)
    body = job_body(order_of(pool), pool, "nasmesh")
    pod = body["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    amounts = {"cpu": "1500m", "memory": "4294967296", "nvidia.com/gpu": "2", "example.com/nic": "1"}
    assert container["resources"] == {"requests": amounts, "limits": amounts}
    assert container["command"] == ["nasmesh"]
    assert container["args"][:3] == ["serve", "train", "--scheduler"]
    assert container["args"][-4:] == ["--gang-listen", "$(POD_IP):7403", "--token-file", "/etc/nasmesh/token"]
    assert container["args"][container["args"].index("--work-dir") + 1] == "/var/lib/nasmesh/servers/train-0a1b2c"
    assert {"name": "NASMESH_STORE", "value": "s3://nas?endpoint=minio:9000"} in container["env"]
    assert container["securityContext"]["runAsNonRoot"]
    assert pod["terminationGracePeriodSeconds"] == 45
    assert pod["nodeSelector"] == {"pool": "gpu"}
    terms = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert terms[0]["matchExpressions"][0]["values"] == ["24575"], "more than 24,575 MiB are 24 GiB"
    assert body["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
    assert body["spec"]["suspend"] is True
    assert body["spec"]["backoffLimit"] == 0


def test_a_train_job_is_one_by_kubeflows_own_models() -> None:
    pool = pool_of(TRAIN_JOB)
    body = train_job_body(order_of(pool), pool, "nasmesh")
    read = TrainerV1alpha1TrainJob.from_dict(body)
    assert read is not None
    assert read.spec is not None
    assert read.spec.trainer is not None
    assert (read.spec.runtime_ref.name, read.spec.trainer.num_nodes) == ("torch-distributed", 1)
    assert json.loads(read.to_json()) == body, "nothing that the models do not know"


def test_a_server_is_created_once_and_seen_until_it_has_ended(there: Cluster, tmp_path: Path) -> None:
    own, pool = engine(PLAIN, tmp_path), pool_of(PLAIN)
    assert not own.standings()
    own.start(order_of(pool))
    own.start(order_of(pool))  # 409: it is there already
    (found,) = own.standings()
    assert (found.name, found.state, found.reason) == ("eval-0a1b2c", State.PENDING, "has no pod yet")
    assert not engine(PLAIN, tmp_path, "another").standings(), "each deployer has its own"
    again = engine(PLAIN, tmp_path)  # as after a restart
    assert [s.name for s in again.standings()] == ["eval-0a1b2c"]

    labels = {"nasmesh.dev/deployer": "nasmesh", "nasmesh.dev/pool": "eval", "nasmesh.dev/server": "eval-0a1b2c"}
    core = api.CoreV1Api(batch(there).api_client)
    pod: Any = {
        "metadata": {"name": "eval-0a1b2c-x", "labels": labels},
        "spec": {"containers": [{"name": "server"}]},
        "status": {
            "phase": "Pending",
            "conditions": [
                {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no GPU is free"}
            ],
        },
    }
    core.create_namespaced_pod("default", pod, _preload_content=False)
    (found,) = own.standings()
    assert (found.state, found.reason) == (State.PENDING, "Unschedulable: no GPU is free")
    running: Any = {"status": {"phase": "Running", "conditions": []}, "spec": {"nodeName": "n1"}}
    core.patch_namespaced_pod("eval-0a1b2c-x", "default", running, _preload_content=False)
    assert own.standings()[0][1:] == (State.RUNNING, "pod Running on n1")
    failed = [{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded", "message": "limit reached"}]
    patch(there, "eval-0a1b2c", {"conditions": failed})
    assert own.standings()[0][1:] == (State.ENDED, "failed: limit reached")


@pytest.mark.usefixtures("there")
def test_a_server_is_stopped_by_deleting_its_job(tmp_path: Path) -> None:
    own = engine(PLAIN, tmp_path)
    own.start(order_of(pool_of(PLAIN)))
    own.stop("eval-0a1b2c", 30.0)
    own.stop("eval-0a1b2c", 30.0)
    own.stop("never-there", 30.0)
    assert not own.standings()
    own.close()


def test_a_job_that_is_being_removed_holds_its_place_until_its_pod_is_gone() -> None:
    job = {"metadata": {"name": "eval-0a1b2c", "deletionTimestamp": "2030-01-01T00:00:00Z"}, "status": {"active": 1}}
    assert standing(job, {}) == ("eval-0a1b2c", State.RUNNING, "is being removed")
    assert not has_ended(job)


def test_what_a_queue_holds_back_is_pending(there: Cluster, tmp_path: Path) -> None:
    text = PLAIN.replace("image: nasmesh-evaluate", "image: nasmesh-evaluate, queue: gpus")
    own = engine(text, tmp_path)
    own.start(order_of(pool_of(text)))
    assert own.standings()[0][1:] == (State.PENDING, "waits for its queue to admit it")
    assert there.api.asked


def test_train_jobs_are_created_seen_and_deleted(there: Cluster, tmp_path: Path) -> None:
    own, pool = engine(TRAIN_JOB, tmp_path), pool_of(TRAIN_JOB)
    own.start(order_of(pool))
    own.start(order_of(pool))
    assert own.standings()[0][1:] == (State.PENDING, "waits for its queue to admit it")
    own.stop("train-0a1b2c", 30.0)
    assert not own.standings()
    assert [method for method, url in there.api.asked if "trainjobs" in url].count("method.POST") <= 2


@pytest.mark.parametrize("status", [500, 503, 429, 401, 403])
def test_a_cluster_in_trouble_is_asked_again_later(there: Cluster, tmp_path: Path, status: int) -> None:
    own, pool = engine(PLAIN, tmp_path), pool_of(PLAIN)
    for act in (lambda: own.start(order_of(pool)), lambda: own.stop("eval-0a1b2c", 1.0), own.standings):
        there.api.faults[:] = [(status, "not now")]
        with pytest.raises(Unavailable, match="not now") as caught:
            act()
        assert caught.value.reason == ENGINE_DOWN
        assert str(status) in caught.value.message
    own.start(order_of(pool))
    assert len(own.standings()) == 1


def test_a_conflict_about_something_else_is_no_success(there: Cluster, tmp_path: Path) -> None:
    own, pool = engine(PLAIN, tmp_path), pool_of(PLAIN)
    there.api.faults[:] = [(409, "the quota is being changed")]
    with pytest.raises(Unavailable, match="quota is being changed"):
        own.start(order_of(pool))
    assert not own.standings()


@pytest.mark.parametrize("status", [400, 404, 422])
def test_what_a_cluster_never_takes_is_told_as_such(there: Cluster, tmp_path: Path, status: int) -> None:
    own = engine(PLAIN, tmp_path)
    there.api.faults[:] = [(status, "namespaces nas not found")]
    with pytest.raises(Invalid, match="namespaces nas not found") as caught:
        own.start(order_of(pool_of(PLAIN)))
    assert caught.value.reason == DOES_NOT_FIT


def test_no_cluster_is_told_with_where_it_was_looked_for(
    there: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there.close = lambda: None  # type: ignore[method-assign]
    type(there).close(there)
    with pytest.raises(Unavailable, match="gives no answer") as caught:
        engine(PLAIN, tmp_path).standings()
    assert caught.value.reason == ENGINE_DOWN
    monkeypatch.setattr(LOCATION, str(tmp_path / "nowhere"))
    with pytest.raises(Unavailable, match="KUBECONFIG"):
        engine(PLAIN, tmp_path).standings()


class _Gateway(BaseHTTPRequestHandler):
    """Whatever stands before a cluster, and answers in its place."""

    body = b""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, format: str, *_: object) -> None:
        """Say nothing."""


@pytest.mark.parametrize("body", [b"<html>Please sign in</html>", b"[]", b""])
def test_an_answer_that_is_none_of_a_clusters_is_told(body: bytes, there: Cluster, tmp_path: Path) -> None:
    gateway = ThreadingHTTPServer(("127.0.0.1", 0), type("Gateway", (_Gateway,), {"body": body}))
    thread = threading.Thread(target=gateway.serve_forever)
    thread.start()
    try:
        config = there.kubeconfig.read_text().replace(_server(there), f"http://127.0.0.1:{gateway.server_port}")
        there.kubeconfig.write_text(config)
        with pytest.raises(Unavailable, match="the cluster's answer is no list") as caught:
            engine(PLAIN, tmp_path).standings()
        assert caught.value.reason == ENGINE_DOWN
    finally:
        gateway.shutdown()
        gateway.server_close()
        thread.join()


def test_settings_that_cannot_be_are_refused_by_name(tmp_path: Path) -> None:
    for text, field in (
        (PLAIN.replace("image: nasmesh-evaluate", "namespace: nas"), "kubernetes.image"),
        (TRAIN_JOB.replace("runtime: torch-distributed, ", ""), "kubernetes.runtime"),
        (TRAIN_JOB.replace("queue: gpus", "secret: access"), "kubernetes.secret"),
    ):
        with pytest.raises(Invalid) as caught:
            engine(text, tmp_path)
        assert (caught.value.reason, caught.value.field) == ("CONFIG_INVALID", field)
