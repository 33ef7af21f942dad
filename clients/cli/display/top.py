"""Draws a Moment with rich: the scheduler, its queue, searches, agents; as many rows as the terminal has."""

from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from clients.cli.display.moment import Moment, Rates, counts_line, ended_trials, progress
from clients.cli.display.view import enum_word, format_duration, plural, short, state_word
from nasmesh.v1 import scheduler_service_pb2 as pb
from nasmesh.v1 import search_pb2
from nasmesh.v1.search_pb2 import Search

# Lines besides those of warnings, kinds of task, searches and agents: two of the head, a rule, three table heads, the
# longest wait, two blank lines, what is left out of searches and agents, and the one that a terminal keeps for itself.
_FIXED_ROWS = 12
_BAR = 20
_SLOW_COMMIT_S = 0.1
_STALE_S = 30.0


def render(
    moment: Moment, speed: Rates | None, *, address: str, rows: int | None = None, away_s: float | None = None
) -> RenderableType:
    """Return the whole display within `rows` lines; `away_s`: for how long the scheduler has not answered since."""
    doing = moment.info.activity
    warnings = _warnings(doing)
    most: tuple[int, int] | None = None
    if rows is not None:
        room = rows - _FIXED_ROWS - len(warnings) - len(doing.tasks)
        for_searches = min(len(moment.searches), max(1, room // 2))
        most = for_searches, max(1, room - for_searches)
    parts: list[RenderableType] = [_header(moment, address, away_s), _speed(moment, speed), *warnings]
    parts += [Rule(style="dim"), _queue(doing), Text(), _searches(moment.searches, most and most[0])]
    parts += [Text(), _agents(moment, most and most[1])]
    return Group(*parts)


def _header(moment: Moment, address: str, away_s: float | None) -> Text:
    info = moment.info
    line = Text(no_wrap=True, overflow="ellipsis")
    line.append("nasmesh ", style="bold").append(f"{info.version} at {address}  ", style="dim")
    if away_s is not None:
        line.append(f"no answer for {format_duration(away_s)}, this is how it was", style="bold red")
        return line
    serving = info.activity.serving
    line.append("serving" if serving else "NOT SERVING", style="green" if serving else "bold red")
    up_s = max(0.0, moment.wall_s - info.start_time.ToMicroseconds() / 1e6)
    line.append(
        f"  up {format_duration(up_s)}, boot {info.epoch}, journal {info.journal}, store {info.store}", style="dim"
    )
    return line


def _speed(moment: Moment, speed: Rates | None) -> Text:
    doing = moment.info.activity
    line = Text(no_wrap=True, overflow="ellipsis")
    line.append("tasks ", style="dim").append(f"{doing.outcomes_recorded:,}")
    if speed is not None:
        line.append(f" ({speed.tasks:,.1f}/s)", style="cyan")
    line.append("   events ", style="dim").append(f"{doing.events:,}")
    if speed is not None:
        line.append(f" ({speed.events:,.1f}/s)", style="cyan")
    line.append("   commit p50 ", style="dim")
    slow = doing.commit_p50_s > _SLOW_COMMIT_S
    # The median of no commit at all is no time.
    line.append(f"{doing.commit_p50_s * 1000:.2f} ms" if doing.commits else "–", style="bold red" if slow else "")
    line.append("   lease slack ", style="dim").append(f"{doing.lease_slack_s:.0f} s")
    return line


def _warnings(doing: pb.SchedulerActivity) -> list[RenderableType]:
    lines: list[RenderableType] = []
    if doing.store_outage:
        text = "the object store is down: dispatch is held, one task every 5 s tries it"
        lines.append(Text(text, style="bold white on red", no_wrap=True, overflow="ellipsis"))
    for words, counts in (
        ("attempts failed", doing.failures),
        ("attempts lost", doing.attempts_lost),
        ("calls denied", doing.calls_denied),
    ):
        if counts:
            lines.append(_counted(words, counts))
    return lines


def _counted(words: str, counts: Mapping[str, int]) -> Text:
    line = Text(no_wrap=True, overflow="ellipsis")
    return line.append(f"{words}: ", style="yellow").append(counts_line(counts.items()))


def _table(*columns: str) -> Table:
    """Return a table; a column that starts with ">" is aligned right, one with "~" gives way when space is short."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    for column in columns:
        right = column.startswith(">")
        table.add_column(column.lstrip(">~"), justify="right" if right else "left", no_wrap=True, overflow="ellipsis")
    return table


def _queue(doing: pb.SchedulerActivity) -> RenderableType:
    table = _table("tasks", ">waiting", ">running", "")
    most = max((counts.queued + counts.running for counts in doing.tasks), default=0)
    for counts in doing.tasks:
        kind = enum_word(search_pb2.TaskKind.Name(counts.kind), "TASK_KIND_")
        bar = ProgressBar(
            total=max(1, most),
            completed=counts.queued + counts.running,
            width=_BAR,
            complete_style="cyan",
            finished_style="green",
        )
        table.add_row(kind, f"{counts.queued:,}", f"{counts.running:,}", bar if most else "")
    oldest = doing.oldest_queued_s
    return Group(table, Text(f"longest wait {format_duration(oldest)}", style="dim")) if oldest else table


def _searches(searches: Sequence[Search], most: int | None) -> RenderableType:
    if not searches:
        return Text("no search is open", style="dim")
    table = _table("search", "state", "progress", ">trials", ">active", ">priority", "best")
    for search in searches[:most]:
        done = progress(search)
        bar = (
            ProgressBar(total=1.0, completed=done, width=_BAR, complete_style="cyan", finished_style="green")
            if done is not None
            else Text("no bound", style="dim")
        )
        bound = f"/{search.spec.budget.max_trials:,}" if search.spec.budget.max_trials else ""
        table.add_row(
            short(search.name),
            state_word(search),
            bar,
            f"{ended_trials(search):,}{bound}",
            f"{search.trials.active:,}",
            str(search.spec.priority),
            f"trial {short(search.best_trial)}" if search.best_trial else "",
        )
    left = len(searches) - table.row_count
    return Group(table, Text(f"and {left:,} more", style="dim")) if left else table


def _agents(moment: Moment, most: int | None) -> RenderableType:
    if not moment.agents:
        return Text("no agent has connected yet", style="dim")
    table = _table("agent", "state", ">at work", "kinds", ">heard", "engine")
    for agent in moment.agents[:most]:
        kinds = ", ".join(enum_word(search_pb2.TaskKind.Name(slots.kind), "TASK_KIND_") for slots in agent.slots)
        slots = sum(part.slots for part in agent.slots)
        heard_s = max(0.0, moment.wall_s - agent.last_seen_time.ToMicroseconds() / 1e6)
        table.add_row(
            short(agent.name),
            _state(agent),
            f"{len(agent.attempts)}/{slots}",
            kinds,
            Text(format_duration(heard_s), style="yellow" if heard_s > _STALE_S else ""),
            agent.server.engine,
        )
    connected = moment.info.activity.connected_agents
    left = max(connected, len(moment.agents)) - table.row_count
    rest = f"and {left:,} more; " if left else ""
    return Group(table, Text(f"{rest}{plural(connected, 'agent')} connected", style="dim"))


def _state(agent: pb.Agent) -> Text:
    if not agent.connected:
        return Text("away", style="red")
    return Text("draining", style="yellow") if agent.draining else Text("connected", style="green")
