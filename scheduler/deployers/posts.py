"""A pool with its engine, which is asked and told beside the looks: none holds up another, or the program's end."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

from nasmesh.errors import Invalid, NasmeshError, Unavailable
from nasmesh.logs import get_logger
from nasmesh.v1 import deployer_pb2
from scheduler.deployers.acquaintance import Acquaintance
from scheduler.deployers.base import ENGINE_DOWN, Engine, Order, Standing
from scheduler.deployers.records import PoolRecord
from scheduler.deployers.rules import EXTERNAL, rules_of

ENGINE_S = 30.0
"""An engine that has not answered for so long is away: work that its pool was to grow for is left to others."""

_SAID = 200

Answer = TypeVar("Answer")
_log = get_logger("deployer")


class _Told(NamedTuple):
    """What an engine said to orders: how many it took, which it did not, and the error of either kind."""

    taken: int
    left: Sequence[str]
    refused: NasmeshError | None
    trouble: NasmeshError | None


class Post:
    """One pool: its engine (none where it is external), what is remembered of its servers, and what they are."""

    def __init__(self, pool: deployer_pb2.ServerPool, engine: Engine | None, acquaintance: Acquaintance) -> None:
        """Know no server yet."""
        self.pool = pool
        self.engine = engine
        self.acquaintance = acquaintance
        self.record = PoolRecord(rules_of(pool))
        self._asked: Future[Sequence[Standing]] | None = None
        self._acting: Future[_Told] | None = None
        self._calls = 0
        self._heard: tuple[int, float] = (0, 0.0)

    @property
    def kind_name(self) -> str:
        """Name of its engine."""
        return EXTERNAL if self.engine is None else self.engine.kind_name

    @property
    def outstanding(self) -> Sequence[Future[Any]]:
        """What its engine still has to answer: one thing, or none."""
        return [call for call in (self._asked, self._acting) if call is not None]

    def ask(self, now: float) -> bool:
        """Ask the engine how its servers stand, unless it still has something to answer; returns whether it was."""
        self.settle(now)
        if self.engine is None or self.outstanding:
            return False
        self._heard = (self._calls, now)
        self._asked = self._aside(self.engine.standings)
        return True

    def answer(self, now: float) -> Sequence[Standing] | None:
        """Return how its servers stand; None where that is not known, and where it may be why the record tells."""
        if self._asked is None or not self._asked.done():
            self._note_silence(now)
            return None
        asked, self._asked = self._asked, None
        try:
            standings = asked.result()
        except NasmeshError as error:
            self._note_away(error)
            return None
        self.record.away = False
        return standings

    def act(self, start: Sequence[Order], stop: Sequence[str], now: float) -> None:
        """Begin to have servers stopped and started; only after an answer. What comes of it is for `settle`."""
        if self.engine is not None and (start or stop):
            engine = self.engine
            self._heard = (self._calls, now)
            self._acting = self._aside(lambda: self._tell(engine, start, stop))

    def settle(self, now: float) -> None:
        """Take in what became of orders, if the engine is through with them."""
        if self._acting is None or not self._acting.done():
            return
        told, self._acting = self._acting.result(), None
        self.record.tally.starts += told.taken
        for name in told.left:
            # Whether it was started after all is seen at the next look, as it is for an unknown server.
            self.record.servers.pop(name, None)
        if told.trouble is not None:
            self.record.refused(told.trouble)
        if isinstance(told.refused, Invalid):
            self.record.failed(told.refused.message, now)
        elif told.refused is not None:
            self.record.refused(told.refused)

    def close(self) -> None:
        """Let the engine go; servers run on."""
        if self.engine is not None:
            self.engine.close()

    # --- below ------------------------------------------------------------------------------------------------------

    def _aside(self, call: Callable[[], Answer]) -> Future[Answer]:
        """Run a call on a thread of its own. Nothing waits for its end: an engine may hang for ever."""
        future: Future[Answer] = Future()

        def run() -> None:
            try:
                with self._understood():
                    future.set_result(call())
            except NasmeshError as error:
                future.set_exception(error)

        threading.Thread(target=run, name=f"engine-{self.pool.name}", daemon=True).start()
        return future

    @contextmanager
    def _understood(self) -> Iterator[None]:
        """Raise Unavailable (ENGINE_DOWN) for whatever an engine raises beside our errors, so that it ends no other."""
        try:
            yield
        except NasmeshError:
            raise
        except Exception as error:
            if not self.record.away:  # else it is in the log already
                _log.exception("engine_failed", pool=self.pool.name, engine=self.kind_name)
            said = f"{type(error).__name__}: {error}"[:_SAID]
            raise Unavailable(ENGINE_DOWN, f"the {self.kind_name} engine failed: {said}") from error
        finally:
            self._calls += 1

    def _tell(self, engine: Engine, start: Sequence[Order], stop: Sequence[str]) -> _Told:
        trouble: NasmeshError | None = None
        for name in stop:
            try:
                with self._understood():
                    engine.stop(name, self.record.rules.stop_grace_s)
            except NasmeshError as error:  # it is told to stop again at the next look, and so are the others
                _log.warning("stop_refused", pool=self.pool.name, server=name, reason=error.reason, why=error.message)
                trouble = error
                break
        for number, order in enumerate(start):
            try:
                with self._understood():
                    engine.start(order)
                _log.info("server_ordered", pool=self.pool.name, server=order.name, engine=engine.kind_name)
            except NasmeshError as error:  # what is wrong with one order is wrong with those like it
                _log.warning(
                    "start_refused", pool=self.pool.name, server=order.name, reason=error.reason, why=error.message
                )
                return _Told(number, [left.name for left in start[number:]], error, trouble)
        return _Told(len(start), (), None, trouble)

    def _note_silence(self, now: float) -> None:
        """Note that the engine is away once it has let none of its calls through for long."""
        calls, since = self._heard
        if calls != self._calls:
            self._heard = (self._calls, now)
        elif self.outstanding and now - since >= ENGINE_S and not self.record.away:
            text = f"the {self.kind_name} engine has given no answer for more than {ENGINE_S:.0f} s"
            self._note_away(Unavailable(ENGINE_DOWN, text))

    def _note_away(self, error: NasmeshError) -> None:
        if not self.record.away:
            _log.warning(
                "engine_away", pool=self.pool.name, engine=self.kind_name, reason=error.reason, why=error.message
            )
        self.record.away = True
        self.record.refused(error)
