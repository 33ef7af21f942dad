"""T12: hostile generators. Each is contained in bounded time, the server lives on and answers the next call.

Ten of them a change, in turn; all with `pytest tests/fuzz/test_sandbox.py --long`.
"""

import json
import os
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import psutil
import pytest

from nasmesh.errors import NasmeshError
from nasmesh.jobs import confinement, sandbox, usage
from nasmesh.rpc.channel import errors_from_rpc, open_channel
from nasmesh.v1 import generate_service_pb2_grpc as rpc
from tests.builders.generating import chain, request
from tests.builders.privileges import needs_root

pytestmark = needs_root

HERE = Path(__file__).parent
PROGRAM = HERE / "hostile_generator.py"
MEMORY_MIB = 96
TIME_S = 2.0
# The wall timer, and what starting and clearing away may take on a busy machine.
BOUND_S = TIME_S + 3.0
GROWTH_BYTES = 64 << 20
WORD = "a-word-that-no-child-may-see"

HELD = "held"
MEMORY = "PROGRAM_OUT_OF_MEMORY"
TIME = "PROGRAM_TIMED_OUT"
FAILED = "PROGRAM_FAILED"
SIZE = "PROGRAM_OUTPUT_TOO_LARGE"
NONSENSE = "PROGRAM_OUTPUT_INVALID"
REPLY = "GENERATOR_REPLY_INVALID"

ATTACKS: dict[str, tuple[str, ...]] = {
    # An allocation that is refused ends the program; one that is not, the look at its memory.
    "memory-private": (FAILED, MEMORY),
    "memory-shared": (MEMORY,),
    "memory-files": (MEMORY,),
    "memory-family": (MEMORY,),
    "memory-segments": (HELD,),
    "disk-many-files": (HELD,),
    "disk-large-file": (HELD,),
    "disk-inodes": (HELD,),
    "processor-spin": (TIME,),
    "processor-threads": (TIME,),
    "fork-bomb": (TIME, MEMORY),
    "thread-bomb": (HELD,),
    "sleep-long": (TIME,),
    "sleep-deaf": (TIME,),
    "stop-self": (TIME,),
    "close-output-and-stay": (TIME,),
    "raise-limits": (HELD,),
    "network-host": (HELD,),
    "network-abstract": (HELD,),
    "network-raw": (HELD,),
    "secret-private": (HELD,),
    "secret-public": (HELD,),
    "secret-system": (HELD,),
    "secret-by-link": (HELD,),
    "secret-by-proc": (HELD,),
    "secret-in-environment": (HELD,),
    "open-descriptors": (HELD,),
    "write-outside": (HELD,),
    "become-root": (HELD,),
    "become-root-by-file": (HELD,),
    "use-root-calls": (HELD,),
    "unshare-again": (HELD,),
    "unshare-and-look": (HELD,),
    "trace-others": (HELD,),
    "signal-parent": (HELD,),
    "signal-everybody": (HELD,),
    "outlive-by-daemon": (HELD,),
    "outlive-with-pipes": (HELD,),
    "output-huge": (SIZE,),
    "output-endless": (TIME, SIZE),
    "output-garbage": (NONSENSE,),
    "output-deep": (NONSENSE,),
    "output-none": (NONSENSE,),
    "output-to-terminal": (FAILED,),
    "errors-flood": (SIZE, TIME),
    "too-many-proposals": (REPLY,),
    "too-much-state": (REPLY,),
    "crash": (FAILED,),
}
A_CHANGE = 10


def _turn() -> int:
    """Which of the groups runs: another one whenever the sandbox or the attacks change."""
    files = [PROGRAM, *(Path(str(module.__file__)) for module in (sandbox, confinement, usage))]
    return zlib.crc32(b"".join(file.read_bytes() for file in files))


def _chosen(everything: bool) -> list[str]:
    names = sorted(ATTACKS)
    if everything:
        return names
    groups = -(-len(names) // A_CHANGE)
    return [*names[_turn() % groups :: groups], *names][:A_CHANGE]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.function is test_a_hostile_generator_is_contained_and_the_server_answers_the_next_call:
        metafunc.parametrize("attack", _chosen(metafunc.config.getoption("--long")))


@dataclass(frozen=True, slots=True)
class Victim:
    stub: rpc.GenerateServiceStub
    process: psutil.Process
    settings: dict[str, str]

    def propose(self, attack: str) -> str:
        """How a call ended: the reason of an error, or the note of an answer; never with control characters."""
        asked = request("hostile", chain(), settings=self.settings)
        asked.search = f"searches/{attack}"
        try:
            with errors_from_rpc():
                return self.stub.Propose(asked, timeout=30).note
        except NasmeshError as error:
            return error.reason if error.message.isprintable() else repr(error.message)


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    folder = tmp_path_factory.mktemp("victim")
    private, public = folder / "private", folder / "public"
    for path, mode in ((private, 0o600), (public, 0o644)):
        path.write_text(WORD)
        path.chmod(mode)
    name = f"nasmesh-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as abstract, socket.create_server(("127.0.0.1", 0)) as listener:
        abstract.bind(f"\0{name}")
        abstract.listen()
        process = _serve(folder)
        try:
            address = _address(process, folder / "port")
            settings = {
                "port": str(listener.getsockname()[1]),
                "abstract": name,
                "private": str(private),
                "public": str(public),
                "folder": str(folder),
                "word": WORD,
                "server": str(process.pid),
            }
            with open_channel(address) as channel:
                yield Victim(rpc.GenerateServiceStub(channel), psutil.Process(process.pid), settings)
        finally:
            process.terminate()
            assert process.wait(20) == 0


def _serve(folder: Path) -> subprocess.Popen[bytes]:
    flags = ["--listen", "127.0.0.1:0", "--port-file", str(folder / "port"), "--program", str(PROGRAM), "--slots", "4"]
    flags += ["--program-format", "json", "--program-memory-mib", str(MEMORY_MIB), "--program-time-s", str(TIME_S)]
    environment = {**os.environ, "TOKEN": WORD, "NASMESH_HOME": str(folder / "home")}
    return subprocess.Popen([sys.executable, "-m", "generate_svc", *flags], env=environment)


def _address(process: subprocess.Popen[bytes], port_file: Path) -> str:
    until = time.monotonic() + 60
    while not port_file.exists():
        assert process.poll() is None, "the server ended"
        assert time.monotonic() < until, "the server does not serve"
        time.sleep(0.05)
    return port_file.read_text().strip()


def _shut_in() -> list[psutil.Process]:
    """What runs as one of the users that only sandboxes use."""
    found = []
    for process in psutil.process_iter(["uids"]):
        uids = process.info["uids"]
        if uids is not None and uids.real in confinement._USERS:
            found.append(process)
    return found


def test_a_hostile_generator_is_contained_and_the_server_answers_the_next_call(victim: Victim, attack: str) -> None:
    before = victim.process.memory_info().rss
    children = len(victim.process.children(recursive=True))
    start = time.monotonic()
    said = victim.propose(attack)
    took_s = time.monotonic() - start
    assert (said.partition(":")[0] if said.startswith(("held", "breached")) else said) in ATTACKS[attack], said
    assert took_s < BOUND_S
    assert victim.propose("none") == "at work"
    assert victim.process.memory_info().rss - before < GROWTH_BYTES
    assert len(victim.process.children(recursive=True)) <= children
    assert not _shut_in(), f"{attack} left processes behind"
    print(f"{attack}: {said[:100]} after {took_s:.2f} s")  # noqa: T201 - shown with --long -s


@pytest.mark.parametrize("attack", ["secret-public", "secret-in-environment", "network-host", "network-abstract"])
def test_the_same_attack_succeeds_outside_the_sandbox(victim: Victim, attack: str) -> None:
    # Else "held" might only say that the attack is no attack.
    asked = json.dumps({"search": f"searches/{attack}", "settings": victim.settings})
    environment = {**os.environ, "TOKEN": WORD}
    command = [sys.executable, str(PROGRAM), "propose"]
    done = subprocess.run(command, input=asked, capture_output=True, text=True, timeout=60, env=environment, check=True)
    assert json.loads(done.stdout)["note"].startswith("breached"), done.stdout


def test_nobody_can_end_a_sibling(victim: Victim) -> None:
    asked = request("hostile", chain(), settings=victim.settings)
    asked.search = "searches/sleep-long"
    sleeping = victim.stub.Propose.future(asked, timeout=30)
    assert victim.propose("signal-everybody").startswith("held")
    with pytest.raises(grpc.RpcError) as caught:
        sleeping.result()
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE  # its own time ran out, nothing else
    assert "took more than" in caught.value.details()


def test_the_list_of_attacks_and_the_program_agree(request: pytest.FixtureRequest) -> None:
    assert len(ATTACKS) >= 40
    text = PROGRAM.read_text()
    assert all(f"def {name.replace('-', '_')}(asked):" in text for name in ATTACKS)
    assert len(set(_chosen(everything=False))) == A_CHANGE
    assert len(_chosen(everything=request.config.getoption("--long"))) in (A_CHANGE, len(ATTACKS))
