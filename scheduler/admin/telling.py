"""What the administrator's commands print: one function a result, for people or as one JSON object."""

import dataclasses

from scheduler.admin.checking import Report
from scheduler.admin.compacting import Compaction
from scheduler.admin.copying import Copied, Restored
from scheduler.admin.display import camel, json_object, say, say_json, size, wall
from scheduler.admin.explaining import Line, Story
from scheduler.admin.migrating import Migrated
from scheduler.admin.rederiving import Replay

_NAMED = 10


def report(found: Report, *, as_json: bool) -> None:
    """Print what a check found."""
    if as_json:
        say_json(found)
        return
    say(f"journal {found.journal}: {size(found.size_bytes)}, schema {found.schema}, epoch {found.epoch}")
    kept = f"{found.first_event} to {found.last_event}" if found.first_event <= found.last_event else "none"
    say(f"events {kept}, snapshot at {found.snapshot_at}, replayed from {found.origin}")
    if found.first_event > 1:
        say(f"compacted: events before {found.first_event} are not kept; what they gave is in the snapshot, unchecked")
    for name, counts in (("searches", found.searches), ("trials", found.trials), ("tasks", found.tasks)):
        told = ", ".join(f"{count} {state.lower()}" for state, count in sorted(counts.items()))
        say(f"{name}: {told or 'none'}")
    if found.objects:
        say(f"objects: {found.objects} read, {size(found.objects_bytes)}")
    form = "the compiled form of its inner loop" if found.compiled else "its sources as they are (see make compile)"
    say(f"a scheduler started from here runs {form}")
    for violation in found.violations:
        say(f"VIOLATION {violation.what}")
    say(f"violations: {len(found.violations) or 'none'}")


def story(found: Story, *, as_json: bool) -> None:
    """Print the story of a task or trial."""
    if as_json:
        lines = [
            dataclasses.replace(line, details={camel(key): value for key, value in line.details.items()})
            for line in found.lines
        ]
        say_json(dataclasses.replace(found, lines=lines))
        return
    if found.compacted:
        say(f"compacted: events up to {found.compacted} are not kept; what they did is not told")
    first = found.lines[0].uptime_s if found.lines else 0.0
    for line in found.lines:
        say(_line(line, first))
    for text in found.stands:
        say(f"now: {text}")
    say("reports that were repeated or came late changed nothing and are not in the journal")


def _line(line: Line, first_uptime_s: float) -> str:
    details = ", ".join(_detail(key, value) for key, value in line.details.items() if value not in ("", None))
    followed = "".join(f"\n{'':<36}→ {text}" for text in line.followed)
    since = f"+{line.uptime_s - first_uptime_s:.3f} s"
    told = f"{line.what}: {details}" if details else line.what
    return f"{wall(line.time_us)} {since:>12}  {told} (event {line.event}){followed}"


def _detail(key: str, value: object) -> str:
    """Return a detail in words: "device time 1.250 s"."""
    what, in_seconds = key.removesuffix("_s"), key.endswith("_s")
    return f"{what.replace('_', ' ')} {_value(value)}{' s' if in_seconds else ''}"


def _value(value: object) -> str:
    if isinstance(value, dict):
        return " ".join(f"{key}={number:.6g}" for key, number in value.items())
    if isinstance(value, list):
        return " ".join(map(str, value))
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def replayed(done: Replay, *, as_json: bool) -> None:
    """Print what a replay compared, and the first difference."""
    if as_json:
        told = [{"where": d.where, "recorded": d.one, "replayed": d.other} for d in done.differences]
        say_json(json_object(done) | {"differences": told})
        return
    say(f"{done.search} ({done.state}), {done.generator}: {done.trials} trials, {done.boots} restarts of the scheduler")
    say(f"asked again: {done.calls} calls, {done.proposals} proposals; told again: {done.completions} completions")
    more = f", and the search as of event {done.stored_at}" if done.stored_at else ""
    say(f"compared with what was stored as they ended: {done.stored_trials} trials with their tasks{more}")
    if not done.differences:
        say("difference: none")
        return
    say(f"difference: event {done.event}")
    for found in done.differences[:_NAMED]:
        say(f"  {found.where}\n    recorded: {found.one}\n    replayed: {found.other}")


def compaction(done: Compaction, *, as_json: bool) -> None:
    """Print what compaction did."""
    if as_json:
        say_json(done)
        return
    say(f"dropped {done.dropped} events, kept {done.kept}: {size(done.bytes_before)} → {size(done.bytes_after)}")
    if done.open_searches:
        say(f"kept from the creation of {done.open_searches[0]}, the oldest open search, on: those can be replayed")
    say(
        "searches that ended before can be read as ever, but not replayed or watched from the start: they say compacted"
    )


def copied(done: Copied, *, as_json: bool) -> None:
    """Print what a backup holds."""
    if as_json:
        say_json(done)
        return
    until = f", up to event {done.last_event} of {wall(done.time_us)} UTC" if done.last_event else ""
    say(f"wrote {done.path}: {size(done.size_bytes)}, epoch {done.epoch}{until}; it was opened and read whole")
    say("the object store is not part of it: keep its objects as long as the backup")


def migrated(done: Migrated, *, as_json: bool) -> None:
    """Print what was moved."""
    if as_json:
        say_json(done)
        return
    say(f"migrated {done.source} to {done.target}: {done.events} events, {done.rows} rows, {done.answers} answers")
    say(f"sha256 {done.sha256} of all of it, read back and equal; epoch {done.epoch}")
    say(f"{done.source} is as it was: start schedulers with the new --journal only")


def restored(done: Restored, *, as_json: bool) -> None:
    """Print what a restored journal holds, and what that means."""
    if as_json:
        say_json(done)
        return
    say(f"restored {done.path} as of event {done.last_event}, {wall(done.time_us)} UTC; epoch {done.epoch}")
    if done.aside:
        say(f"the journal that was there is now {done.aside}")
    say("what was recorded later is forgotten: those searches are gone, and work done since is done again")
    if done.open_searches:
        say(f"goes on: {_some(done.open_searches)}")
    if done.open_tasks:
        say(f"may run again ({len(done.open_tasks)} tasks): {_some(done.open_tasks)}")


def _some(names: tuple[str, ...]) -> str:
    rest = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")
