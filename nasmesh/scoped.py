"""A value that holds within a block of code, for the thread or asyncio task that runs it: who calls, what is traced."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Scoped(Generic[Value]):
    """One such value. Made once, at the top of a module."""

    def __init__(self, name: str, default: Value) -> None:
        """Hold `default` outside of any block."""
        self._variable: ContextVar[Value] = ContextVar(name, default=default)

    def get(self) -> Value:
        """Return the value that holds here."""
        return self._variable.get()

    def set(self, value: Value) -> None:
        """Let `value` hold for the rest of the current asyncio task; for tasks that do one thing."""
        self._variable.set(value)

    @contextmanager
    def within(self, value: Value) -> Iterator[None]:
        """Let `value` hold within the block.

        Set and put back by value, not by token: a stream that is closed early ends in another context than it began in.
        """
        before = self._variable.get()
        self._variable.set(value)
        try:
            yield
        finally:
            self._variable.set(before)
