"""One command starts one more server of a kind on the same machine; who says where things are, gets them there."""

from contextlib import ExitStack
from pathlib import Path

import pytest

from nasmesh.agent.beside import MOST, held_place
from nasmesh.agent.flags import ServerSettings, parse_server_flags
from nasmesh.errors import Unavailable


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NASMESH_HOME", str(tmp_path))


def told(*flags: str, scheduler: str = "127.0.0.1:7400") -> ServerSettings:
    joining = ("--scheduler", scheduler) if scheduler else ()
    return parse_server_flags("train_svc", listen="127.0.0.1:7402", slots=1, argv=[*joining, *flags])


def test_servers_of_one_kind_when_nothing_is_said_then_each_has_a_place_and_a_port(tmp_path: Path) -> None:
    with ExitStack() as stack:
        found = [stack.enter_context(held_place(told())) for _ in range(3)]
        assert [place.work_dir for place in found] == [
            tmp_path / name for name in ("train_svc", "train_svc-2", "train_svc-3")
        ]
        assert [place.listen for place in found] == ["127.0.0.1:7402", "127.0.0.1:7412", "127.0.0.1:7422"]
    # Who comes back finds what it has left: the first that is free.
    with held_place(told()) as first, held_place(told()) as second:
        assert (first, second) == (found[0], found[1])


@pytest.mark.parametrize("flags", [("--listen", "127.0.0.1:0"), ("--work-dir", "{home}/train_svc"), ("--name", "gpu1")])
def test_a_server_when_it_was_told_its_place_then_takes_no_other(tmp_path: Path, flags: tuple[str, ...]) -> None:
    again = told(*(flag.format(home=tmp_path) for flag in flags))
    with held_place(told()), pytest.raises(Unavailable, match="--work-dir"), held_place(again):
        pytest.fail("two programs have one directory")


def test_a_server_without_a_scheduler_when_the_place_is_taken_then_says_so() -> None:
    # Somebody will dial it: at a port that nobody has named it would not be found.
    with held_place(told()), pytest.raises(Unavailable, match="--work-dir"), held_place(told(scheduler="")):
        pytest.fail("two programs have one directory")


def test_servers_when_there_are_too_many_then_the_last_is_refused() -> None:
    with ExitStack() as stack:
        for _ in range(MOST):
            stack.enter_context(held_place(told()))
        with pytest.raises(Unavailable, match="--work-dir"):
            stack.enter_context(held_place(told()))
