"""What a Kubernetes cluster is asked for: a Job, or Kubeflow Trainer's TrainJob, for one server. Pure."""

from collections.abc import Mapping
from typing import Any

from nasmesh.v1 import deployer_pb2
from scheduler.deployers.base import Order, Resources

DEPLOYER_LABEL = "nasmesh.dev/deployer"
POOL_LABEL = "nasmesh.dev/pool"
SERVER_LABEL = "nasmesh.dev/server"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
TRAIN_JOB = ("trainer.kubeflow.org", "v1alpha1", "trainjobs")
"""Group, version and plural of a TrainJob."""

_GROUP = 10001
"""Group of the images' user (deploy/Dockerfile)."""

HOME = "/var/lib/nasmesh"
SECRETS = "/etc/nasmesh"
DEFAULT_GPU = "nvidia.com/gpu"
_GPU_MEMORY = "nvidia.com/gpu.memory"
"""Label of nodes with the memory of their GPUs in MiB; NVIDIA's feature discovery sets it."""

_MIB = 1 << 20
_KEEP_ENDED_S = 300
Body = dict[str, Any]


def labels_of(deployer: str, pool: str, name: str) -> dict[str, str]:
    """Return the labels by which a deployer finds its servers again."""
    return {
        "app.kubernetes.io/name": "nasmesh",
        "app.kubernetes.io/managed-by": "nasmesh-deployer",
        DEPLOYER_LABEL: deployer,
        POOL_LABEL: pool,
        SERVER_LABEL: name,
    }


def job_body(order: Order, pool: deployer_pb2.ServerPool, deployer: str) -> Body:
    """Return a batch/v1 Job that runs one server once; with a queue it is suspended until Kueue admits it."""
    labels = labels_of(deployer, pool.name, order.name)
    settings = pool.kubernetes
    spec: Body = {
        "backoffLimit": 0,
        "ttlSecondsAfterFinished": _KEEP_ENDED_S,
        "template": {
            # No autoscaler of nodes may take a pod away that works: the deployer itself ends those that do not.
            "metadata": {"labels": labels, "annotations": {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false"}},
            "spec": _pod(order, pool),
        },
    }
    if settings.queue:
        spec["suspend"] = True
    metadata = {"name": order.name, "namespace": namespace_of(pool), "labels": _queued(labels, settings.queue)}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}


def train_job_body(order: Order, pool: deployer_pb2.ServerPool, deployer: str) -> Body:
    """Return a TrainJob with one node; volumes, selectors and the like are its runtime's."""
    settings = pool.kubernetes
    trainer: Body = {
        "numNodes": 1,
        "command": [order.command[0]],
        "args": list(_arguments(order, pool)[1:]),
        "env": _environment(order, fields=False),
        "resourcesPerNode": _reserved(order.resources, settings.gpu_resource or DEFAULT_GPU),
    }
    if settings.image:
        trainer["image"] = settings.image
    labels = labels_of(deployer, pool.name, order.name)
    metadata = {"name": order.name, "namespace": namespace_of(pool), "labels": _queued(labels, settings.queue)}
    spec: Body = {"runtimeRef": {"name": settings.runtime}, "trainer": trainer}
    if settings.queue:
        spec["suspend"] = True
    group, version, _ = TRAIN_JOB
    return {"apiVersion": f"{group}/{version}", "kind": "TrainJob", "metadata": metadata, "spec": spec}


def namespace_of(pool: deployer_pb2.ServerPool) -> str:
    """Return the namespace of a pool's servers."""
    return pool.kubernetes.namespace or "default"


def _queued(labels: Mapping[str, str], queue: str) -> dict[str, str]:
    return {**labels, **({QUEUE_LABEL: queue} if queue else {})}


def _arguments(order: Order, pool: deployer_pb2.ServerPool) -> tuple[str, ...]:
    """Return the command with the server's own directory on the pod's volume, unless the pool names another."""
    command = list(order.command)
    if not pool.work_dir and "--work-dir" in command:
        command[command.index("--work-dir") + 1] = f"{HOME}/servers/{order.name}"
    return tuple(command)


def _environment(order: Order, *, fields: bool) -> list[Body]:
    made: list[Body] = [{"name": "NASMESH_HOME", "value": HOME}]
    if fields:  # "$(POD_IP)" in a pool's arguments is where the pod is reached, as --gang-listen wants to know
        made.append({"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}})
    given = {name: value for name, value in order.environment.items() if name != "NASMESH_HOME"}
    return [*made, *({"name": name, "value": given[name]} for name in sorted(given))]


def _reserved(resources: Resources, gpu: str) -> Body:
    amounts: dict[str, str] = {}
    if resources.cpus:
        amounts["cpu"] = f"{round(resources.cpus * 1000)}m"
    if resources.memory_bytes:
        amounts["memory"] = str(resources.memory_bytes)
    if resources.gpus:
        amounts[gpu] = str(resources.gpus)
    for name, amount in resources.custom.items():
        amounts[name] = f"{amount:g}"
    return {"requests": amounts, "limits": dict(amounts)} if amounts else {}


def _pod(order: Order, pool: deployer_pb2.ServerPool) -> Body:
    settings = pool.kubernetes
    command = _arguments(order, pool)
    mounts: list[Body] = [{"name": "work", "mountPath": HOME}]
    volumes: list[Body] = [{"name": "work", "emptyDir": {}}]
    if settings.secret:
        mounts.append({"name": "access", "mountPath": SECRETS, "readOnly": True})
        volumes.append({"name": "access", "secret": {"secretName": settings.secret, "defaultMode": 0o440}})
    container: Body = {
        "name": "server",
        "image": settings.image,
        "command": [command[0]],
        "args": list(command[1:]),
        "env": _environment(order, fields=True),
        "volumeMounts": mounts,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    reserved = _reserved(order.resources, settings.gpu_resource or DEFAULT_GPU)
    if reserved:
        container["resources"] = reserved
    pod: Body = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": max(1, pool.stop_grace.seconds),
        "automountServiceAccountToken": False,
        # Else a Service of that name sets NASMESH_SCHEDULER_PORT and the like, at which programs refuse to start.
        "enableServiceLinks": False,
        "containers": [container],
        "volumes": volumes,
    }
    if settings.secret:  # whose files are root's: the image's user reads them by its group
        pod["securityContext"] = {"fsGroup": _GROUP}
    if settings.node_selector:
        pod["nodeSelector"] = dict(settings.node_selector)
    if settings.service_account:
        pod["serviceAccountName"] = settings.service_account
    if settings.priority_class:
        pod["priorityClassName"] = settings.priority_class
    if settings.image_pull_secrets:
        pod["imagePullSecrets"] = [{"name": name} for name in settings.image_pull_secrets]
    if order.resources.gpu_memory_bytes:
        least = str(-(-order.resources.gpu_memory_bytes // _MIB) - 1)
        term = {"matchExpressions": [{"key": _GPU_MEMORY, "operator": "Gt", "values": [least]}]}
        required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}
        pod["affinity"] = {"nodeAffinity": required}
    return pod
