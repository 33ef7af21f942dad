"""Answers a request id once: repeating a call has the effect of one, and gives the same answer."""

import hashlib
from collections.abc import Callable
from typing import TypeVar

from google.protobuf.message import Message

from nasmesh.errors import Conflict, Invalid
from nasmesh.rpc.identity import Identity
from scheduler.engine import Engine
from scheduler.journal.base import Answer

_REQUEST_ID_CHARS = 64
Reply = TypeVar("Reply", bound=Message)


def once(
    engine: Engine, request_id: str, request: Message, act: Callable[[], Reply], kind: type[Reply], *, caller: Identity
) -> Reply:
    """Return the first answer to a caller's request id, or act; raises Conflict (REQUEST_ID_REUSED) for another body.

    Each identity has its own ids: nobody is told what somebody else was answered.
    """
    if not request_id:
        return act()
    if len(request_id) > _REQUEST_ID_CHARS:
        raise Invalid("FIELD_INVALID", f"request_id: at most {_REQUEST_ID_CHARS} characters", field="request_id")
    key = f"{caller.name} {request_id}" if caller.name else request_id
    body = request.SerializeToString(deterministic=True)
    digest = hashlib.sha256(kind.DESCRIPTOR.full_name.encode() + b"\0" + body).digest()
    kept = engine.answered(key)
    if kept is not None:
        if kept.body_digest != digest:
            raise Conflict(
                "REQUEST_ID_REUSED",
                "request_id: it was used for another request; choose a new one",
                field="request_id",
            )
        return kind.FromString(kept.reply)
    reply = act()
    engine.keep_answer(key, Answer(digest, reply.SerializeToString(), engine.uptime_s()))
    return reply
