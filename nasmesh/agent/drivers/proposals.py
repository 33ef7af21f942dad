"""Turns what a generator proposes into stored networks: built, lowered, admitted, judged. Needs onnx, no torch."""

from collections.abc import Sequence
from dataclasses import dataclass

from nasmesh import ids, spaces
from nasmesh.data.resolve import resolve
from nasmesh.errors import Invalid, NotFound, Rejected
from nasmesh.jobs.failures import failure_of
from nasmesh.logs import get_logger
from nasmesh.model.admission import Admitted, admit, admit_lowered
from nasmesh.model.counting import Counts
from nasmesh.model.initializers import data_inputs
from nasmesh.model.quarantine import import_untrusted
from nasmesh.store.base import ObjectStore
from nasmesh.store.keys import ObjectKind, check_ref
from nasmesh.v1 import architecture_pb2, dataset_pb2, object_pb2, search_pb2, space_pb2
from nasmesh.v1 import dispatch_service_pb2 as pb
from nasmesh.v1 import generate_service_pb2 as generate_pb

_LOG = get_logger("agent")


@dataclass(frozen=True, slots=True)
class Task:
    """What networks must fit: the data's dimensions, how many numbers they give (classes or targets), preprocessing."""

    input_dims: tuple[int, ...]
    classes: int
    preprocessing: architecture_pb2.Preprocessing


def task_of(data: dataset_pb2.DatasetSpec, store: ObjectStore) -> Task:
    """Return the task that a data set poses, an added one by its manifest; raises as nasmesh.data.resolve."""
    info = resolve(data, store)
    preprocessing = architecture_pb2.Preprocessing(mean=info.mean, std=info.std)
    return Task(tuple(info.sample_dims), info.outputs, preprocessing)


@dataclass(frozen=True, slots=True)
class Judged:
    """A stored network with its static figures."""

    network: search_pb2.Network
    counts: Counts


class Workbench:
    """Makes networks for one task and puts them in the store."""

    def __init__(self, task: Task, store: ObjectStore) -> None:
        """Bind to a task and a store."""
        self._task = task
        self._store = store

    def build(self, space: space_pb2.Space, values: space_pb2.ChoiceValues) -> Judged:
        """Return the network that values stand for; raises Invalid or Rejected."""
        task = self._task
        built = spaces.build(
            space, values, input_dims=task.input_dims, classes=task.classes, preprocessing=task.preprocessing
        )
        return self.lowered(built)

    def lowered(self, architecture: architecture_pb2.Architecture) -> Judged:
        """Return the network of an architecture; raises Rejected."""
        return self._stored(admit_lowered(architecture))

    def imported(self, content: bytes) -> Judged:
        """Return the network in ONNX bytes from outside, made canonical in a child process; raises Rejected."""
        return self._stored(import_untrusted(content))

    def fetched(self, ref: object_pb2.ObjectRef) -> Judged:
        """Return the network of an object in the store; raises NotFound, Invalid, Rejected, Unavailable."""
        check_ref(ref, field="object")
        return self.imported(self._store.get(ref))

    def architecture(self, network: search_pb2.Network) -> architecture_pb2.Architecture:
        """Return the architecture that a stored network carries; raises Rejected (ARCHITECTURE_MISSING) without one."""
        found = admit(self._store.get(network.object)).architecture
        if found is None:
            raise Rejected("ARCHITECTURE_MISSING", f"{network.name} carries no architecture, so it cannot be rebuilt")
        return found

    def _stored(self, admitted: Admitted) -> Judged:
        _check_fits(admitted, self._task)
        architecture = admitted.architecture
        network = search_pb2.Network(
            name=ids.format_name("networks", admitted.digest),
            object=self._store.put(ObjectKind.NETWORK, admitted.content),
            parameters=admitted.counts.parameters,
            macs=admitted.counts.macs,
            activations=admitted.counts.activations,
            summary=spaces.summary(architecture) if architecture is not None else {},
        )
        return Judged(network, admitted.counts)


def judge(counts: Counts, constraints: Sequence[search_pb2.Constraint]) -> search_pb2.ConstraintViolation | None:
    """Return the first static constraint that the figures violate; measured metrics are not judged here."""
    figures = {"parameters": counts.parameters, "macs": counts.macs, "size_bytes": counts.size_bytes}
    for constraint in constraints:
        value = figures.get(constraint.metric)
        if value is None:
            continue
        over = constraint.HasField("max") and value > constraint.max
        under = constraint.HasField("min") and value < constraint.min
        if over or under:
            return search_pb2.ConstraintViolation(constraint=constraint, value=value)
    return None


def trial_of(proposal: generate_pb.Proposal, request: generate_pb.ProposeRequest, bench: Workbench) -> pb.ProposedTrial:
    """Return the trial that a proposal becomes; a network that is refused becomes a trial with its refusal.

    Raises Unavailable where the store is away: no fault of the network.
    """
    trial = pb.ProposedTrial(
        choices=proposal.choices if proposal.HasField("choices") else None,
        proposal_id=proposal.proposal_id,
        train=proposal.train if proposal.HasField("train") else None,
        instrumentation=proposal.instrumentation if proposal.HasField("instrumentation") else None,
        parents=proposal.parents,
        note=proposal.note,
        inherit_from=proposal.inherit_from,
    )
    try:
        judged = _network(proposal, request, bench)
    except (Invalid, NotFound) as error:
        refuse(trial, error)
        return trial
    trial.network.CopyFrom(judged.network)
    violation = judge(judged.counts, request.constraints)
    if violation is not None:
        trial.violation.CopyFrom(violation)
    return trial


def admit_enqueued(work: pb.AdmitWork, store: ObjectStore) -> pb.GenerateResult:
    """Return the one trial that a network becomes which a person or script added to a search.

    Raises NotFound (DATASET_UNKNOWN), Unavailable where the store is away.
    """
    request = generate_pb.ProposeRequest(space=work.space, constraints=work.constraints)
    return pb.GenerateResult(trials=[trial_of(work.proposal, request, Workbench(task_of(work.data, store), store))])


def refuse(trial: pb.ProposedTrial, error: Invalid | NotFound) -> None:
    """Record in a trial why it has no network."""
    _LOG.info("network_refused", proposal=trial.proposal_id, reason=error.reason, text=error.message)
    trial.refusal.CopyFrom(failure_of(error))


def _network(proposal: generate_pb.Proposal, request: generate_pb.ProposeRequest, bench: Workbench) -> Judged:
    match proposal.WhichOneof("network"):
        case "choices":
            return bench.build(request.space, proposal.choices)
        case "architecture":
            return bench.lowered(proposal.architecture)
        case "onnx":
            return bench.imported(proposal.onnx)
        case "object":
            return bench.fetched(proposal.object)
    raise Rejected("NETWORK_MISSING", "the proposal has no network", field="network")


def _check_fits(admitted: Admitted, task: Task) -> None:
    """Refuse a network for other data: it would only fail on the train server."""
    model, dims = admitted.model, admitted.dims
    found = dims[data_inputs(model)[0]][1:], dims[model.graph.output[0].name][1]
    wanted = task.input_dims, task.classes
    if found != wanted:
        message = (
            f"the network maps {list(found[0])} to {found[1]} logits, the data has {list(wanted[0])} and {wanted[1]}"
        )
        raise Rejected("SHAPE_MISMATCH", f"{message}; build it for this data set", field="network")
