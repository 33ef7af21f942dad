"""What people wish of searches and agents that exist, by chance or by name, as commands of an engine; and a world in
which they wish.

A wish is (method of scheduler.lifecycle.Lifecycle, request); `command` makes it a command. `lift` are the wishes that
undo every hold, so that all searches can reach an end.
"""

from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any

from nasmesh.errors import NasmeshError
from nasmesh.v1 import dispatch_service_pb2 as pb
from nasmesh.v1 import generate_service_pb2, search_pb2
from nasmesh.v1 import scheduler_service_pb2 as api
from scheduler.domain import OPEN_SEARCHES, State
from scheduler.lifecycle import Lifecycle
from tests.builders import scheduling as make
from tests.builders.scheduler_world import KilledError, SimulatedAgent, World, key_of

Wish = tuple[str, Any]


def pause(search: str, request_id: str = "") -> Wish:
    return "pause", api.PauseSearchRequest(name=f"searches/{search}", request_id=request_id)


def resume(search: str, request_id: str = "") -> Wish:
    return "resume", api.ResumeSearchRequest(name=f"searches/{search}", request_id=request_id)


def update(search: str, request_id: str = "", **fields: object) -> Wish:
    """Change fields by their paths below the specification, with "__" for ".": budget__max_trials=3."""
    wish = api.UpdateSearchRequest(request_id=request_id)
    wish.search.name = f"searches/{search}"
    for name, value in fields.items():
        *outer, last = name.split("__")
        message: Any = wish.search.spec
        for part in outer:
            message = getattr(message, part)
        if isinstance(value, dict):
            getattr(message, last).update(value)
        else:
            setattr(message, last, value)
        wish.update_mask.paths.append(".".join(["spec", *outer, last]))
    return "update", wish


def delete(search: str, request_id: str = "", *, apply: bool = True) -> Wish:
    return "delete", api.DeleteSearchRequest(name=f"searches/{search}", request_id=request_id, apply=apply)


def enqueue(search: str, network: str, request_id: str = "", **more: Any) -> Wish:
    proposal = generate_service_pb2.Proposal(**more)
    proposal.choices.values["network"] = network
    return "enqueue", api.EnqueueTrialRequest(parent=f"searches/{search}", proposal=proposal, request_id=request_id)


def drain(agent: str, request_id: str = "", *, release: bool = False) -> Wish:
    return "drain", api.DrainAgentRequest(name=agent, request_id=request_id, release=release)


def undrain(agent: str, request_id: str = "") -> Wish:
    return "undrain", api.UndrainAgentRequest(name=agent, request_id=request_id)


def any_wish(rng: Random, state: State, agents: list[str], request_id: str) -> Wish:
    """Return a wish by chance, about something that there is, sensible or not."""
    search = rng.choice(sorted(state.searches)) if state.searches else "none"
    agent = rng.choice(agents)
    wishes: list[Callable[[], Wish]] = [
        lambda: pause(search, request_id),
        lambda: resume(search, request_id),
        lambda: resume(search, request_id),
        lambda: update(search, request_id, budget__max_trials=rng.randrange(1, 9)),
        lambda: update(search, request_id, parallelism=rng.randrange(1, 5), priority=rng.randrange(-2, 3)),
        lambda: update(search, request_id, labels={"a": str(rng.random())}),
        lambda: enqueue(search, f"{rng.randrange(2)}", request_id),
        lambda: enqueue(search, f"{rng.randrange(2)}", request_id),
        lambda: drain(agent, request_id, release=rng.random() < 0.5),
        lambda: undrain(agent, request_id),
        lambda: undrain(agent, request_id),
        lambda: delete(search, request_id, apply=rng.random() < 0.7),
    ]
    return rng.choice(wishes)()


def lift(state: State) -> list[Wish]:
    """Return the wishes that undo every hold."""
    held = [run.id for run in state.searches.values() if run.paused]
    return [*(resume(search) for search in held), *(undrain(agent) for agent in state.drained)]


def command(lifecycle: Lifecycle, wish: Wish) -> Callable[[], object]:
    """Return the command that a wish is; what a deletion tells is counted outside of commands, and left out here."""
    method, request = wish
    if method == "delete":
        return partial(lifecycle.delete, request, api.DeleteSearchResponse(trials=1))
    return partial(getattr(lifecycle, method), request)


def released(lease: pb.Lease, text: str) -> pb.AttemptOutcome:
    """Return how an agent gives a training back."""
    back = pb.AttemptReleased(checkpoint=make.make_ref(text, "checkpoints"))
    return pb.AttemptOutcome(token=lease.token, released=back)


class LifecycleWorld(World):
    """A world in which people wish by chance, and agents give trainings back when asked."""

    wishing = 0.25
    wished = 0
    granted = 0
    recalled = 0

    def __init__(self, *given: Any, **more: Any) -> None:
        self.waited: dict[tuple[str, int], None] = {}
        super().__init__(*given, **more)

    def check(self) -> None:
        super().check()
        for places in self.engine.state.waiting.values():
            self.waited.update(places)

    def boot(self) -> None:
        super().boot()
        self.lifecycle = Lifecycle(self.engine, self.searches)

    def wish(self, wish: Wish) -> object:
        result = self.step(command(self.lifecycle, wish))[0]
        self.wished += 1
        if isinstance(result, NasmeshError):
            return result
        if isinstance(result, Exception):
            raise result
        self.granted += 1
        return result

    def lift_all(self) -> None:
        """Undo every hold, again until the scheduler has lived to answer."""
        while wishes := lift(self.engine.state):
            try:
                self.wish(wishes[0])
            except KilledError:
                self.boot()
            self.clock.advance(2.0)

    def deliver(self, agent: SimulatedAgent) -> None:
        assert agent.session is not None
        for message in list(agent.session.sent):
            if message.WhichOneof("kind") == "cancel" and message.cancel.checkpoint:
                agent.session.sent.remove(message)
                key = key_of(message.cancel.token)
                if key in agent.held:
                    agent.spool[key] = released(agent.held.pop(key), f"{key} {self.rng.random()}")
                    self.recalled += 1
        super().deliver(agent)

    def act(self) -> None:
        if self.rng.random() >= self.wishing:
            super().act()
            return
        names = [agent.name for agent in self.agents]
        wish = any_wish(self.rng, self.engine.state, names, f"wish-{self.rng.randrange(400)}")
        try:
            self.wish(wish)
        except KilledError:
            self.boot()

    def all_ended(self) -> bool:
        return all(run.state not in OPEN_SEARCHES for run in self.engine.state.searches.values())

    def specs(self) -> dict[str, search_pb2.SearchSpec]:
        """Return searches of which some train the same networks with the same seeds."""
        same = make.make_spec(max_trials=3 + self.rng.randrange(3), final=self.rng.random() < 0.5)
        same.train.seed = 5
        same.generator.settings["width"] = make.WIDE
        other = search_pb2.SearchSpec()
        other.CopyFrom(same)
        other.cache = self.rng.choice([search_pb2.CACHE_MODE_REUSE, search_pb2.CACHE_MODE_REPEAT])
        return {"one": same, "two": other, "three": make.make_spec(max_trials=3, parallelism=3)}
