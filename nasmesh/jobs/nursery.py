"""Keeps one warm child ready, so that a slot whose child died starts its next job without waiting for imports."""

import queue
import threading
from collections.abc import Mapping

from nasmesh.errors import Unavailable
from nasmesh.jobs.process import ChildLimits, ChildProcess

SPARE_DELAY_S = 15.0
"""How long after a child is warm the next spare is started: its imports must not slow down the first job."""


class Nursery:
    """Starts every child of a table on one thread that lives as long as the table.

    One thread, because the kernel sends a child its parent-death signal when the *thread* that started it ends.
    """

    def __init__(
        self,
        work: str,
        *,
        limits: ChildLimits,
        environment: Mapping[str, str],
        spare_delay_s: float = SPARE_DELAY_S,
    ) -> None:
        """Start the thread; the first child is started when a slot takes it."""
        self._work = work
        self._limits = limits
        self._environment = dict(environment)
        self._spare_delay_s = spare_delay_s
        self._orders: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._delivered: queue.SimpleQueue[ChildProcess | OSError] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._ahead = 0
        """Children ordered that no slot has claimed."""
        self._timer: threading.Timer | None = None
        self._closed = False
        self.started = 0
        """Children started so far."""
        self._thread = threading.Thread(target=self._run, name="nursery", daemon=True)
        self._thread.start()

    def take(self) -> ChildProcess:
        """Return a child, the spare if there is one; raises Unavailable (CHILD_UNAVAILABLE) where none can be started.

        A spare that died while it waited is replaced once; where children die at once, the caller gets the corpse,
        whose last words say why.
        """
        child = self._claim()
        if not child.alive:
            child.collect()
            child = self._claim()
        if child.warm.is_set():
            self._plan_spare()
        return child

    def close(self) -> None:
        """End the spare and the thread. Slots must have ended their children: these die with the thread."""
        with self._lock:
            self._closed = True
            if self._timer is not None:
                self._timer.cancel()
        self._orders.put(False)
        self._thread.join()
        while not self._delivered.empty():
            child = self._delivered.get()
            if isinstance(child, ChildProcess):
                child.end()

    def _claim(self) -> ChildProcess:
        with self._lock:
            if self._ahead:
                self._ahead -= 1
            else:
                self._orders.put(True)
        child = self._delivered.get()
        if isinstance(child, OSError):
            raise Unavailable("CHILD_UNAVAILABLE", f"no process can be started for the job: {child}")
        return child

    def _plan_spare(self) -> None:
        with self._lock:
            if self._closed or self._ahead or (self._timer is not None and self._timer.is_alive()):
                return
            self._timer = threading.Timer(self._spare_delay_s, self._order_spare)
            self._timer.daemon = True
            self._timer.start()

    def _order_spare(self) -> None:
        with self._lock:
            if not self._closed and not self._ahead:
                self._ahead = 1
                self._orders.put(True)

    def _run(self) -> None:
        while self._orders.get():
            try:
                child = ChildProcess(
                    self._work,
                    environment=self._environment,
                    limits=self._limits,
                    on_warm=self._plan_spare,
                )
            except OSError as error:
                self._delivered.put(error)
            else:
                self.started += 1
                self._delivered.put(child)
