"""How each seeded bug is planted: real functions replaced by what a tired programmer might have written."""

import os
from typing import Any

from nasmesh.client.client import Client
from nasmesh.errors import Unavailable
from nasmesh.jobs import records
from nasmesh.rpc import gate, policy
from nasmesh.store import memory
from scheduler import desk, engine, lifecycle, searches, timers, workload
from scheduler.domain import TaskState
from scheduler.journal import sqlite
from scheduler.machine import applying, tasks

_GONE = object()


class Patch:
    """Replaces attributes until the end of a block. What is replaced must exist."""

    def __init__(self) -> None:
        self._before: list[tuple[Any, str, Any]] = []

    def __enter__(self) -> "Patch":
        return self

    def __exit__(self, *_: object) -> None:
        self.undo()

    def set(self, owner: Any, name: str, value: Any) -> Any:
        """Replace and return what was there."""
        before = owner.__dict__[name]
        self._before.append((owner, name, before))
        setattr(owner, name, value)
        return before

    def item(self, mapping: dict[Any, Any], key: Any, value: Any) -> None:
        """Put an item into a table for a while."""
        self._before.append((mapping, key, mapping.get(key, _GONE)))
        mapping[key] = value

    def undo(self) -> None:
        while self._before:
            owner, name, value = self._before.pop()
            if not isinstance(owner, dict):
                setattr(owner, name, value)
            elif value is _GONE:
                del owner[name]
            else:
                owner[name] = value


def reply_before_commit(patch: Patch) -> None:
    def send(_engine: Any, session: Any, message: Any) -> None:
        if session is not None:
            session.send(message)

    patch.set(engine.Engine, "send", send)


def synchronous_normal(patch: Patch) -> None:
    before = sqlite.SqliteJournal._connect

    def connect(self: Any) -> None:
        before(self)
        self._db().execute("PRAGMA synchronous = NORMAL")

    patch.set(sqlite.SqliteJournal, "_connect", connect)


def _hold(patch: Patch, same: Any, states: frozenset[TaskState] = frozenset({TaskState.RUNNING})) -> None:
    """Let the desk and the machine take outcomes for which `same(told, current)` holds, in these states."""

    def held(self: Any, agent: str, token: Any) -> Any:
        task = self._engine.state.tasks.get(token.task)
        if task is None or task.state not in states:
            return None
        return task if same(token.attempt, task.current().number) and agent else None

    def running(work: Any, task_id: str, attempt: int) -> Any:
        task = applying._task(work, task_id)
        if task.state not in states or not same(attempt, task.current().number):
            raise applying.IllegalTransitionError(f"attempt {attempt} is not in work: {task.story()}")
        return task

    patch.set(desk.Desk, "_held", held)
    patch.set(applying, "_running", running)


def no_attempt_check(patch: Patch) -> None:
    _hold(patch, lambda _told, _current: True)


def attempts_as_text(patch: Patch) -> None:
    _hold(patch, lambda told, current: str(told) >= str(current))


def lease_by_wall_clock(patch: Patch) -> None:
    class WallClock:
        def __init__(self, clock: Any) -> None:
            self._clock = clock

        def monotonic(self) -> float:
            return float(self._clock.wall())

        def wall(self) -> float:
            return float(self._clock.wall())

    before = engine.Engine.__init__

    def init(self: Any, journal: Any, clock: Any, **more: Any) -> None:
        before(self, journal, WallClock(clock), **more)

    patch.set(engine.Engine, "__init__", init)


def leases_expire_at_restart(patch: Patch) -> None:
    before = workload.Workload.rebuild

    def rebuild(self: Any, state: Any, now: float) -> None:
        before(self, state, now - 1e6)

    patch.set(workload.Workload, "rebuild", rebuild)


def stop_before_commit(patch: Patch) -> None:
    before = engine.Engine.send

    def send(self: Any, session: Any, message: Any) -> None:
        if session is not None and message.HasField("cancel"):
            session.send(message)
        else:
            before(self, session, message)

    patch.set(engine.Engine, "send", send)


def spool_without_fsync(patch: Patch) -> None:
    class Forgetful:
        def __getattr__(self, name: str) -> Any:
            return getattr(kept, name)

        def fsync(self, _descriptor: int) -> None:
            """Forget it."""

    kept = records.os
    patch.set(records, "os", Forgetful())


def rename_before_write(patch: Patch) -> None:
    def put(self: Any, identifier: str, content: bytes) -> None:
        target = self._file(identifier)
        part = target.with_name(target.name + ".part")
        descriptor = records.os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        part.replace(target)
        view = memoryview(content)
        while view:
            view = view[records.os.write(descriptor, view) :]
        records.os.fsync(descriptor)
        records.os.close(descriptor)
        self._sync()

    patch.set(records.RecordDirectory, "put", put)


def request_runs_twice(patch: Patch) -> None:
    def once(_engine: Any, _request_id: str, _request: Any, act: Any, _kind: Any, **_more: Any) -> Any:
        return act()

    patch.set(searches, "once", once)
    patch.set(lifecycle, "once", once)


def pointer_before_blob(patch: Patch) -> None:
    before = memory.MemoryStore.put
    waiting: list[tuple[Any, ...]] = []

    def put(self: Any, kind: Any, content: bytes, **more: Any) -> Any:
        while waiting:
            owner, late_kind, late_content = waiting.pop()
            if owner is self:
                before(owner, late_kind, late_content)
        waiting.append((self, kind, content))
        return memory.object_ref(kind, content, **more)

    patch.set(memory.MemoryStore, "put", put)


def no_digest_check(patch: Patch) -> None:
    patch.set(memory, "check_content", lambda _ref, content: content)


def restart_counts(patch: Patch) -> None:
    patch.set(timers.Leases, "was_beaten", lambda _self, _task, _agent: True)


def cancelled_task_revives(patch: Patch) -> None:
    _hold(
        patch,
        lambda told, current: told == current,
        frozenset({TaskState.RUNNING, TaskState.CANCELLED}),
    )
    patch.item(tasks.TRANSITIONS, (TaskState.CANCELLED, tasks.Trigger.SUCCEED), TaskState.SUCCEEDED)
    patch.item(tasks.TRANSITIONS, (TaskState.CANCELLED, tasks.Trigger.RETRY), TaskState.QUEUED)


def create_with_new_id(patch: Patch) -> None:
    before = Client.create_search

    def create_search(self: Any, *spec: Any, **more: Any) -> Any:
        self._patience_s, patience = 0.0, self._patience_s
        for _ in range(100):
            try:
                return before(self, *spec, **more)
            except Unavailable:
                continue
        self._patience_s = patience
        return before(self, *spec, **more)

    patch.set(Client, "create_search", create_search)


def default_allow(patch: Patch) -> None:
    rows = {name: rule for name, rule in policy.POLICY.items() if not name.endswith("/DeleteSearch")}
    patch.set(policy, "POLICY", rows)

    def rule_for(method: str) -> policy.Rule:
        return rows.get(method, policy.Rule(anyone=True))

    patch.set(policy, "rule_for", rule_for)
    patch.set(gate, "rule_for", rule_for)
