"""The bytes of searches' specifications, made once for all the changes that watchers are told of."""

from nasmesh.v1 import search_pb2
from scheduler.domain import SearchRun


class Specs:
    """By search; made anew where a specification was replaced."""

    def __init__(self) -> None:
        """Know no search."""
        self._known: dict[str, tuple[search_pb2.SearchSpec, bytes]] = {}

    def of(self, run: SearchRun) -> bytes:
        """Return the bytes of a Search with nothing but its specification."""
        known = self._known.get(run.id)
        if known is None or known[0] is not run.spec:
            known = self._known[run.id] = run.spec, search_pb2.Search(spec=run.spec).SerializeToString()
        return known[1]

    def drop(self, search: str) -> None:
        """Forget a search; its bytes are made again where somebody asks."""
        self._known.pop(search, None)

    def clear(self) -> None:
        """Forget all."""
        self._known.clear()
