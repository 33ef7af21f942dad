"""Runs as TensorBoard event files: a folder a trial, and one for the course of the search."""

import json
import os
import shutil
from pathlib import Path

from clients.cli.export.runs import UNSPLIT, Run
from clients.cli.report.figures import SPLITS
from nasmesh.errors import Invalid

COURSE = "course"


def write_events(runs: list[Run], folder: Path, metric: str) -> int:
    """Write each run that is not there yet into a folder of its own, and the course anew; return how many were written.

    The course is drawn of `metric`, on whatever split, by trial number. A run's folder appears whole or not at all.
    Raises Invalid (TENSORBOARDX_MISSING, FOLDER_UNWRITABLE).
    """
    written = 0
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for run in runs:
            if not (folder / run.folder).exists():
                _place(run, folder / run.folder)
                written += 1
        _place_course(runs, folder / COURSE, metric)
    except OSError as error:
        message = f"--tensorboard: {folder} cannot be written ({error.strerror}); name another folder"
        raise Invalid("FOLDER_UNWRITABLE", message, field="tensorboard") from error
    return written


class _Events:
    """One folder of event files, hidden until it is whole."""

    def __init__(self, target: Path) -> None:
        # Not SummaryWriter: it passes events to a thread by pickling them, through a queue that may never drain.
        try:
            from tensorboardX import summary
            from tensorboardX.event_file_writer import EventsWriter
            from tensorboardX.proto.event_pb2 import Event
        except ModuleNotFoundError as error:
            message = f"--tensorboard needs {error.name}, which is not installed; pip install 'nasmesh[tracking]'"
            raise Invalid("TENSORBOARDX_MISSING", message, field="tensorboard") from error
        self._event = Event
        self._summary = summary
        self._target = target
        self._part = target.with_name(f".{target.name}.{os.getpid()}")
        shutil.rmtree(self._part, ignore_errors=True)
        self._part.mkdir()
        self._writer = EventsWriter(str(self._part / "events"))

    def scalar(self, name: str, value: float, step: int, time_s: float) -> None:
        summary = self._summary.scalar(name, value)
        self._writer.write_event(self._event(summary=summary, wall_time=time_s, step=step))

    def text(self, name: str, text: str, time_s: float) -> None:
        summary = self._summary.text(name, text)
        self._writer.write_event(self._event(summary=summary, wall_time=time_s))

    def finish(self) -> None:
        """Put the folder in its place, where there was one in that one's."""
        self._writer.close()
        shutil.rmtree(self._target, ignore_errors=True)
        os.replace(self._part, self._target)


def _place(run: Run, target: Path) -> None:
    events = _Events(target)
    for point in run.points:
        events.scalar(point.name, point.value, point.step, run.end_s)
    for name, values in (("tags", run.tags), ("parameters", run.parameters)):
        events.text(name, f"```\n{json.dumps(values, indent=2)}\n```", run.end_s)
    events.finish()


def _place_course(runs: list[Run], target: Path, metric: str) -> None:
    events = _Events(target)
    spent = 0.0
    for run in runs:
        found = {point.name: point.value for point in run.points}
        for name in (f"{split or UNSPLIT}/{metric}" for split in SPLITS.values()):
            if name in found:
                events.scalar(name, found[name], run.number, run.end_s)
        spent += found["device_time_s"]
        events.scalar("device_time_s", spent, run.number, run.end_s)
    events.finish()
