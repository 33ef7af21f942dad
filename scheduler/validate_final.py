"""Checks the final phase of a search's specification and fills its defaults in."""

import math
from collections.abc import Iterator

from nasmesh import evaluate_config, training_config
from nasmesh.v1 import measurement_pb2, training_pb2
from nasmesh.v1 import search_pb2 as pb
from scheduler.faults import Fault, checked
from scheduler.outcomes import complete_train

_FINALS = 100
_WIDTH = 64.0
_FURTHER = {pb.FINAL_CHOICE_VALIDATION: measurement_pb2.SPLIT_VALIDATION}
"""What a final network is scored on besides, by how the best is chosen."""


def final_faults(full: pb.SearchSpec) -> Iterator[Fault]:
    """Yield what is wrong with a final phase, and fill it in."""
    final = full.final
    for name in ("top_k", "repeats"):
        if not 0 <= getattr(final, name) <= _FINALS:
            yield f"final.{name}", f"must be 1 to {_FINALS} (0: 1), not {getattr(final, name)}"
    train = training_config.merge(full.train, final.train)
    if not full.evaluate.table:
        yield from checked("final.train", lambda: training_config.check(train, "final.train"))
    yield from _final_time_faults(full, train)
    if final.evaluate.split not in (measurement_pb2.SPLIT_UNSPECIFIED, measurement_pb2.SPLIT_TEST):
        yield "final.evaluate.split", "the final phase is scored on SPLIT_TEST; leave it unset"
    yield from _choice_faults(final, train)
    evaluate = evaluate_config.merge(full.evaluate, final.evaluate)
    evaluate.split = measurement_pb2.SPLIT_TEST
    evaluate.further_split = _FURTHER.get(final.choice, measurement_pb2.SPLIT_UNSPECIFIED)
    yield from checked("final.evaluate", lambda: evaluate_config.check(evaluate, "final.evaluate"))
    if final.HasField("scale_up"):
        yield from _scale_faults(full)
    if not full.evaluate.table:
        final.train.CopyFrom(complete_train(train))
    final.evaluate.CopyFrom(evaluate_config.complete(evaluate))
    final.top_k, final.repeats = final.top_k or 1, final.repeats or 1
    final.pick = final.pick or pb.FINAL_PICK_BEST


def _choice_faults(final: pb.FinalPhase, train: training_pb2.TrainConfig) -> Iterator[Fault]:
    """Fill in by what the best final network is chosen, and check it."""
    if final.choice not in pb.FinalChoice.values():
        yield "final.choice", f"{final.choice} is no choice; use VALIDATION or RANK"
    elif final.choice == pb.FINAL_CHOICE_VALIDATION and train.include_validation:
        yield "final.choice", "VALIDATION needs a validation split that is not trained on; use RANK, or leave it unset"
    default = pb.FINAL_CHOICE_RANK if train.include_validation else pb.FINAL_CHOICE_VALIDATION
    final.choice = final.choice or default
    further = _FURTHER.get(final.choice, measurement_pb2.SPLIT_UNSPECIFIED)
    if final.evaluate.further_split not in (measurement_pb2.SPLIT_UNSPECIFIED, further):
        yield "final.evaluate.further_split", "final.choice decides it; leave it unset"


def _final_time_faults(full: pb.SearchSpec, train: training_pb2.TrainConfig) -> Iterator[Fault]:
    limit = full.final.max_train_time_s
    if not math.isfinite(limit) or limit < 0:
        yield "final.max_train_time_s", f"must be a positive number of seconds, or 0 for none, not {limit:g}"
    elif limit and full.evaluate.table:
        yield "final.max_train_time_s", "nothing is trained over a table; leave it unset"
    elif limit and train.distribution.processes > 1:
        yield "final.max_train_time_s", "goes with one process only; leave final.train.distribution unset"


def _scale_faults(full: pb.SearchSpec) -> Iterator[Fault]:
    scale = full.final.scale_up
    kind = scale.WhichOneof("kind")
    if kind is None:
        yield "final.scale_up", "set space or width_multiplier, or leave it out"
    elif kind == "width_multiplier" and not 0 < scale.width_multiplier <= _WIDTH:
        yield "final.scale_up.width_multiplier", f"must be above 0, at most {_WIDTH:g}, not {scale.width_multiplier:g}"
    elif kind == "space" and scale.space.WhichOneof("kind") != full.space.WhichOneof("kind"):
        yield "final.scale_up.space", f"must be of the search's kind, {full.space.WhichOneof('kind')}"
