"""What a watcher is told while nothing of a search happens: the cause once, and again when it is another."""

import io
from collections.abc import Iterator

from rich.console import Console

from clients.cli.display.follow import follow_search
from clients.cli.display.lines import PlainLines
from clients.cli.display.render import render
from clients.cli.display.view import SearchView
from clients.cli.display.waiting import LOOK_S, Waiting
from nasmesh.clock import ManualClock
from nasmesh.errors import Unavailable
from nasmesh.v1 import scheduler_service_pb2 as pb
from nasmesh.v1.search_pb2 import SEARCH_STATE_FINALIZING, SEARCH_STATE_RUNNING, SEARCH_STATE_SUCCEEDED, Search

NO_SERVER = "trial 1 waits: no train server is connected"
FULL = "trial 1 waits: all slots are taken"


class Asked:
    """A search as it is each time that it is asked for."""

    def __init__(self, *reasons: str | None) -> None:
        self.clock = ManualClock()
        self.told: list[str] = []
        self._reasons = iter(reasons)
        self.asked = 0
        self.waiting = Waiting(self._ask, self.told.append, self.clock)

    def _ask(self) -> Search:
        self.asked += 1
        reason = next(self._reasons)
        if reason is None:
            raise Unavailable("UNREACHABLE", "nobody answers")
        return Search(state=SEARCH_STATE_RUNNING, reason=reason)

    def look(self, times: int = 1) -> None:
        for _ in range(times):
            self.clock.advance(LOOK_S)
            self.waiting.look()


def test_cause_when_it_stays_then_told_once_and_again_when_it_is_another() -> None:
    asked = Asked(NO_SERVER, NO_SERVER, None, NO_SERVER, FULL, FULL, "", NO_SERVER)
    asked.look(8)
    assert asked.told == [NO_SERVER, FULL, "", NO_SERVER]


def test_question_when_something_has_just_changed_then_not_asked_and_what_was_told_is_over() -> None:
    asked = Asked(NO_SERVER, NO_SERVER)
    asked.look()
    asked.waiting.changed()
    asked.waiting.look()
    assert (asked.asked, asked.told) == (1, [NO_SERVER, ""])
    asked.look()
    assert asked.told == [NO_SERVER, "", NO_SERVER]


def test_answer_when_something_changed_meanwhile_then_not_told() -> None:
    clock, told = ManualClock(), list[str]()

    def ask() -> Search:
        clock.advance(1)
        waiting.changed()
        return Search(state=SEARCH_STATE_RUNNING, reason=NO_SERVER)

    waiting = Waiting(ask, told.append, clock)
    clock.advance(LOOK_S)
    waiting.look()
    assert told == []


def test_reason_of_the_search_itself_is_no_cause() -> None:
    asked = Asked("max_trials reached", f"max_trials reached; {FULL}")
    asked.waiting.changed(Search(state=SEARCH_STATE_FINALIZING, reason="max_trials reached"))
    asked.look(2)
    assert asked.told == [FULL]


def test_line_and_display_say_it_and_no_more_once_it_is_over() -> None:
    view = SearchView(Search(name="searches/s"))
    assert PlainLines(ManualClock()).waiting(view, NO_SERVER) == [f"  0.0 s  {NO_SERVER}"]
    assert PlainLines(ManualClock()).waiting(view, "") == []
    for waits in (NO_SERVER, ""):
        view.waits = waits
        console = Console(file=io.StringIO(), width=100, color_system=None)
        with console.capture() as capture:
            console.print(render(view, clock=ManualClock()))
        assert (NO_SERVER in capture.get()) == bool(waits)


def test_watch_in_a_pipe_when_it_ends_at_once_then_nobody_asked() -> None:
    class Ended:
        def watch(self, name: str) -> Iterator[pb.WatchSearchResponse]:
            yield pb.WatchSearchResponse(search=Search(name=name, state=SEARCH_STATE_SUCCEEDED, reason="done"))

        def get_search(self, name: str) -> Search:
            raise AssertionError(name)

    out = io.StringIO()
    view = follow_search(Ended(), "searches/s", stream=out)  # type: ignore[arg-type]
    assert view.ended
    assert "searches/s: succeeded: done" in out.getvalue()
