"""The engine on asyncio: drains a queue of commands, one journal transaction for all of them, then replies."""

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TypeVar, cast

from nasmesh.errors import NasmeshError, Stale, Unavailable
from nasmesh.logs import bind
from scheduler.engine import Engine
from scheduler.failpoints import Failpoints
from scheduler.journal.base import Batch
from scheduler.pace import QUICK_S, Pace
from scheduler.step import Step
from scheduler.turns import Done, Line, Turns

# Longest sleep; keeps the loop alive where a clock is set by hand.
LONGEST_WAIT_S = 3600.0
# Later than this at its own deadline, the process itself stood still (stopped, swapped out), or waited for its disk:
# nobody could be heard meanwhile, so nobody's silence counts.
STANDSTILL_S = 1.0

Result = TypeVar("Result")


class Core:
    """Runs an engine. Commands are called one after the other; their results come back once they are durable."""

    def __init__(self, engine: Engine, failpoints: Failpoints | None = None) -> None:
        """Take an engine that has not recovered yet."""
        self.engine = engine
        self._failpoints = failpoints or Failpoints()
        self._commands = Turns()
        self._wake = asyncio.Event()
        # Writes the journal; the loop waits for it, or goes on reading meanwhile: see Pace.
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._pace = Pace()
        self._awake_until = engine.clock.monotonic()
        self._stopped: NasmeshError | None = None

    async def recover(self) -> None:
        """Read the journal back; commands wait meanwhile."""
        try:
            await asyncio.get_running_loop().run_in_executor(self._writer, self.engine.recover)
        except BaseException:
            self.engine.journal.close()
            raise
        self._failpoints.hit("after_recovery")

    def submit(self, command: Callable[[], Result], *, line: Line | None = None) -> Awaitable[Result]:
        """Queue a command; the awaitable has its result, or raises its error, after the commit.

        `line`: after what else came in it and before what will; without one, beside all others.
        """
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        if self._stopped is not None:
            future.set_exception(self._stopped)
        else:
            self.tell(command, partial(_settle, future), line=line)
        return cast(Awaitable[Result], future)

    def tell(self, command: Callable[[], object], done: Done, work: int = 1, line: Line | None = None) -> None:
        """Queue a command; `done` is called with its result or its error after the commit, and must not raise.

        `work`: how many commands of the usual size it is worth; `line`: see submit.
        """
        if self._stopped is not None:
            done(self._stopped)
        else:
            self._commands.add(command, done, work, line)
            self._wake.set()

    def post(self, command: Callable[[], object], *, line: Line | None = None) -> None:
        """Queue a command whose result nobody waits for; `line`: see submit."""
        self.tell(command, _ignore, line=line)

    async def run(self) -> None:
        """Work until cancelled. Raises what no retry can mend: a broken rule, a journal that another has taken over."""
        bind(epoch=self.engine.state.epoch)  # on every line that this task logs
        try:
            while True:
                await self._wait()
                self._forgive_standstill()
                taken, worth = self._commands.take(self._pace.step_work)
                began = self.engine.clock.monotonic()
                try:
                    step = self.engine.prepare([command for command, _ in taken])
                    self._pace.worked(worth, self.engine.clock.monotonic() - began)
                    await self._write(step)
                except BaseException as error:
                    _fail([done for _, done in taken], error)
                    raise
                for (_, done), result in zip(taken, step.results, strict=True):
                    done(result)
                if step.batch is not None and step.batch.snapshot_sequence:
                    await self._settle()
        finally:
            self._close()

    async def _wait(self) -> None:
        """Return when there is a command or a deadline."""
        clock = self.engine.clock
        self._awake_until = clock.monotonic()
        if self._commands or self.engine.has_more:
            await asyncio.sleep(0)  # replies go out first, and what has come meanwhile belongs into the next step
            return
        self._wake.clear()
        deadline = self.engine.next_deadline()
        wait = deadline - self._awake_until
        if wait > 0:
            self._awake_until = deadline
            timeout = None if math.isinf(wait) else min(wait, LONGEST_WAIT_S)
            # Not wait_for: on Python 3.11 it swallows a cancellation that comes together with the wake-up.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._wake.wait()

    def _forgive_standstill(self) -> None:
        """Give every attempt a full lease after a time in which this process could hear nobody."""
        late = self.engine.clock.monotonic() - self._awake_until
        if late > STANDSTILL_S:
            self.engine.stood_still(late)

    async def _write(self, step: Step) -> None:
        """Make the step durable and tell everybody, or undo it."""
        if step.batch is not None:
            self._failpoints.hit("before_commit")
            activity, clock = self.engine.activity, self.engine.clock
            activity.writing(clock.monotonic())
            try:
                await self._append(step.batch)
            except NasmeshError as error:
                activity.commit_failed(clock.monotonic())
                self.engine.abort(step, error)
                return
            activity.committed(clock.monotonic())
            self._failpoints.hit("after_commit")
        self.engine.publish(step)

    async def _append(self, batch: Batch) -> None:
        """Write on the writer's thread: a commit on a disk that hangs must not take the loop along, which answers."""
        clock = self.engine.clock
        began = clock.monotonic()
        writing = self._writer.submit(self.engine.journal.append, batch)
        if not (self._pace.is_quick and self._waited_for(writing)):
            await asyncio.wrap_future(writing)
            self._pace.followed()
        took = clock.monotonic() - began
        self._pace.committed(took)
        if took > STANDSTILL_S:
            # Heartbeats may have come in meanwhile, but a step takes no more than MOST_WORK before it counts.
            self.engine.stood_still(took)

    async def _settle(self) -> None:
        """Put the journal in order after its largest commits, while the loop sends the replies and reads on."""
        clock, activity = self.engine.clock, self.engine.activity
        began = clock.monotonic()
        activity.writing(began)
        await asyncio.wrap_future(self._writer.submit(self.engine.journal.settle))
        activity.settled()
        took = clock.monotonic() - began
        if took > STANDSTILL_S:
            self.engine.stood_still(took)

    def _waited_for(self, writing: Future[None]) -> bool:
        """Wait for a commit that should be quick; returns False where it is not over yet, raises what it raised."""
        try:
            writing.result(QUICK_S)
        except TimeoutError:
            self._pace.overran()
            return False
        return True

    def _close(self) -> None:
        stopped = Unavailable("SCHEDULER_STOPPING", "the scheduler is stopping; try again")
        self._stopped = stopped
        _fail(self._commands.give_up(), stopped)
        self.engine.hub.close(stopped)
        for entry in self.engine.agents.connected():
            if entry.session is not None:
                entry.session.close(stopped)
        self._writer.shutdown(wait=True)
        self.engine.journal.close()


def _settle(future: asyncio.Future[object], result: object) -> None:
    if future.done():  # the caller has gone
        return
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)


def _fail(waiting: list[Done], error: BaseException) -> None:
    # Superseded is this scheduler, not what was asked of it: who asked tries again, at the one that leads now.
    stopping = Unavailable("SCHEDULER_STOPPING", "the scheduler stops; try again")
    public = error if isinstance(error, NasmeshError) and not isinstance(error, Stale) else stopping
    for done in waiting:
        done(public)


def _ignore(_: object) -> None:
    """Take a result that nobody waits for."""
