"""What has ended is kept as bytes and made into values when somebody reads it: containers that look like a list and two
dictionaries.

A search of 100,000 trials has some hundred in work. Values that come from bytes are copies: changing them changes
nothing.
"""

import re
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from typing import TYPE_CHECKING

from nasmesh.v1 import search_pb2 as pb

if TYPE_CHECKING:
    from scheduler.domain import Task

# Ids of the tasks of a trial; scheduler.machine.tasks makes them.
_TRIAL_TASK = re.compile(r"(.+)-t([0-9]+)-(?:admit|profile|train|evaluate)(?:-r[0-9]+)?")


class Trials:
    """The trials of a search by position; reads like a list, but for slices.

    Not a subclass of a dictionary: mypyc would read that one past its methods.
    """

    def __init__(self, items: Iterable[pb.Trial | bytes] = ()) -> None:
        """Hold these, each as it is or as bytes."""
        self._values: dict[int, pb.Trial] = {}
        self._frozen: list[bytes | None] = []
        for index, item in enumerate(items):
            self._frozen.append(item if isinstance(item, bytes) else None)
            if not isinstance(item, bytes):
                self._values[index] = item

    def __getitem__(self, index: int) -> pb.Trial:
        """Return a trial by position, from the end where that is negative; one that is frozen is a copy."""
        found = self._values.get(index)
        if found is not None:
            return found
        body = self._frozen[index]
        return self._values[index + len(self._frozen)] if body is None else pb.Trial.FromString(body)

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._frozen)

    def __iter__(self) -> Iterator[pb.Trial]:
        """Yield them by number."""
        for index in range(len(self._frozen)):
            yield self[index]

    def __reversed__(self) -> Iterator[pb.Trial]:
        """Yield them, the last first."""
        for index in range(len(self._frozen) - 1, -1, -1):
            yield self[index]

    def __eq__(self, other: object) -> bool:
        """Say whether both hold equal trials, in whatever form."""
        if not isinstance(other, Trials):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    def body(self, index: int) -> bytes:
        """Return a trial's bytes."""
        frozen = self._frozen[index]
        return self[index].SerializeToString() if frozen is None else frozen

    def append(self, trial: pb.Trial) -> None:
        """Add a trial."""
        self._values[len(self._frozen)] = trial
        self._frozen.append(None)

    def values_by_number(self) -> list[tuple[int, pb.Trial]]:
        """Return the trials that are not frozen, with their numbers."""
        return [(index + 1, trial) for index, trial in sorted(self._values.items(), key=lambda item: item[0])]

    def is_frozen(self, number: int) -> bool:
        """Say whether a trial is kept as bytes."""
        return self._frozen[number - 1] is not None

    def freeze(self, number: int, body: bytes) -> None:
        """Keep a trial that has ended as these bytes of its."""
        self._frozen[number - 1] = body
        del self._values[number - 1]


class Networks(MutableMapping[str, pb.Network]):
    """Networks by name, all as bytes."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self) -> None:
        """Hold none."""
        self._bodies: dict[str, bytes] = {}

    def __getitem__(self, name: str) -> pb.Network:
        """Return a network."""
        return pb.Network.FromString(self._bodies[name])

    def __setitem__(self, name: str, network: pb.Network) -> None:
        """Keep a network as it is now."""
        self._bodies[name] = network.SerializeToString()

    def __delitem__(self, name: str) -> None:
        """Forget a network."""
        del self._bodies[name]

    def __contains__(self, name: object) -> bool:
        """Say whether a network is known."""
        return name in self._bodies

    def __iter__(self) -> Iterator[str]:
        """Yield names."""
        return iter(self._bodies)

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._bodies)

    def __eq__(self, other: object) -> bool:
        """Say whether both hold equal networks; compiled, the base class's own would not be asked."""
        if not isinstance(other, Networks):
            return NotImplemented
        return dict(self.items()) == dict(other.items())

    def body(self, name: str) -> bytes:
        """Return a network's bytes."""
        return self._bodies[name]

    def put(self, name: str, body: bytes) -> None:
        """Keep a network's bytes."""
        self._bodies[name] = body


class Tasks:
    """Tasks by id: open ones as they are, ended ones as bytes, those of one trial together.

    Not a subclass of a dictionary: mypyc would read that one past its methods.
    """

    def __init__(self) -> None:
        """Hold none."""
        self._values: dict[str, Task] = {}
        self._trials: dict[str, dict[int, bytes]] = {}
        self._others: dict[str, dict[str, bytes]] = {}
        self._decode: Callable[[bytes], list[Task]] = _undecodable

    def __setitem__(self, task_id: str, task: "Task") -> None:
        """Keep a task as it is."""
        self._values[task_id] = task

    def __getitem__(self, task_id: str) -> "Task":
        """Return a task; one that is frozen is a copy. Raises KeyError."""
        found = self._values.get(task_id)
        if found is not None:
            return found
        for task in self._decode(self._bytes_with(task_id)):
            if task.id == task_id:
                return task
        raise KeyError(task_id)

    def get(self, task_id: str, default: "Task | None" = None) -> "Task | None":
        """Return a task, or something else where it is not known."""
        try:
            return self[task_id]
        except KeyError:
            return default

    def __contains__(self, task_id: object) -> bool:
        """Say whether a task is known."""
        if task_id in self._values:
            return True
        body = self._bytes_with(task_id) if isinstance(task_id, str) else b""
        return bool(body) and any(task.id == task_id for task in self._decode(body))

    def __iter__(self) -> Iterator[str]:
        """Yield ids."""
        for task in self.values():
            yield task.id

    def __len__(self) -> int:
        """Return how many there are; those of ended trials are counted one by one."""
        return sum(1 for _ in self.values())

    def __eq__(self, other: object) -> bool:
        """Say whether both hold equal tasks, in whatever form."""
        if not isinstance(other, Tasks):
            return NotImplemented
        mine = {task.id: task for task in self.values()}
        return mine == {task.id: task for task in other.values()}

    def values(self) -> "Iterator[Task]":
        """Yield all tasks."""
        yield from self._values.values()
        for bundles in self._trials.values():
            for body in bundles.values():
                yield from self._decode(body)
        for singles in self._others.values():
            for body in singles.values():
                yield from self._decode(body)

    def items(self) -> "Iterator[tuple[str, Task]]":
        """Yield all ids and tasks."""
        for task in self.values():
            yield task.id, task

    def open(self, task_id: str) -> "Task | None":
        """Return a task if it is not frozen, as every open one is."""
        return self._values.get(task_id)

    def holds(self, task_id: str) -> bool:
        """Say whether a task is known and not frozen."""
        return task_id in self._values

    def freeze(self, search: str, trial: int, ids: tuple[str, ...], body: bytes) -> None:
        """Keep the tasks of an ended trial as these bytes."""
        self._trials.setdefault(search, {})[trial] = body
        for task_id in ids:
            self._values.pop(task_id, None)

    def restore(self, trials: dict[str, dict[int, bytes]]) -> None:
        """Keep the tasks of ended trials, by search and number, as these bytes; those that are here as values go."""
        self._trials = trials
        for task_id in [task.id for task in self._values.values() if self._bytes_with(task.id)]:
            del self._values[task_id]

    def freeze_alone(self, search: str, task_id: str, body: bytes) -> None:
        """Keep an ended task of no trial as these bytes."""
        self._others.setdefault(search, {})[task_id] = body
        self._values.pop(task_id, None)

    def read_by(self, decode: "Callable[[bytes], list[Task]]") -> None:
        """Say how bytes are made into tasks."""
        self._decode = decode

    def drop(self, search: str) -> list[str]:
        """Forget a search's tasks; returns the ids of those that are not of frozen trials."""
        gone = [task.id for task in self._values.values() if task.search == search]
        for task_id in gone:
            del self._values[task_id]
        self._trials.pop(search, None)
        return [*gone, *self._others.pop(search, ())]

    def _bytes_with(self, task_id: str) -> bytes:
        """Return the bytes that a task is in, if it is known at all; else nothing, which is no task."""
        match = _TRIAL_TASK.fullmatch(task_id)
        if match is not None:
            of_search = self._trials.get(match[1])
            return of_search.get(int(match[2]), b"") if of_search else b""
        for name in _searches_of(task_id):
            of_name = self._others.get(name)
            if of_name and task_id in of_name:
                return of_name[task_id]
        return b""


def _searches_of(task_id: str) -> Iterator[str]:
    """Yield the searches that a generate task's id may belong to: ids of searches may hold hyphens."""
    name = task_id
    for _ in range(2):  # "s-g7", and "s-g7-2" where a call was withdrawn
        name = name.rpartition("-")[0]
        yield name


def _undecodable(body: bytes) -> "list[Task]":
    if body:
        raise ValueError(f"nobody said how {len(body)} bytes become tasks")
    return []
