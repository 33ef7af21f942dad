"""Cuts a final training to the time that it may take, by what the training of its source took. Pure."""

import math

from nasmesh.v1 import search_pb2 as pb
from nasmesh.v1 import training_pb2

# Larger networks take longer to start and are measured more coarsely; what was foretold should hold, not nearly hold.
_MARGIN = 0.9


def fit(config: training_pb2.TrainConfig, final: pb.Trial, source: pb.Trial, spec: pb.SearchSpec) -> None:
    """Lower the budget of a final training, in place, to what fits in `final.max_train_time_s`; never raise it.

    A training costs time in proportion to samples and to the network's multiply-accumulates. That of the source has its
    scoring in it, so that the estimate errs towards less. Nothing changes where the source took no time of its own.
    """
    limit = spec.final.max_train_time_s
    took = source.device_time_s or source.device_time_saved_s
    done = _work(source.train, spec)
    if limit <= 0 or took <= 0 or done <= 0 or source.network.macs <= 0:
        return
    wider = max(final.network.macs, 1) / source.network.macs
    each = took / done * wider  # seconds of a pass over the training split, or of a sample
    possible = limit * _MARGIN / each
    if config.WhichOneof("budget") == "epochs":
        config.epochs = min(config.epochs, max(1.0, possible / _share(config, spec)))
    else:
        config.steps = min(config.steps, max(1, math.floor(possible / config.batch_size)))


def _work(config: training_pb2.TrainConfig, spec: pb.SearchSpec) -> float:
    """Return what a training works through: passes over the training split, or samples."""
    if config.WhichOneof("budget") == "epochs":
        return config.epochs * _share(config, spec)
    return float(config.steps * config.batch_size)


def _share(config: training_pb2.TrainConfig, spec: pb.SearchSpec) -> float:
    """Return how large an epoch is, as a multiple of the training split."""
    whole = 1.0 / (1.0 - spec.data.validation_fraction) if config.include_validation else 1.0
    return config.data_fraction * whole
