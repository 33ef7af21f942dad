"""Cuts a training to the time that it may take: some of its own updates are timed first, and then undone.

Once: rates, drop-path and averages are functions of the length, and changing it on the way would make the schedule
another one than any length has. So other work on the machine while it is timed makes a training shorter than it need
be, and such work that begins later makes it end late.
"""

import statistics
from dataclasses import replace

from nasmesh.clock import Clock
from nasmesh.logs import get_logger
from nasmesh.model.engine.checkpoint import load_checkpoint
from train_svc import compute, snapshot
from train_svc.step import Update
from train_svc.training import Training

UNTIMED, TIMED = 4, 12
"""Updates before those that are timed, in which memory is found and kernels are chosen; and those."""
_MARGIN = 0.95
"""Checkpoints, publishing, and other work on the machine take what is left."""

_log = get_logger("train")


def cut_to_time(training: Training, clock: Clock, *, begin: float) -> None:
    """Lower the length of a training at its first step to what fits into `max_time_s`, never raise it.

    `begin`: when the training began, on the monotonic clock; what it took until its first update counts. Not below an
    epoch where the budget is one of epochs. The training is as it was, but for its length.
    """
    length, config = training.length, training.config
    before = snapshot.take(training, elapsed_s=0.0)
    step_s = _seconds_of_update(training, clock)
    snapshot.restore(training, load_checkpoint(before.to_bytes()))
    left_s = config.max_time_s * _MARGIN - (clock.monotonic() - begin)
    least = length.steps_per_epoch if config.WhichOneof("budget") == "epochs" else 1
    total = min(length.total_steps, max(least, int(left_s / step_s)))
    if total < length.total_steps:
        _log.info("training_cut_to_time", seconds=config.max_time_s, asked_steps=length.total_steps, steps=total)
        training.length = replace(length, total_steps=total)


def _seconds_of_update(training: Training, clock: Clock) -> float:
    """Make some updates, as in the first epoch, and return the median time of one."""
    training.module.train()
    update, draws = Update(training), training.feed.draw(0)
    times = []
    for number in range(min(UNTIMED + TIMED, training.length.steps_per_epoch)):
        began = clock.monotonic()
        update.run(draws, number)
        compute.finish(training.device)
        times.append(clock.monotonic() - began)
    return max(statistics.median(times[UNTIMED:] or times), 1e-6)
