"""`fixed`: one given network, tried as often as asked; a plain train-and-evaluate run as a search."""

from generate_svc.settings import Json, Schema, read_settings, settings_schema, to_struct
from generate_svc.state import dump_state, load_state, unreadable
from nasmesh import spaces
from nasmesh.errors import Invalid
from nasmesh.v1 import architecture_pb2 as arch
from nasmesh.v1 import generate_service_pb2 as pb
from nasmesh.v1 import space_pb2

_STATE_VERSION = 1
SCHEMA: Schema = settings_schema(
    "Settings of the fixed generator",
    {
        "repeats": {
            "type": "integer",
            "minimum": 1,
            "maximum": 1000,
            "default": 1,
            "description": "Trials of the network; each is trained with a seed of its own.",
        },
        "choices": {
            "type": "object",
            "additionalProperties": {"type": "string"},
            "description": "For a space that is not fixed: the value of every active choice, as text.",
        },
    },
)


class FixedGenerator:
    """Proposes the one network of a fixed space, or the one that `choices` names in another space."""

    def describe(self) -> pb.Generator:
        """Return what it is."""
        return pb.Generator(
            name="generators/fixed",
            version="1.0",
            description="One given network (architecture, ONNX object or choices), trained and scored as it is.",
            settings_schema=to_struct(SCHEMA),
            spaces=["envelope", "chain", "fixed", "cell"],
        )

    def propose(self, request: pb.ProposeRequest) -> pb.ProposeResponse:
        """Propose the trials that are left, at most `count`; done with the last."""
        settings = read_settings(SCHEMA, request.settings)
        proposed = _load(request.state)
        network = _network(request, settings.mapping("choices"))
        last = min(settings.integer("repeats"), proposed + request.count)
        response = pb.ProposeResponse(done=last >= settings.integer("repeats"))
        for number in range(proposed + 1, last + 1):
            proposal = response.proposals.add(proposal_id=f"fixed-{number}", note="the given network")
            proposal.MergeFrom(network)
        response.state = dump_state({"proposed": last}, _STATE_VERSION)
        response.note = "all repeats are proposed" if response.done else ""
        response.next_call.in_flight_below = request.count
        return response


def _load(state: bytes) -> int:
    if not state:
        return 0
    proposed = load_state(state, _STATE_VERSION).get("proposed")
    if not isinstance(proposed, int) or proposed < 0:
        raise unreadable("proposed is no count")
    return proposed


def _network(request: pb.ProposeRequest, chosen: Json) -> pb.Proposal:
    """Return a proposal with only the network set; raises Invalid for choices missing, superfluous or wrong."""
    if request.space.WhichOneof("kind") == "fixed":
        if chosen is not None:
            message = "settings.choices: a fixed space has no choices; leave them out"
            raise Invalid("SETTINGS_INVALID", message, field="settings.choices")
        if request.space.fixed.WhichOneof("network") == "object":
            return pb.Proposal(object=request.space.fixed.object)
        built = _build(request, space_pb2.ChoiceValues())
        return pb.Proposal(architecture=built)
    if not isinstance(chosen, dict):
        message = "settings.choices: name the network by a value for every active choice, or use a fixed space"
        raise Invalid("SETTINGS_INVALID", message, field="settings.choices")
    values = space_pb2.ChoiceValues(values={name: str(value) for name, value in chosen.items()})
    _build(request, values)
    return pb.Proposal(choices=values)


def _build(request: pb.ProposeRequest, values: space_pb2.ChoiceValues) -> arch.Architecture:
    given = request.space.fixed.architecture.preprocessing
    dims, classes = request.input_dims, request.classes
    return spaces.build(request.space, values, input_dims=dims, classes=classes, preprocessing=given)
