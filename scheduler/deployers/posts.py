"""A pool with its engine, which is asked and told on a thread of its own: none holds up another, or a look for long."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import NamedTuple

from nasmesh.errors import Invalid, NasmeshError
from nasmesh.logs import get_logger
from nasmesh.v1 import deployer_pb2
from scheduler.deployers.acquaintance import Acquaintance
from scheduler.deployers.base import Engine, Order, Standing
from scheduler.deployers.records import PoolRecord
from scheduler.deployers.rules import EXTERNAL, rules_of

ENGINE_S = 30.0
"""How long a look waits for an engine; one that takes longer is left out until it has answered."""

_log = get_logger("deployer")


class _Told(NamedTuple):
    """What an engine said to orders: servers that it did not take, and what else it refused."""

    refused: list[tuple[str, NasmeshError]]
    trouble: NasmeshError | None


class Post:
    """One pool: its engine (none where it is external), what is remembered of its servers, and what they are."""

    def __init__(self, pool: deployer_pb2.ServerPool, engine: Engine | None, acquaintance: Acquaintance) -> None:
        """Know no server yet."""
        self.pool = pool
        self.engine = engine
        self.acquaintance = acquaintance
        self.record = PoolRecord(rules_of(pool))
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"engine-{pool.name}")
        self._asked: Future[Sequence[Standing]] | None = None
        self._acting: Future[_Told] | None = None

    @property
    def name(self) -> str:
        """Name of the pool."""
        return self.pool.name

    @property
    def kind_name(self) -> str:
        """Name of its engine."""
        return EXTERNAL if self.engine is None else self.engine.kind_name

    def ask(self) -> None:
        """Ask the engine how its servers stand, unless it has not answered the last time, or still acts."""
        if self.engine is not None and self._asked is None and self._acting is None:
            self._asked = self._thread.submit(self.engine.standings)

    def answer(self, timeout_s: float, now: float) -> Sequence[Standing] | None:
        """Return how its servers stand; None where the engine gives no answer, which the record tells of."""
        if self.engine is None:
            return ()
        self._settle(timeout_s, now)
        if self._asked is None:
            return None
        wait([self._asked], timeout_s)
        if not self._asked.done():
            self.record.reason = f"the {self.kind_name} engine has given no answer for {ENGINE_S:.0f} s"
            return None
        asked, self._asked = self._asked, None
        try:
            return asked.result()
        except NasmeshError as error:
            _log.warning("engine_away", pool=self.name, engine=self.kind_name, reason=error.reason)
            self.record.refused(error)
            return None

    def act(self, start: Sequence[Order], stop: Sequence[str], now: float) -> None:
        """Have servers stopped and started; what the engine refuses is in the record then."""
        if self.engine is not None and self._acting is None and (start or stop):
            self._acting = self._thread.submit(self._tell, self.engine, start, stop)
            self._settle(ENGINE_S, now)

    def close(self) -> None:
        """Let the engine go; servers run on."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        if self.engine is not None:
            self.engine.close()

    def _settle(self, timeout_s: float, now: float) -> None:
        """Take in what became of orders, if the engine is through with them."""
        if self._acting is None:
            return
        wait([self._acting], timeout_s)
        if not self._acting.done():
            return
        told, self._acting = self._acting.result(), None
        if told.trouble is not None:
            self.record.refused(told.trouble)
        for name, error in told.refused:
            # Whether it was started after all is seen at the next look, as it is for an unknown server.
            self.record.servers.pop(name, None)
            if isinstance(error, Invalid):
                self.record.failed(error.message, now)
            else:
                self.record.refused(error)

    def _tell(self, engine: Engine, start: Sequence[Order], stop: Sequence[str]) -> _Told:
        told = _Told([], None)
        for name in stop:
            try:
                engine.stop(name, self.record.rules.stop_grace_s)
            except NasmeshError as error:
                told = _Told(told.refused, error)
                _log.warning("stop_refused", pool=self.name, server=name, reason=error.reason, why=error.message)
        for order in start:
            if told.refused:  # what is wrong with one order is wrong with those like it
                told.refused.append((order.name, told.refused[0][1]))
                continue
            try:
                engine.start(order)
                _log.info("server_ordered", pool=self.name, server=order.name, engine=engine.kind_name)
            except NasmeshError as error:
                told.refused.append((order.name, error))
                _log.warning("start_refused", pool=self.name, server=order.name, reason=error.reason, why=error.message)
        return told
