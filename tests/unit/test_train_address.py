"""Where a train server meets others: the flag, the port that it holds, and what a careless address is told."""

import socket
from pathlib import Path

import pytest

from nasmesh.agent.flags import parse_server_flags
from nasmesh.clock import SystemClock
from nasmesh.errors import Invalid, Unavailable
from nasmesh.jobs.context import Cancelled
from nasmesh.settings import parse_address
from train_svc.__main__ import add_flags
from train_svc.address import GangAddress
from train_svc.meeting import Meeting, MemberLost


def test_address_when_none_is_given_then_the_server_takes_part_in_nothing():
    assert GangAddress("").text == ""


def test_address_when_port_is_0_then_one_is_held_at_which_only_one_can_listen_at_a_time():
    held = GangAddress("127.0.0.1:0")
    host, port = parse_address(held.text)
    first = Meeting.call("first", SystemClock(), address=host, port=port)
    with pytest.raises(Unavailable) as caught:
        Meeting.call("second", SystemClock(), address=host, port=port)
    assert caught.value.reason == "PORT_IN_USE"
    first.close()
    Meeting.call("second", SystemClock(), address=host, port=port).close()


@pytest.mark.parametrize(
    ("listen", "reason", "words"),
    [
        ("0.0.0.0:0", "GANG_PLAINTEXT", r"use 127\.0\.0\.1, or --insecure"),
        ("example.invalid:7403", "GANG_PLAINTEXT", "--insecure"),
        ("127.0.0.1", "ADDRESS_INVALID", "HOST:PORT"),
    ],
)
def test_address_when_it_is_careless_or_wrong_then_is_refused_with_the_fix(listen, reason, words):
    with pytest.raises(Invalid, match=words) as caught:
        GangAddress(listen)
    assert (caught.value.reason, caught.value.field) == (reason, "gang-listen")


def test_address_when_it_reaches_beyond_this_machine_then_needs_one_host_that_others_can_dial():
    with pytest.raises(Invalid, match="every address"):
        GangAddress("0.0.0.0:0", insecure=True)
    with pytest.raises(Invalid, match="is no address"):
        GangAddress("example.invalid:0", insecure=True)


def test_command_in_the_document_of_training_is_one_that_the_server_takes():
    text = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    (line,) = [line for line in text.splitlines() if line.startswith("nasmesh serve train") and "--gang-listen" in line]
    settings = parse_server_flags(
        "train_svc", listen="", slots=1, argv=["--listen", "127.0.0.1:0", *line.split()[3:]], add_own=add_flags
    )
    assert parse_address(settings.own.gang_listen)[1] == 7403
    assert settings.insecure, "its host is another machine's"


def test_address_when_the_port_is_taken_then_says_so():
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(Unavailable, match="gang-listen") as caught:
        GangAddress(f"127.0.0.1:{taken.getsockname()[1]}")
    assert caught.value.reason == "PORT_IN_USE"


def test_meeting_when_somebody_comes_for_another_training_then_waits_until_it_is_told_to_stop():
    mine = Meeting.call("mine", SystemClock())
    waits = []

    def wait(_seconds):
        waits.append(1)
        return len(waits) > 3

    with pytest.raises(Cancelled):
        Meeting.come("earlier", mine.rendezvous, 1, SystemClock(), wait)
    assert mine.absent(2) == [1]
    mine.begin()
    other = Meeting.come("mine", mine.rendezvous, 1, SystemClock(), lambda _: False)
    assert not mine.absent(2)
    mine.end()
    assert other.over
    mine.close()
    with pytest.raises(MemberLost):
        assert other.over
