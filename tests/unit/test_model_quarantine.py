"""The process that reads bytes from outside: kept warm, one fork a call, replaced when it is gone."""

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import onnx
import psutil
import pytest

from nasmesh.errors import Rejected
from nasmesh.model import quarantine, reader
from nasmesh.model.admission import admit
from nasmesh.model.encode import to_bytes
from nasmesh.model.lower import lower
from tests.builders.architectures import random_architecture, small_cnn

GOOD = to_bytes(lower(small_cnn()))


def _idle() -> psutil.Process:
    quarantine.inspect_untrusted(GOOD, "admit")
    (kept,) = reader._idle
    return psutil.Process(kept.process_id)


def test_calls_share_a_reader_and_leave_nothing_behind() -> None:
    process = _idle()
    for _ in range(3):
        assert quarantine.inspect_untrusted(GOOD, "admit") == b""
    assert _idle().pid == process.pid
    # A fork answers just before it ends.
    assert psutil.wait_procs(process.children(), timeout=5)[1] == []
    imported = onnx.ModelProto.FromString(quarantine.inspect_untrusted(GOOD, "import"))
    assert to_bytes(imported) == to_bytes(quarantine.import_untrusted(GOOD).model)


def test_a_reader_that_was_killed_while_idle_is_replaced_unseen() -> None:
    process = _idle()
    process.kill()
    psutil.wait_procs([process], timeout=5)
    assert quarantine.admit_untrusted(GOOD).digest == admit(GOOD).digest


def test_bytes_that_kill_their_reader_are_refused_and_the_next_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    process = _idle()
    process.suspend()  # so that it is in the middle of the call when it dies
    asked = threading.Event()
    ask = reader.Reader.ask

    def noted(self: reader.Reader, kind: int, content: bytes, timeout_s: float) -> bytes | None:
        asked.set()
        return ask(self, kind, content, timeout_s)

    monkeypatch.setattr(reader.Reader, "ask", noted)
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(quarantine.inspect_untrusted, GOOD, "admit")
        assert asked.wait(30)
        os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(Rejected) as caught:
            call.result(30)
    assert caught.value.reason == "PARSE_LIMIT"
    assert quarantine.inspect_untrusted(GOOD, "admit") == b""


def test_callers_at_once_get_each_their_own_answer() -> None:
    contents = [to_bytes(lower(random_architecture(seed, blocks=2))) for seed in range(12)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda content: quarantine.inspect_untrusted(content, "import"), contents))
    expected = [to_bytes(quarantine.import_onnx(content)) for content in contents]
    assert answers == expected
    while len(reader._idle) > 1:
        reader._idle.pop().end()


def test_the_limits_are_those_of_the_fork() -> None:
    # A large network of one long chain takes long to examine, but a fork has a time of its own for every call.
    process = _idle()
    used = process.cpu_times()
    for _ in range(5):
        quarantine.inspect_untrusted(GOOD, "admit")
    after = process.cpu_times()
    assert after.user + after.system - used.user - used.system < 1.0  # its own time; forks are children's
    assert process.rlimit(psutil.RLIMIT_AS)[0] == psutil.RLIM_INFINITY
