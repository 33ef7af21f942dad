"""A person's program: asks by request id until it is answered, and now and then asks again to see the same answer."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from nasmesh.errors import Conflict, NasmeshError, Unavailable
from nasmesh.v1 import scheduler_service_pb2 as api
from nasmesh.v1 import search_pb2
from tests.builders import scheduler_lifecycle as lifecycle

if TYPE_CHECKING:
    from tests.sim.host import Host
    from tests.sim.world import World


class AnswerError(AssertionError):
    """A request was answered in a way that its contract excludes."""


@dataclass(slots=True)
class Wish:
    """One request with its id. `reply` once it is answered."""

    method: str
    request: Any
    reply: Any = None


class SimClient:
    """Asks for searches and changes its mind."""

    def __init__(self, world: "World", specs: dict[str, search_pb2.SearchSpec]) -> None:
        self._world = world
        self.specs = specs
        self._made = 0
        self.wishes = [
            Wish("create", api.CreateSearchRequest(search_id=name, spec=spec, request_id=f"create-{name}"))
            for name, spec in specs.items()
        ]

    @property
    def open_wishes(self) -> list[Wish]:
        return [wish for wish in self.wishes if wish.reply is None]

    def wish(self, host: "Host") -> None:
        """Wish for something: rarely that a search is cancelled, else that something is held, changed or added."""
        rng = self._world.rng
        self._made += 1
        identifier = f"wish-{self._made}"
        if rng.random() < 0.1:
            name = rng.choice(sorted(self.specs))
            method, request = "cancel", api.CancelSearchRequest(name=f"searches/{name}", request_id=identifier)
        else:
            names = [agent.name for agent in self._world.agents]
            method, request = lifecycle.any_wish(rng, host.engine.state, names, identifier)
        self.wishes.append(Wish(method, request))

    def lift(self, host: "Host") -> None:
        """Wish that every hold ends."""
        for method, request in lifecycle.lift(host.engine.state):
            if all(wish.reply is not None or wish.method != method for wish in self.wishes):
                self._made += 1
                request.request_id = f"lift-{self._made}"
                self.wishes.append(Wish(method, request))

    def act(self, host: "Host") -> None:
        """Ask what is not answered yet; else repeat something answered, or try its id for something else."""
        waiting = self.open_wishes
        if waiting:
            self._ask(host, waiting[0])
        elif self.wishes and self._world.rng.random() < 0.5:
            self._ask(host, self._world.rng.choice(self.wishes))
        elif self.wishes:
            self._abuse(host, self._world.rng.choice(self.wishes))

    def _ask(self, host: "Host", wish: Wish) -> None:
        # Sent twice at once where the swarm says so: a retry that overtakes the first.
        times = 2 if self._world.duplicates("request") else 1
        for result in host.step([self._command(host, wish.method, wish.request)] * times):
            if isinstance(result, NasmeshError):
                self._refused(wish, result)
            elif isinstance(result, Exception):
                raise result
            elif wish.method == "delete" and not wish.request.apply:
                if wish in self.wishes:
                    self.wishes.remove(wish)  # only a look: each is answered anew
            else:
                body = wish.request.SerializeToString(deterministic=True)
                self._world.checks.answered(wish.request.request_id, body, result)
                wish.reply = result

    def _refused(self, wish: Wish, error: NasmeshError) -> None:
        if wish.reply is not None and isinstance(error, Conflict):
            raise AnswerError(f"I10: {wish.request.request_id} was answered before and is refused now: {error}")
        is_wish = wish.reply is None and wish.method != "create"
        if is_wish and not isinstance(error, Unavailable) and wish in self.wishes:
            self.wishes.remove(wish)  # it makes no sense any more, as a person would see

    def _abuse(self, host: "Host", wish: Wish) -> None:
        """Use an answered id for another request: it must be refused and change nothing."""
        other = type(wish.request)()
        other.CopyFrom(wish.request)
        if wish.method == "create":
            other.search_id += "-other"
        elif wish.method == "update":
            other.search.name += "-other"
        elif wish.method == "enqueue":
            other.parent += "-other"
        else:
            other.name += "-other"
        (result,) = host.step([self._command(host, wish.method, other)])
        if not isinstance(result, NasmeshError):
            raise AnswerError(f"I10: {wish.request.request_id} was used for another request and answered {result}")

    def _command(self, host: "Host", method: str, request: Any) -> Callable[[], object]:
        if method in ("create", "cancel"):
            return partial(getattr(host.searches, method), request)
        return lifecycle.command(host.lifecycle, (method, request))
