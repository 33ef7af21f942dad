"""`random`: distinct networks drawn uniformly from a space, or from those that cost what a reference costs.

The baseline that an algorithm must beat. The first one's came from another palette, were matched in block counts
only, and two of ten were the same network; these are matched in parameters, multiply-accumulates and palette.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from random import Random

from google.protobuf import json_format

from generate_svc.matching import Target, Task, draw_matched
from generate_svc.profile import Profile, profile
from generate_svc.settings import Json, Schema, Settings, read_settings, settings_schema, to_struct
from generate_svc.state import dump_state, load_state, unreadable
from nasmesh import spaces
from nasmesh.clock import derive_seed
from nasmesh.errors import Invalid
from nasmesh.model.counting import Counts, count
from nasmesh.model.digest import structural_digest
from nasmesh.model.lower import lower
from nasmesh.v1 import architecture_pb2 as arch
from nasmesh.v1 import generate_service_pb2 as pb
from nasmesh.v1 import search_pb2, space_pb2

_STATE_VERSION = 1
# 64 bits tell a million networks apart with a chance of confusion of 3e-8, and the state stays small.
_DIGEST_CHARS = 16
# So that the state stays below 1 MiB.
_MAX_NETWORKS = 50_000
# Matching takes about a second for a large network; a call should answer within its deadline of minutes.
_MAX_MATCHED = 32
SCHEMA: Schema = settings_schema(
    "Settings of random search",
    {
        "networks": {
            "type": "integer",
            "minimum": 0,
            "maximum": _MAX_NETWORKS,
            "default": 0,
            "description": "Networks to propose; 0: as many as the budget allows.",
        },
        "draws": {
            "type": "integer",
            "minimum": 1,
            "maximum": 10_000,
            "default": 100,
            "description": "Draws for one proposal before the search ends for want of a new network.",
        },
        "reference": {
            "type": "object",
            "properties": {
                "choices": {"type": "object", "additionalProperties": {"type": "string"}},
                "architecture": {"type": "object"},
            },
            "additionalProperties": False,
            "minProperties": 1,
            "maxProperties": 1,
            "description": "The network to match: its choices in this space, or an Architecture in protobuf's JSON.",
        },
        "tolerance": {
            "type": "number",
            "exclusiveMinimum": 0,
            "maximum": 1,
            "default": 0.05,
            "description": "Largest relative difference to the reference in parameters and in multiply-accumulates.",
        },
        "match_palette": {
            "type": "boolean",
            "default": True,
            "description": "Whether the same kinds of branches must occur as in the reference.",
        },
    },
)


class RandomGenerator:
    """Proposes as many networks as asked for at once, and wants to be called when fewer are in flight."""

    def describe(self) -> pb.Generator:
        """Return what it is."""
        return pb.Generator(
            name="generators/random",
            version="1.0",
            description="Uniform random search without duplicates; optionally matched in parameters, "
            "multiply-accumulates and palette to a reference network.",
            settings_schema=to_struct(SCHEMA),
        )

    def propose(self, request: pb.ProposeRequest) -> pb.ProposeResponse:
        """Draw up to `count` networks from (seed, call) that were not proposed before."""
        settings = read_settings(SCHEMA, request.settings)
        if request.space.WhichOneof("kind") == "fixed":
            message = "a fixed space has one network and nothing to draw; use generators/fixed"
            raise Invalid("SPACE_UNSUPPORTED", message, field="space")
        task = Task(request.space, request.input_dims, request.classes)
        drawer = _Drawer(task, _target(task, settings), tuple(request.constraints), settings.integer("draws"))
        seen = _load(request.state)
        wanted = settings.integer("networks") or _MAX_NETWORKS
        response = pb.ProposeResponse()
        most = min(request.count, wanted - len(seen), request.count if drawer.target is None else _MAX_MATCHED)
        for index in range(most):
            rng = Random(derive_seed(request.seed, "random", request.call, index))
            drawn = drawer.draw(rng, seen)
            if drawn is None:
                response.done = True
                response.note = f"EXHAUSTED: {settings.integer('draws')} draws gave no new network within the bounds"
                break
            seen[drawn.digest] = None
            note = f"{drawn.counts.parameters} parameters, {drawn.counts.macs} multiply-accumulates"
            response.proposals.add(choices=drawn.values, proposal_id=f"random-{len(seen)}", note=note)
        if len(seen) >= wanted:
            response.done = True
            response.note = f"NETWORKS: all {wanted} networks are proposed"
        response.state = dump_state({"seen": list(seen)}, _STATE_VERSION)
        response.next_call.in_flight_below = request.count + request.trials_in_flight
        return response


@dataclass(frozen=True, slots=True)
class _Drawn:
    values: space_pb2.ChoiceValues
    digest: str
    counts: Counts


@dataclass(frozen=True, slots=True)
class _Drawer:
    """Draws networks of a task; with a target, matched ones; within the constraints that can be judged untrained."""

    task: Task
    target: Target | None
    constraints: tuple[search_pb2.Constraint, ...]
    draws: int

    def draw(self, rng: Random, seen: Mapping[str, None]) -> _Drawn | None:
        """Return a network that is not in `seen`, or None after too many draws."""
        for _ in range(self.draws):
            values = self._draw_once(rng)
            if values is None:
                continue
            estimate = profile(self.task.build(values))
            if not self._is_within({"parameters": estimate.parameters, "macs": estimate.macs}):
                # The estimate is exact for spaces of ours, and a tenth of the price of lowering and counting.
                continue
            drawn = self._count(values)
            if drawn.digest not in seen and self._is_wanted(drawn.counts, estimate):
                return drawn
        return None

    def _count(self, values: space_pb2.ChoiceValues) -> _Drawn:
        lowered = lower(self.task.build(values))
        return _Drawn(values, structural_digest(lowered)[:_DIGEST_CHARS], count(lowered))

    def _draw_once(self, rng: Random) -> space_pb2.ChoiceValues | None:
        if self.target is None:
            return spaces.sample(self.task.space, rng)
        return draw_matched(self.task, self.target, rng)

    def _is_wanted(self, counts: Counts, estimate: Profile) -> bool:
        costs = {"parameters": counts.parameters, "macs": counts.macs, "size_bytes": counts.size_bytes}
        found = replace(estimate, parameters=counts.parameters, macs=counts.macs)
        return self._is_within(costs) and (self.target is None or self.target.matches(found))

    def _is_within(self, costs: Mapping[str, int]) -> bool:
        """Tell whether no constraint on one of `costs` is violated; the others can only be judged later."""
        for constraint in self.constraints:
            value = costs.get(constraint.metric)
            if value is None:
                continue
            above = constraint.HasField("max") and value > constraint.max
            if above or (constraint.HasField("min") and value < constraint.min):
                return False
        return True


def _load(state: bytes) -> dict[str, None]:
    """Return the digests proposed so far, in order."""
    if not state:
        return {}
    seen = load_state(state, _STATE_VERSION).get("seen")
    if not isinstance(seen, list) or not all(isinstance(digest, str) for digest in seen):
        raise unreadable("seen is no list of digests")
    return {str(digest): None for digest in seen}


def _target(task: Task, settings: Settings) -> Target | None:
    reference = settings.mapping("reference")
    if reference is None:
        return None
    wanted = _reference(task, reference)
    return Target(wanted, settings.number("tolerance"), settings.flag("match_palette"))


def _reference(task: Task, reference: Mapping[str, Json]) -> Profile:
    chosen, described = reference.get("choices"), reference.get("architecture")
    try:
        if isinstance(chosen, Mapping):
            values = {name: str(value) for name, value in chosen.items()}
            return profile(task.build(space_pb2.ChoiceValues(values=values)))
        given = dict(described) if isinstance(described, Mapping) else {}
        return profile(json_format.ParseDict(given, arch.Architecture()))
    except (Invalid, json_format.ParseError) as error:
        why = error.message if isinstance(error, Invalid) else str(error)
        field = f"settings.reference.{'choices' if isinstance(chosen, Mapping) else 'architecture'}"
        raise Invalid("SETTINGS_INVALID", f"{field}: {why[:300]}", field=field) from error
