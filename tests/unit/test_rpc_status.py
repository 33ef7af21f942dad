"""Every domain error crosses the wire and comes back as itself; nothing else tells the peer anything."""

import io
import json

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status
from hypothesis import given
from hypothesis import strategies as st

from nasmesh import limits, logs
from nasmesh.errors import (
    Busy,
    Compacted,
    Denied,
    FieldViolation,
    Invalid,
    NasmeshError,
    NotFound,
    Rejected,
    Stale,
    Unauthenticated,
    Unavailable,
)
from nasmesh.rpc.status import CODES, DETAILS_KEY, from_rpc_error, to_rpc_status
from nasmesh.settings import read_settings


class FailedCall(grpc.RpcError):
    """What a stub raises, without a server."""

    def __init__(self, code: grpc.StatusCode, details: str | None = None, trailers: tuple = ()) -> None:
        super().__init__()
        self._code, self._details, self._trailers = code, details, trailers

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str | None:
        return self._details

    def trailing_metadata(self) -> tuple:
        return self._trailers


def over_the_wire(error: BaseException) -> NasmeshError:
    """Return what a caller makes of an error that a servicer raised."""
    sent = rpc_status.to_status(to_rpc_status(error))
    return from_rpc_error(FailedCall(sent.code, sent.details, sent.trailing_metadata))


def every_error() -> list[type[NasmeshError]]:
    found: list[type[NasmeshError]] = [NasmeshError]
    for kind in found:
        found.extend(kind.__subclasses__())
    return found


@pytest.mark.parametrize("kind", every_error())
def test_every_error_has_a_code_and_comes_back_as_itself(kind: type[NasmeshError]) -> None:
    assert kind in CODES
    back = over_the_wire(kind("SOME_REASON", "what happened", field="spec.x", metadata={"task": "t-1"}))
    assert type(back) is kind
    assert (back.reason, back.message, back.field) == ("SOME_REASON", "what happened", "spec.x")
    assert back.metadata == {"task": "t-1"}


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (Invalid, "INVALID_ARGUMENT"),
        (Rejected, "INVALID_ARGUMENT"),
        (Stale, "FAILED_PRECONDITION"),
        (Compacted, "OUT_OF_RANGE"),
        (Busy, "RESOURCE_EXHAUSTED"),
        (Unavailable, "UNAVAILABLE"),
        (Denied, "PERMISSION_DENIED"),
        (Unauthenticated, "UNAUTHENTICATED"),
        (NasmeshError, "INTERNAL"),
    ],
)
def test_codes_are_those_of_the_contract(kind: type[NasmeshError], code: str) -> None:
    assert to_rpc_status(kind("R", "m")).code == grpc.StatusCode[code].value[0]


def test_an_error_below_a_domain_error_travels_as_its_base() -> None:
    class Narrow(NotFound):
        pass

    assert type(over_the_wire(Narrow("ATTEMPT_UNKNOWN", "gone"))) is NotFound


def test_details_are_the_standard_ones() -> None:
    status = to_rpc_status(Busy("NO_SLOT", "full", retry_after_s=2.5))
    names = [packed.TypeName() for packed in status.details]
    assert names == ["google.rpc.ErrorInfo", "google.rpc.RetryInfo"]
    info = error_details_pb2.ErrorInfo()
    status.details[0].Unpack(info)
    assert (info.reason, info.domain) == ("NO_SLOT", "nasmesh")
    back = over_the_wire(Busy("NO_SLOT", "full", retry_after_s=2.5))
    assert isinstance(back, Busy)
    assert back.retry_after_s == 2.5


def test_violations_come_back_in_order() -> None:
    violations = (FieldViolation("budget.trials", "is negative"), FieldViolation("objectives[0].metric", "unknown"))
    back = over_the_wire(Invalid("SPEC_INVALID", "2 fields are wrong", violations=violations))
    assert isinstance(back, Invalid)
    assert back.violations == violations


@given(st.text(max_size=5000), st.lists(st.text(max_size=2000), max_size=30), st.text(max_size=3000))
def test_any_error_fits_the_trailers_and_keeps_its_reason(message: str, fields: list[str], value: str) -> None:
    violations = [FieldViolation(text, text) for text in fields]
    error = Invalid("SPEC_INVALID", message, violations=violations, metadata={"k": value[:1500]})
    status = to_rpc_status(error)
    assert len(status.message.encode()) <= limits.ERROR_TEXT_BYTES
    assert status.ByteSize() <= limits.ERROR_DETAIL_BYTES
    back = over_the_wire(error)
    assert isinstance(back, Invalid)
    assert back.reason == "SPEC_INVALID"


def test_as_many_violations_as_fit_are_kept() -> None:
    violations = [FieldViolation(f"field_{i}", "x" * 100) for i in range(500)]
    back = over_the_wire(Invalid("SPEC_INVALID", "many", violations=violations))
    assert isinstance(back, Invalid)
    assert 5 < len(back.violations) < 500
    assert back.violations[0] == violations[0]


def test_metadata_that_does_not_fit_is_left_out_but_the_reason_stays() -> None:
    back = over_the_wire(Stale("ATTEMPT_SUPERSEDED", "stop", metadata={"huge": "x" * 10_000}))
    assert (type(back), back.reason, back.metadata) == (Stale, "ATTEMPT_SUPERSEDED", {})


@pytest.mark.parametrize("error", [ValueError("password=hunter2"), KeyError("hunter2"), MemoryError(), SystemExit("x")])
def test_other_exceptions_tell_the_peer_only_where_the_log_has_them(error: BaseException) -> None:
    stream = io.StringIO()
    logs.configure("test", settings=read_settings({}), stream=stream)
    status = to_rpc_status(error)
    assert status.code == grpc.StatusCode.INTERNAL.value[0]
    assert b"hunter2" not in status.SerializeToString()
    line = json.loads(stream.getvalue())
    assert line["event"] == "uncaught_exception"
    assert line["log_id"] in status.message
    assert type(error).__name__ in line["exception"]


# --- statuses that no server of ours made -------------------------------------------------------------------


def test_connection_refused_says_where_and_what_to_start() -> None:
    text = "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:7400: Connection refused"
    back = from_rpc_error(FailedCall(grpc.StatusCode.UNAVAILABLE, text))
    assert (type(back), back.reason) == (Unavailable, "UNREACHABLE")
    assert "127.0.0.1:7400" in back.message
    assert "nasmesh up" in back.message


def test_the_address_dialled_is_preferred_to_the_one_in_the_text() -> None:
    back = from_rpc_error(FailedCall(grpc.StatusCode.UNAVAILABLE, "ipv4:10.0.0.1:1: x"), address="gpu-3:7402")
    assert "gpu-3:7402" in back.message
    assert "10.0.0.1" not in back.message


@pytest.mark.parametrize(
    ("code", "text", "kind", "reason"),
    [
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", Unavailable, "DEADLINE_EXCEEDED"),
        ("CANCELLED", "Locally cancelled", Unavailable, "CALL_CANCELLED"),
        ("ABORTED", "conflict", Unavailable, "ABORTED"),
        ("UNIMPLEMENTED", "Method not found!", Invalid, "METHOD_UNKNOWN"),
        ("RESOURCE_EXHAUSTED", "Received message larger than max (5 vs. 4)", Invalid, "MESSAGE_TOO_LARGE"),
        ("RESOURCE_EXHAUSTED", "Concurrent RPC limit exceeded!", Busy, "TOO_MANY_CALLS"),
        ("INTERNAL", "boom", NasmeshError, "SERVER_FAILED"),
        ("UNKNOWN", "", NasmeshError, "SERVER_FAILED"),
        ("NOT_FOUND", "no such thing", NotFound, "NOT_FOUND"),
        ("PERMISSION_DENIED", "", Denied, "PERMISSION_DENIED"),
    ],
)
def test_plain_statuses_become_readable_errors(code: str, text: str, kind: type[NasmeshError], reason: str) -> None:
    back = from_rpc_error(FailedCall(grpc.StatusCode[code], text))
    assert (type(back), back.reason) == (kind, reason)
    assert " " in back.message


@pytest.mark.parametrize("code", list(grpc.StatusCode))
def test_every_code_becomes_some_error(code: grpc.StatusCode) -> None:
    assert isinstance(from_rpc_error(FailedCall(code)), NasmeshError)


def test_details_of_another_domain_do_not_pass_as_ours() -> None:
    status = status_pb2.Status(code=5, message="nope")
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="FOREIGN", domain="example.com"))
    trailers = ((DETAILS_KEY, status.SerializeToString()),)
    back = from_rpc_error(FailedCall(grpc.StatusCode.NOT_FOUND, "nope", trailers))
    assert (type(back), back.reason) == (NotFound, "NOT_FOUND")


@pytest.mark.parametrize("garbage", [b"\xff\xff\xff", b"", b"\x12\x03abc"])
def test_unreadable_details_are_ignored(garbage: bytes) -> None:
    back = from_rpc_error(FailedCall(grpc.StatusCode.NOT_FOUND, "nope", ((DETAILS_KEY, garbage),)))
    assert (type(back), back.message) == (NotFound, "nope")


def test_a_detail_that_does_not_unpack_is_ignored() -> None:
    status = status_pb2.Status(code=5)
    packed = status.details.add()
    packed.type_url, packed.value = "type.googleapis.com/google.rpc.ErrorInfo", b"\xff\xff"
    trailers = ((DETAILS_KEY, status.SerializeToString()),)
    assert type(from_rpc_error(FailedCall(grpc.StatusCode.NOT_FOUND, "nope", trailers))) is NotFound


def test_an_unknown_class_name_from_a_peer_falls_back_to_the_code() -> None:
    status = to_rpc_status(Rejected("OP_NOT_ALLOWED", "no"))
    info = error_details_pb2.ErrorInfo()
    status.details[0].Unpack(info)
    info.metadata["error"] = "Denied"
    status.details[0].Pack(info)
    trailers = ((DETAILS_KEY, status.SerializeToString()),)
    assert type(from_rpc_error(FailedCall(grpc.StatusCode.INVALID_ARGUMENT, "no", trailers))) is Invalid


def test_a_bare_rpc_error_is_still_an_error_of_ours() -> None:
    assert from_rpc_error(grpc.RpcError("odd")).reason == "RPC_FAILED"
