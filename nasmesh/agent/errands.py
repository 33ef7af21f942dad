"""What an agent does beside its work: servers are told to forget jobs whose outcome is recorded."""

import contextlib
from concurrent.futures import ThreadPoolExecutor

from nasmesh.agent.drivers.driver import Driver
from nasmesh.errors import NasmeshError
from nasmesh.logs import get_logger

_LOG = get_logger("agent")


class Errands:
    """Runs errands on threads of its own, so that whoever sends them need not wait."""

    def __init__(self) -> None:
        """Run none yet."""
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="agent-errands")

    def forget(self, driver: Driver, job_id: str) -> None:
        """Have a driver's server forget a job; after `close` nothing happens."""
        # A server forgets by itself what nobody deletes.
        with contextlib.suppress(RuntimeError):
            self._threads.submit(_forget, driver, job_id)

    def close(self) -> None:
        """Start no more."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _forget(driver: Driver, job_id: str) -> None:
    try:
        driver.forget(job_id)
    except NasmeshError as error:
        # It may never have been started; what is left a server forgets by itself after a day.
        _LOG.debug("job_not_deleted", job=job_id, reason=error.reason)
