"""An API server in memory for the official client, over HTTP: kmock's emulator on a thread, with faults on demand."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import kmock
import yaml


class FaultyEmulator(kmock.KubernetesEmulator):
    """Answers the next calls with a status of `faults`, 0 for no answer at all; writes down what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.faults: list[tuple[int, str]] = []
        self.asked: list[tuple[str, str]] = []

    async def _handle(self, request: Any) -> Any:
        self.asked.append((str(request.method), str(request.url)))
        if self.faults:
            status, message = self.faults.pop(0)
            if not status:
                request._raw_request.transport.close()
                raise kmock.KubernetesError(status=503)
            raise kmock.KubernetesError(status=status, message=message)
        return await super()._handle(request)


class Cluster:
    """A running emulator; `kubeconfig` is a file that leads to it."""

    def __init__(self, directory: Path) -> None:
        self.api = FaultyEmulator()
        self.kubeconfig = directory / "kubeconfig"
        self._ready, self._over = threading.Event(), asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),), daemon=True)
        self._thread.start()
        assert self._ready.wait(30)

    async def _serve(self) -> None:
        async with self.api as api, kmock.Server(api) as server:
            for resource in ("batch/v1/jobs", "v1/pods", "trainer.kubeflow.org/v1alpha1/trainjobs"):
                api.resources[resource] = {}  # type: ignore[assignment]
            config = {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "test",
                "clusters": [{"name": "test", "cluster": {"server": str(server.url).rstrip("/")}}],
                "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
                "users": [{"name": "test", "user": {}}],
            }
            self.kubeconfig.write_text(yaml.safe_dump(config))
            self._ready.set()
            await self._over.wait()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(30)
        self._loop.close()


@contextmanager
def cluster(directory: Path) -> Iterator[Cluster]:
    """Serve an empty cluster within the block."""
    running = Cluster(directory)
    try:
        yield running
    finally:
        running.close()
