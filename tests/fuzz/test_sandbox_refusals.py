"""Where a program cannot be shut in it is not run; its answers in protobuf are looked at before they are parsed."""

import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from generate_svc.program import ProgramGenerator
from nasmesh.errors import Invalid
from nasmesh.jobs.confinement import SandboxLimits
from nasmesh.jobs.sandbox import Sandbox
from nasmesh.v1 import generate_service_pb2 as pb
from tests.builders.generating import chain, request
from tests.builders.privileges import needs_root

PROGRAM = Path(__file__).parent / "hostile_generator.py"
_LENGTH = struct.Struct(">I")

# A program in shell: its directory holds what it answers, so that it needs no library to write protobuf.
_ANSWERS = """#!/bin/sh
if [ "$1" = describe ]; then cat {folder}/describe; else cat > /dev/null; cat {folder}/answer; fi
"""


def _generator(folder: Path, answer: bytes, described: bytes | None = None) -> ProgramGenerator:
    folder.chmod(0o755)
    described = (
        pb.Generator(name="generators/shell", version="1").SerializeToString() if described is None else described
    )
    (folder / "describe").write_bytes(_LENGTH.pack(len(described)) + described)
    (folder / "answer").write_bytes(answer)
    program = folder / "generator.sh"
    program.write_text(_ANSWERS.format(folder=folder))
    sandbox = Sandbox(program, expose=[folder], limits=SandboxLimits(time_s=10))
    return ProgramGenerator(sandbox)


@needs_root
def test_a_program_in_any_language_answers_in_frames(tmp_path: Path) -> None:
    wanted = pb.ProposeResponse(note="from a shell")
    wanted.proposals.add(proposal_id="one").choices.values["layers"] = "1"
    content = wanted.SerializeToString()
    generator = _generator(tmp_path, _LENGTH.pack(len(content)) + content)
    assert generator.describe().name == "generators/shell"
    assert generator.propose(request("shell", chain())) == wanted


def _bomb() -> bytes:
    # 4 million empty proposals: 8 MB on the wire, half a gigabyte once parsed.
    content = b"\x0a\x00" * 4_000_000
    return _LENGTH.pack(len(content)) + content


@needs_root
@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"", "not one frame"),
        (b"\x00\x00", "not one frame"),
        (_LENGTH.pack(5) + b"\x0a\x00", "not one frame"),
        (_LENGTH.pack(2) + b"\x0a\x00" + b"\x0a\x00", "not one frame"),
        (_LENGTH.pack(3) + b"\xff\xff\xff", "no message of this type"),
        (_LENGTH.pack(4) + b"\x0b\x0b\x0b\x0b", "no message of this type"),
        (_bomb(), "more than 400000 parts"),
    ],
)
def test_bytes_that_are_no_answer_are_refused_before_they_cost_anything(
    tmp_path: Path, answer: bytes, said: str
) -> None:
    generator = _generator(tmp_path, answer)
    start = time.monotonic()
    with pytest.raises(Invalid, match=said) as caught:
        generator.propose(request("shell", chain()))
    assert caught.value.reason == "PROGRAM_OUTPUT_INVALID"
    assert caught.value.message.count("the program's answer") == 1
    assert time.monotonic() - start < 2.0


@needs_root
@pytest.mark.parametrize(
    ("described", "said"),
    [
        (pb.Generator(), "name"),
        (pb.Generator(name="generators/../x"), "name"),
        (pb.Generator(name="generators/x", version="\x1b[2J"), "not printable"),
        (pb.Generator(name="generators/x", spaces=["everything"]), "use envelope, chain, fixed or cell"),
    ],
)
def test_a_description_that_misleads_is_refused_at_the_start(
    tmp_path: Path, described: pb.Generator, said: str
) -> None:
    with pytest.raises(Invalid, match=said):
        _generator(tmp_path, b"", described.SerializeToString())


@needs_root
@pytest.mark.parametrize("word", ["$ref", "pattern", "unevaluatedProperties"])
def test_a_schema_may_not_send_its_reader_elsewhere(tmp_path: Path, word: str) -> None:
    described = pb.Generator(name="generators/x")
    described.settings_schema.update({"properties": {"a": {word: "(a+)+$"}}})
    with pytest.raises(Invalid, match="may not be used"):
        _generator(tmp_path, b"", described.SerializeToString())


_AS_SOMEBODY = "import os; os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)"
_TRY = """
from pathlib import Path
from nasmesh.errors import NasmeshError
from nasmesh.jobs import confinement
from nasmesh.jobs.sandbox import Sandbox
{first}
try:
    Sandbox(Path("{program}"))
    print("RAN")
except NasmeshError as error:
    print(type(error).__name__, error.reason, error.message)
"""


@needs_root
@pytest.mark.parametrize(
    ("prefix", "first", "why"),
    [
        ((), _AS_SOMEBODY, "only root may shut a program in"),
        ((), "confinement.PATH = '/nowhere'", "unshare, setpriv, prlimit"),
        # As in a container whose root may not do what root may.
        (("setpriv", "--bounding-set=-sys_admin"), "pass", "not permitted"),
        (("setpriv", "--bounding-set=-setuid"), "pass", "setpriv"),
    ],
)
def test_a_program_that_cannot_be_shut_in_is_not_run(prefix: tuple[str, ...], first: str, why: str) -> None:
    code = _TRY.format(first=first, program=PROGRAM)
    done = subprocess.run([*prefix, sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("Unavailable SANDBOX_UNAVAILABLE"), done.stdout + done.stderr
    assert why in done.stdout, done.stdout


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (("--program", "/nowhere/generator.py"), 2, "cannot be read"),
        (("--program", str(PROGRAM), "--program-memory-mib", "1"), 2, "--program-memory-mib 16"),
        (("--program", str(PROGRAM), "--program-reads", "/nowhere"), 2, "is no directory"),
    ],
)
@needs_root
def test_serve_says_in_a_sentence_what_is_wrong(tmp_path: Path, flags: tuple[str, ...], code: int, said: str) -> None:
    command = [sys.executable, "-m", "generate_svc", "--listen", "127.0.0.1:0", "--work-dir", str(tmp_path), *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
