"""The checksum of an answer to a request id, and the answer of a row that has it."""

import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any

from nasmesh.errors import NasmeshError
from nasmesh.logs import get_logger
from scheduler.journal.base import Answer

_HEAD = struct.Struct(">dQQ")

_log = get_logger("journal")


def answer_crc(request_id: str, answer: Answer) -> int:
    """Return the checksum of an answer; it covers its request id, and where each column ends."""
    key, digest = request_id.encode(), answer.body_digest
    # SQLite knows no negative zero.
    head = _HEAD.pack(answer.time_s + 0.0, len(key), len(digest))
    return zlib.crc32(answer.reply, zlib.crc32(digest, zlib.crc32(head + key)))


def checked_answer(request_id: Any, row: Sequence[Any], corrupt: Callable[[str], NasmeshError]) -> Answer:
    """Return the answer of a row (body digest, reply, time, checksum); raises what `corrupt` returns for a spoilt one.

    Nothing is taken for granted of what a row holds: damage may have given a value another type.
    """
    body_digest, reply, time_s, crc = row
    answer = Answer(body_digest, reply, time_s)
    try:
        is_sound = crc == answer_crc(request_id, answer)
    except (AttributeError, TypeError, struct.error):
        is_sound = False
    if not is_sound:
        _log.error("journal_answer_spoilt", request_id=ascii(request_id)[:80])
        raise corrupt(f"the answer to request id {str(request_id)[:80]!r} does not have its checksum")
    return answer
