"""Servers as Jobs, or TrainJobs, of a Kubernetes cluster, through the official client. Opened at its first use."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from kubernetes import client as api
from kubernetes import config as api_config
from urllib3.exceptions import HTTPError

from nasmesh.errors import Invalid, NotFound, Unavailable
from nasmesh.v1 import deployer_pb2
from scheduler.deployers.base import DOES_NOT_FIT, ENGINE_DOWN, Fault, Order, Site, Standing, refuse
from scheduler.deployers.engines import kubernetes_bodies as bodies
from scheduler.deployers.engines.kubernetes_status import JOB_SET, has_ended, standing, waiting

CALL_S = (5.0, 20.0)
"""How long a call may take to connect, and to be answered."""

_PAGE = 500
_SAID = 300
_NEVER = frozenset({400, 404, 405, 422})
"""Answers to a creation that the same body will get again."""

Answer = TypeVar("Answer")


class KubernetesEngine:
    """One pool's Jobs or TrainJobs."""

    kind_name = "kubernetes"

    def __init__(self, pool: deployer_pb2.ServerPool, site: Site) -> None:
        """Keep a pool's servers at a cluster; raises Invalid (CONFIG_INVALID) for wrong settings."""
        refuse(_faults(pool))
        self._pool = pool
        self._deployer = site.deployer
        self._is_train_job = pool.kubernetes.workload == deployer_pb2.KUBERNETES_WORKLOAD_TRAIN_JOB
        self._namespace = bodies.namespace_of(pool)
        self._selector = f"{bodies.DEPLOYER_LABEL}={site.deployer},{bodies.POOL_LABEL}={pool.name}"
        self._opened: api.ApiClient | None = None

    def start(self, order: Order) -> None:
        """Create the server's Job; raises Invalid (DOES_NOT_FIT) for what the cluster will never take."""
        try:
            if self._is_train_job:
                body = bodies.train_job_body(order, self._pool, self._deployer)
                self._ask(
                    lambda: self._custom().create_namespaced_custom_object(*self._place(), body, **_RAW), new=True
                )
            else:
                job: Any = bodies.job_body(order, self._pool, self._deployer)
                self._ask(lambda: self._batch().create_namespaced_job(self._namespace, job, **_RAW), new=True)
        except _ConflictError as conflict:
            # It was created before, or the cluster was busy with its quotas: the name tells.
            if not self._exists(order.name):
                raise Unavailable(ENGINE_DOWN, f"the cluster answers 409: {conflict}") from conflict

    def stop(self, name: str, grace_s: float) -> None:
        """Delete the server's Job: its pod gets SIGTERM, and the Job is gone when the pod is.

        The pod has the pool's stop_grace; `grace_s` is that.
        """
        del grace_s
        options = api.V1DeleteOptions(propagation_policy="Foreground")
        try:
            if self._is_train_job:
                self._ask(
                    lambda: self._custom().delete_namespaced_custom_object(*self._place(), name, body=options, **_RAW)
                )
            else:
                self._ask(lambda: self._batch().delete_namespaced_job(name, self._namespace, body=options, **_RAW))
        except NotFound:
            return

    def standings(self) -> Sequence[Standing]:
        """Return how the pool's Jobs stand, with what keeps their pods waiting."""
        jobs = self._list(self._train_jobs if self._is_train_job else self._jobs)
        waits = waiting(self._list(self._pods)) if any(not has_ended(job) for job in jobs) else {}
        return [standing(job, waits) for job in jobs if self._is_own(job)]

    def close(self) -> None:
        """Close the connections."""
        if self._opened is not None:
            self._opened.close()  # type: ignore[no-untyped-call]
            self._opened = None

    def _is_own(self, job: Mapping[str, Any]) -> bool:
        labels = job["metadata"].get("labels") or {}
        return (labels.get(bodies.DEPLOYER_LABEL), labels.get(bodies.POOL_LABEL)) == (self._deployer, self._pool.name)

    # --- calls ------------------------------------------------------------------------------------------------------

    def _jobs(self, token: str) -> Any:
        return self._batch().list_namespaced_job(
            self._namespace, label_selector=self._selector, limit=_PAGE, _continue=token or None, **_RAW
        )

    def _pods(self, token: str) -> Any:
        core = api.CoreV1Api(self._client())
        # A TrainJob's pods are made by a JobSet of its name, and carry that name alone.
        wanted = JOB_SET if self._is_train_job else self._selector
        return core.list_namespaced_pod(
            self._namespace, label_selector=wanted, limit=_PAGE, _continue=token or None, **_RAW
        )

    def _train_jobs(self, token: str) -> Any:
        return self._custom().list_namespaced_custom_object(
            *self._place(), label_selector=self._selector, limit=_PAGE, _continue=token or None, **_RAW
        )

    def _list(self, page: Callable[[str], Any]) -> list[Mapping[str, Any]]:
        """Return all items of a list."""
        found: list[Mapping[str, Any]] = []
        token = ""
        while True:
            data = self._ask(lambda after=token: page(after)).data  # type: ignore[misc]
            try:
                body = json.loads(data)
                found += body.get("items") or []
            except (ValueError, AttributeError) as error:  # something between here and the cluster answers in its place
                raise Unavailable(ENGINE_DOWN, f"the cluster's answer is no list: {data[:_SAID]!r}") from error
            token = (body.get("metadata") or {}).get("continue") or ""
            if not token:
                return found

    def _place(self) -> tuple[str, str, str, str]:
        group, version, plural = bodies.TRAIN_JOB
        return group, version, self._namespace, plural

    def _batch(self) -> api.BatchV1Api:
        return api.BatchV1Api(self._client())

    def _custom(self) -> api.CustomObjectsApi:
        return api.CustomObjectsApi(self._client())

    def _client(self) -> api.ApiClient:
        if self._opened is None:
            settings = api.Configuration()
            try:
                if self._pool.kubernetes.context:
                    raise api_config.ConfigException
                api_config.load_incluster_config(client_configuration=settings)  # type: ignore[no-untyped-call]
            except api_config.ConfigException:
                try:
                    context = self._pool.kubernetes.context or None
                    api_config.load_kube_config(context=context, client_configuration=settings)  # type: ignore[no-untyped-call]
                except (api_config.ConfigException, OSError) as error:
                    raise Unavailable(
                        ENGINE_DOWN, f"no cluster is configured here (KUBECONFIG): {str(error)[:_SAID]}"
                    ) from error
            settings.retries = False  # a look follows in seconds; a call that is repeated here would hold it up
            self._opened = api.ApiClient(settings)
        return self._opened

    def _exists(self, name: str) -> bool:
        try:
            if self._is_train_job:
                self._ask(lambda: self._custom().get_namespaced_custom_object(*self._place(), name, **_RAW))
            else:
                self._ask(lambda: self._batch().read_namespaced_job(name, self._namespace, **_RAW))
        except NotFound:
            return False
        return True

    def _ask(self, call: Callable[[], Answer], *, new: bool = False) -> Answer:
        """Call the cluster; raises NotFound (SERVER_UNKNOWN), Invalid (DOES_NOT_FIT), Unavailable (ENGINE_DOWN)."""
        try:
            return call()
        except api.ApiException as error:
            said = _message(error)
            if new and error.status == 409:
                raise _ConflictError(said) from error
            if new and error.status in _NEVER:
                raise Invalid(DOES_NOT_FIT, f"the cluster refuses the server: {said}", field="kubernetes") from error
            if error.status == 404:
                raise NotFound("SERVER_UNKNOWN", f"the cluster does not know it: {said}") from error
            raise Unavailable(ENGINE_DOWN, f"the cluster answers {error.status}: {said}") from error
        except ValueError as error:  # the client knows the cluster's rules too, and sends nothing that breaks them
            raise Invalid(
                DOES_NOT_FIT, f"no such server can be asked for: {str(error)[:_SAID]}", field="kubernetes"
            ) from error
        except (HTTPError, OSError) as error:
            raise Unavailable(ENGINE_DOWN, f"the cluster gives no answer: {str(error)[:_SAID]}") from error


class _ConflictError(Exception):
    """The cluster says 409 to a creation."""


_RAW: dict[str, Any] = {"_request_timeout": CALL_S, "_preload_content": False}
"""Answers are read by us: what a newer cluster says beside what the client knows does no harm then."""


def _faults(pool: deployer_pb2.ServerPool) -> Iterator[Fault]:
    settings = pool.kubernetes
    if settings.workload == deployer_pb2.KUBERNETES_WORKLOAD_TRAIN_JOB:
        if not settings.runtime:
            yield "kubernetes.runtime", "name the ClusterTrainingRuntime of a TrainJob"
        for field in ("node_selector", "service_account", "secret", "image_pull_secrets", "priority_class"):
            if getattr(settings, field):
                yield f"kubernetes.{field}", "is the runtime's to say for a TrainJob"
        if pool.resources.gpu_memory_bytes:
            yield "resources.gpu_memory_bytes", "is the runtime's to say for a TrainJob"
    elif not settings.image:
        yield "kubernetes.image", "name the image that the servers run"


def _message(error: api.ApiException) -> str:
    return str(_body(error).get("message") or error.reason or "no reason given")[:_SAID]


def _body(error: api.ApiException) -> Mapping[str, Any]:
    try:
        body = json.loads(error.body or "{}")
    except (ValueError, TypeError):
        return {}
    return body if isinstance(body, dict) else {}
