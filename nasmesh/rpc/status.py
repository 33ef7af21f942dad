"""The one table between nasmesh.errors and gRPC status codes, in both directions, with google.rpc details.

What is sent is public text only; any other exception becomes INTERNAL with a fixed sentence and the id under which
the log has it.
"""

import re
from collections.abc import Iterable
from typing import Protocol, TypeVar, runtime_checkable

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from nasmesh import limits
from nasmesh.clock import new_id
from nasmesh.errors import (
    Busy,
    Compacted,
    Conflict,
    Denied,
    FieldViolation,
    Invalid,
    NasmeshError,
    NotFound,
    Raced,
    Rejected,
    Stale,
    Unauthenticated,
    Unavailable,
)
from nasmesh.logs import get_logger

DOMAIN = "nasmesh"
DETAILS_KEY = "grpc-status-details-bin"
# Where two errors share a code, ErrorInfo's metadata says which it was; the first in the table is the default.
_KIND_KEY = "error"
_FIELD_KEY = "field"
# A path into a request is never longer; a hostile one is cut.
_FIELD_BYTES = 200

CODES: dict[type[NasmeshError], grpc.StatusCode] = {
    Invalid: grpc.StatusCode.INVALID_ARGUMENT,
    Rejected: grpc.StatusCode.INVALID_ARGUMENT,
    NotFound: grpc.StatusCode.NOT_FOUND,
    Conflict: grpc.StatusCode.ALREADY_EXISTS,
    Stale: grpc.StatusCode.FAILED_PRECONDITION,
    Raced: grpc.StatusCode.ABORTED,
    Compacted: grpc.StatusCode.OUT_OF_RANGE,
    Busy: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Unavailable: grpc.StatusCode.UNAVAILABLE,
    Denied: grpc.StatusCode.PERMISSION_DENIED,
    Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    NasmeshError: grpc.StatusCode.INTERNAL,
}
"""Every domain error's status code; a test fails on an error that is missing here."""

_LOG = get_logger("rpc")
_ADDRESS = re.compile(r"ip(?:v4|v6):(\S+?:\d+)")
_ByCode = dict[int, type[NasmeshError]]
_CLASSES: _ByCode = {code.value[0]: kind for kind, code in reversed(CODES.items())}
_START = "start it with `nasmesh up` (everything) or `nasmesh serve`, or give the right address"

Detail = TypeVar("Detail", bound=Message)


@runtime_checkable
class FailedCall(Protocol):
    """What gRPC's errors have in both their forms, threaded and asyncio."""

    def code(self) -> grpc.StatusCode | None:
        """Return the status code."""

    def details(self) -> str | None:
        """Return the sentence that came with it."""

    def trailing_metadata(self) -> Iterable[tuple[str, str | bytes]] | None:
        """Return the metadata that ended the call."""


def to_rpc_status(error: BaseException) -> status_pb2.Status:
    """Return the status that tells a caller of this error; logs the error when it is not one for callers."""
    if not isinstance(error, NasmeshError):
        return _internal(error)
    kind = next(base for base in type(error).__mro__ if base in CODES)
    message = _cut(error.message, limits.ERROR_TEXT_BYTES)
    status = status_pb2.Status(code=CODES[kind].value[0], message=message)
    info = error_details_pb2.ErrorInfo(reason=_cut(error.reason, 100), domain=DOMAIN)
    if _CLASSES[status.code] is not kind:
        info.metadata[_KIND_KEY] = kind.__name__
    if error.field:
        info.metadata[_FIELD_KEY] = _cut(error.field, _FIELD_BYTES)
    for key, value in error.metadata.items():
        if info.ByteSize() + len(key.encode()) + len(value.encode()) <= limits.ERROR_TEXT_BYTES:
            info.metadata[key] = value
    _attach(status, info)
    if isinstance(error, Busy):
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(int(error.retry_after_s * 1e9))
        _attach(status, retry)
    if isinstance(error, Invalid) and error.violations:
        _attach_violations(status, error.violations)
    return status


def from_rpc_error(error: grpc.RpcError, *, address: str = "") -> NasmeshError:
    """Return the domain error that a failed call stands for; `address` is what was dialled, if the caller knows it."""
    if not isinstance(error, FailedCall) or (code := error.code()) is None:
        return NasmeshError("RPC_FAILED", f"the call failed without a status: {_cut(str(error), 200)}")
    text = error.details() or ""
    status = _details(error)
    info = _find(status, error_details_pb2.ErrorInfo)
    if status is None or info is None or info.domain != DOMAIN:
        return _without_details(code, text, address)
    return _rebuild(status, info, text or status.message)


def _rebuild(status: status_pb2.Status, info: error_details_pb2.ErrorInfo, message: str) -> NasmeshError:
    """Return the error that a server of ours raised."""
    metadata = {key: value for key, value in info.metadata.items() if key not in (_KIND_KEY, _FIELD_KEY)}
    field = info.metadata.get(_FIELD_KEY, "")
    named = {kind.__name__: kind for kind in CODES if CODES[kind].value[0] == status.code}
    kind = named.get(info.metadata.get(_KIND_KEY, "")) or _CLASSES.get(status.code, NasmeshError)
    if issubclass(kind, Busy):
        retry = _find(status, error_details_pb2.RetryInfo)
        delay_s = retry.retry_delay.ToNanoseconds() / 1e9 if retry is not None else limits.BACKOFF_BASE_S
        return kind(info.reason, message, retry_after_s=delay_s, field=field, metadata=metadata)
    if issubclass(kind, Invalid):
        bad = _find(status, error_details_pb2.BadRequest)
        violations = [FieldViolation(v.field, v.description) for v in bad.field_violations] if bad is not None else []
        return kind(info.reason, message, field=field, violations=violations, metadata=metadata)
    return kind(info.reason, message, field=field, metadata=metadata)


def _without_details(code: grpc.StatusCode, text: str, address: str) -> NasmeshError:
    """Return the error for a status that gRPC itself, a proxy or a foreign server made."""
    short = _cut(text, 300)
    found = _ADDRESS.search(text)
    where = address or (found[1] if found else "the address given")
    match code:
        case grpc.StatusCode.UNAVAILABLE:
            return _unavailable(text, where, short)
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            by = f" at {address}" if address else ""
            return Unavailable("DEADLINE_EXCEEDED", f"the server{by} did not answer in time; it may be busy: try again")
        case grpc.StatusCode.CANCELLED:
            return Unavailable("CALL_CANCELLED", "the call was cancelled before it ended")
        case grpc.StatusCode.ABORTED:
            return Unavailable("ABORTED", f"the server gave the call up, try again: {short}")
        case grpc.StatusCode.UNIMPLEMENTED:
            return Invalid(
                "METHOD_UNKNOWN", f"the server at {where} does not serve this call: is it another kind or version?"
            )
        case grpc.StatusCode.RESOURCE_EXHAUSTED if "larger than max" in text:
            return Invalid(
                "MESSAGE_TOO_LARGE", f"a message is over the limit of {limits.MESSAGE_BYTES:,} bytes: {short}"
            )
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return Busy("TOO_MANY_CALLS", f"the server has too many calls in hand: {short}")
        case grpc.StatusCode.INTERNAL | grpc.StatusCode.UNKNOWN | grpc.StatusCode.DATA_LOSS:
            return NasmeshError("SERVER_FAILED", f"the server failed: {short or 'without saying why'}")
    kind = _CLASSES.get(code.value[0], NasmeshError)
    return kind(code.name, short or f"the server answered {code.name}")


AWAY = frozenset(
    ("UNREACHABLE", "STANDBY", "SCHEDULER_STOPPING", "DEADLINE_EXCEEDED", "CALL_CANCELLED", "HANDSHAKE_REFUSED")
)
"""Reasons of Unavailable that say: not here, perhaps elsewhere. Others are a leader's own, and true of all."""

# What gRPC says of a handshake that failed: a part of its text, our reason, and what to do.
_HANDSHAKES = (
    ("certificate has expired", "SERVER_EXPIRED", "its certificate has expired; renew it there"),
    ("CERTIFICATE_VERIFY_FAILED", "SERVER_UNTRUSTED", "its certificate is of another authority than --ca-file names"),
    ("Hostname Verification", "SERVER_OTHER_HOST", "its certificate is for other hosts; issue one with this --host"),
    ("WRONG_VERSION_NUMBER", "SERVER_PLAINTEXT", "it speaks plain text; leave --ca-file out, or give it --tls-cert"),
    (
        "Socket closed",
        "HANDSHAKE_REFUSED",
        "it hung up at once: it may speak TLS only (--ca-file), or ask for a certificate that is valid (--cert-file)",
    ),
)


def _unavailable(text: str, where: str, short: str) -> Unavailable:
    """Return why nothing came of a connection, as far as gRPC knows."""
    if "failed to connect" in text:
        for part, reason, what in _HANDSHAKES:
            if part in text:
                return Unavailable(reason, f"the server at {where} is not spoken to: {what}", metadata={"cause": short})
    return Unavailable("UNREACHABLE", f"no server answers at {where}: {_START}", metadata={"cause": short})


def _internal(error: BaseException) -> status_pb2.Status:
    """Log an error that is nobody's business and return what the caller may know of it."""
    log_id = new_id()
    _LOG.error("uncaught_exception", log_id=log_id, exc_info=error)
    status = status_pb2.Status(
        code=grpc.StatusCode.INTERNAL.value[0],
        message=f"an error inside the server; its log has it under {log_id}",
    )
    _attach(status, error_details_pb2.ErrorInfo(reason="INTERNAL", domain=DOMAIN, metadata={"log_id": log_id}))
    return status


def _attach(status: status_pb2.Status, detail: Message) -> None:
    """Add a detail unless the whole would no longer fit the trailers."""
    packed = status_pb2.Status(details=[])
    packed.details.add().Pack(detail)
    if status.ByteSize() + packed.ByteSize() <= limits.ERROR_DETAIL_BYTES:
        status.details.append(packed.details[0])


def _attach_violations(status: status_pb2.Status, violations: Iterable[FieldViolation]) -> None:
    """Add as many violations as fit, in order."""
    room = limits.ERROR_DETAIL_BYTES - status.ByteSize() - 128
    bad = error_details_pb2.BadRequest()
    for violation in violations:
        bad.field_violations.add(
            field=_cut(violation.field, _FIELD_BYTES), description=_cut(violation.description, 400)
        )
        if bad.ByteSize() > room:
            del bad.field_violations[-1]
            break
    _attach(status, bad)


def _details(error: FailedCall) -> status_pb2.Status | None:
    """Return the google.rpc.Status among the trailers; None where there is none or it cannot be read."""
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:
                return None
    return None


def _find(status: status_pb2.Status | None, kind: type[Detail]) -> Detail | None:
    """Return the first detail of a kind."""
    for packed in status.details if status is not None else ():
        detail = kind()
        if packed.Is(detail.DESCRIPTOR):
            try:
                packed.Unpack(detail)
            except DecodeError:
                return None
            return detail
    return None


def _cut(text: str, most_bytes: int) -> str:
    """Return the text within a number of UTF-8 bytes."""
    encoded = text.encode(errors="replace")
    if len(encoded) <= most_bytes:
        return encoded.decode()
    return encoded[: most_bytes - 3].decode(errors="ignore") + "…"
