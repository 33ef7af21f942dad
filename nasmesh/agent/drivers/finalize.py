"""Enlarges the best networks for the final phase, as the search's author asked."""

from nasmesh import spaces
from nasmesh.agent.drivers.proposals import Judged, Workbench, refuse, task_of
from nasmesh.errors import Invalid, NotFound, Rejected
from nasmesh.model.transform import scale_width
from nasmesh.store.base import ObjectStore
from nasmesh.v1 import dispatch_service_pb2 as pb
from nasmesh.v1 import search_pb2


def finalize(work: pb.FinalizeWork, store: ObjectStore) -> pb.GenerateResult:
    """Return one trial per source, in order; a network that cannot be enlarged becomes a trial with its refusal.

    Raises NotFound (DATASET_UNKNOWN), Unavailable where the store is away.
    """
    bench = Workbench(task_of(work.data, store), store)
    return pb.GenerateResult(trials=[_trial(source, work, bench) for source in work.sources], done=True)


def _trial(source: search_pb2.Trial, work: pb.FinalizeWork, bench: Workbench) -> pb.ProposedTrial:
    trial = pb.ProposedTrial(
        choices=source.choices if source.HasField("choices") else None,
        proposal_id=source.proposal_id,
        parents=[source.name],
        note=_note(source, work),
    )
    try:
        judged = _enlarged(source, work, bench)
    except (Invalid, NotFound) as error:
        refuse(trial, error)
        return trial
    trial.network.CopyFrom(judged.network if judged is not None else source.network)
    return trial


def _enlarged(source: search_pb2.Trial, work: pb.FinalizeWork, bench: Workbench) -> Judged | None:
    """Return the enlarged network, or None for one that stays as it was found."""
    match work.scale_up.WhichOneof("kind"):
        case "space":
            if not source.HasField("choices"):
                message = f"{source.name} was not proposed as choice values; use width_multiplier, or no scale-up"
                raise Rejected("SCALE_UP_UNSUPPORTED", message, field="final.scale_up.space")
            return bench.build(spaces.overlay(work.space, work.scale_up.space), source.choices)
        case "width_multiplier":
            architecture = bench.architecture(source.network)
            return bench.lowered(scale_width(architecture, work.scale_up.width_multiplier))
    return None


def _note(source: search_pb2.Trial, work: pb.FinalizeWork) -> str:
    match work.scale_up.WhichOneof("kind"):
        case "space":
            return f"{source.name} rebuilt in the final space"
        case "width_multiplier":
            return f"{source.name} with its widths times {work.scale_up.width_multiplier:g}"
    return f"{source.name} as found"
