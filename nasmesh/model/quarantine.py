"""Reads bytes from outside in a child process with limits on memory, processor time and wall time.

The parser of a hostile message runs where it can hurt nobody; only the verdict and, for imports, the re-encoded network
come back. The parent parses the bytes itself only after the child has passed them.
"""

import gc
import json
import os
import resource
from pathlib import Path
from typing import Literal

from nasmesh import limits
from nasmesh.errors import Rejected
from nasmesh.model import reader
from nasmesh.model.admission import Admitted, admit
from nasmesh.model.encode import to_bytes
from nasmesh.model.imported import import_onnx
from nasmesh.model.lower import lower
from nasmesh.model.reasons import Reason, rejected
from nasmesh.unpickling import forbid_unpickling
from nasmesh.v1 import architecture_pb2 as pb

Work = Literal["admit", "admit_checkpoint", "import"]

# Processor seconds until the interpreter and onnx are loaded on a slow machine; the limit proper comes on top.
_START_S = 20
_CHUNK = 1 << 20
_WORKS: tuple[Work, ...] = ("admit", "admit_checkpoint", "import")


def admit_untrusted(content: bytes, *, checkpoint: bool = False) -> Admitted:
    """Return what admission makes of bytes from outside, read first by a child with limits; raises Rejected."""
    inspect_untrusted(content, "admit_checkpoint" if checkpoint else "admit")
    return admit(content, checkpoint=checkpoint)


def import_untrusted(content: bytes) -> Admitted:
    """Return the network in an ONNX file from outside, in our form, by a child with limits; raises Rejected."""
    return admit(inspect_untrusted(content, "import"))


def inspect_untrusted(content: bytes, work: Work) -> bytes:
    """Return what a limited child makes of the bytes: nothing for admissions, canonical bytes for imports.

    Raises Rejected with the child's reason, or PARSE_LIMIT where it ran out of memory or time. Size is checked first,
    before any process starts.
    """
    limit = limits.CHECKPOINT_BYTES if work == "admit_checkpoint" else limits.NETWORK_BYTES
    if len(content) > limit:
        raise rejected(Reason.TOO_LARGE, f"{len(content)} bytes; the limit is {limit}", where="content")
    answer = reader.ask(_WORKS.index(work), content, _wall_s(len(content)))
    return _result(answer)


def main() -> None:
    """Run in a reader: for every call, fork; the fork reads its bytes, sets its limits, examines, answers and ends.

    The libraries are loaded before the limits are set: their memory and time are not the input's fault. A fork that
    does not end well leaves the pipe in the middle of its bytes, so that its reader ends too.
    """
    forbid_unpickling()
    _warm()
    # A collection in a fork would touch, and so copy, everything that is loaded.
    gc.disable()
    gc.freeze()
    while header := _read(reader.HEADER.size):
        kind, size = reader.HEADER.unpack(header)
        child = os.fork()
        if child == 0:
            _examine(_WORKS[kind], size)
            os._exit(0)
        if os.waitpid(child, 0)[1] != 0:
            os._exit(1)


def _warm() -> None:
    """Import a network of one layer: tables that are made at first use would be made anew by every fork."""
    architecture = pb.Architecture(output="fc")
    architecture.inputs.add(id="x", data_type=pb.DATA_TYPE_FLOAT32, dims=[2])
    layer = architecture.blocks.add(id="fc", inputs=[pb.Edge(source="x")])
    layer.operation.linear.features = 2
    import_onnx(to_bytes(lower(architecture)))


def _examine(work: Work, size: int) -> None:
    """Answer with one JSON line and perhaps the network's bytes."""
    content = _read(size)
    _limit(len(content))
    verdict: dict[str, str] = {}
    network = b""
    try:
        if work == "import":
            network = to_bytes(import_onnx(content))
        else:
            admit(content, checkpoint=work == "admit_checkpoint")
    except Rejected as error:
        verdict = {"reason": error.reason, "message": error.message, "field": error.field}
    except (MemoryError, RecursionError):
        verdict = {"reason": Reason.PARSE_LIMIT.value, "message": "reading takes too much memory", "field": "content"}
    answer = memoryview(json.dumps(verdict).encode() + b"\n" + network)
    for part in (memoryview(reader.LENGTH.pack(len(answer))), answer):
        while part:
            part = part[os.write(1, part) :]


def _read(size: int) -> bytes:
    """Return so many bytes of standard input; fewer, or none, where the other side is gone."""
    parts: list[bytes] = []
    while size:
        part = os.read(0, min(size, _CHUNK))
        if not part:
            break
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _result(answer: bytes | None) -> bytes:
    if answer is None:
        raise _over_limits()
    line, _, network = answer.partition(b"\n")
    verdict = json.loads(line)
    if verdict:
        raise Rejected(verdict["reason"], verdict["message"], field=verdict["field"])
    return network


def _over_limits() -> Rejected:
    message = f"reading takes more than {limits.ADMISSION_TIME_S} s or {limits.ADMISSION_MEMORY_BYTES >> 20} MiB"
    return rejected(Reason.PARSE_LIMIT, message, where="content")


def _extra_s(size: int) -> int:
    """Return the seconds allowed for the sheer size: a checkpoint may be 30 times a network."""
    return size // limits.NETWORK_BYTES * limits.ADMISSION_TIME_S


def _wall_s(size: int) -> int:
    return _START_S + limits.ADMISSION_TIME_S + _extra_s(size)


def _limit(size: int) -> None:
    """Set the child's limits from now on; several copies of the bytes live while they are read and written again."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime) + 1 + limits.ADMISSION_TIME_S + _extra_s(size)
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    copies = 5 * size if size > limits.NETWORK_BYTES else 0
    memory = mapped + limits.ADMISSION_MEMORY_BYTES + copies
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
