"""Log lines: what they carry, what they never carry, and how long they may be."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from nasmesh import limits, logs
from nasmesh.settings import Settings, read_settings
from nasmesh.v1 import object_pb2


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Leave no bound field behind."""
    structlog.contextvars.clear_contextvars()
    yield
    structlog.contextvars.clear_contextvars()


def settings(**variables: str) -> Settings:
    return read_settings({f"NASMESH_{name}": value for name, value in variables.items()})


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.fixture
def stream() -> io.StringIO:
    target = io.StringIO()
    logs.configure("train", settings=settings(LOG_LEVEL="debug"), stream=target)
    return target


def test_a_pipe_gets_json_with_event_program_level_and_time(stream: io.StringIO) -> None:
    logs.get_logger("jobs").info("job_started", job="t-1", seconds=1.5, ok=True, nothing=None)
    (line,) = lines(stream)
    assert next(iter(line)) == "event"
    assert (line["event"], line["program"], line["level"], line["part"]) == ("job_started", "train", "info", "jobs")
    assert (line["job"], line["seconds"], line["ok"], line["nothing"]) == ("t-1", 1.5, True, None)
    assert str(line["timestamp"]).endswith("Z")


def test_a_terminal_gets_text_with_colours() -> None:
    target = Terminal()
    logs.configure("train", settings=settings(), stream=target)
    logs.get_logger("jobs").warning("job_lost", job="t-1")
    assert "job_lost" in target.getvalue()
    assert "\x1b[" in target.getvalue()


def test_console_format_in_a_pipe_has_no_colours() -> None:
    target = io.StringIO()
    logs.configure("train", settings=settings(LOG_FORMAT="console"), stream=target)
    logs.get_logger("jobs").warning("job_lost", job="t-1")
    assert "job_lost" in target.getvalue()
    assert "\x1b[" not in target.getvalue()


def test_json_format_on_a_terminal_is_json() -> None:
    target = Terminal()
    logs.configure("train", settings=settings(LOG_FORMAT="json"), stream=target)
    logs.get_logger("jobs").warning("job_lost")
    assert lines(target)[0]["event"] == "job_lost"


def test_level_below_the_setting_is_silent() -> None:
    target = io.StringIO()
    logs.configure("train", settings=settings(LOG_LEVEL="error"), stream=target)
    logs.get_logger("jobs").warning("job_lost")
    assert target.getvalue() == ""


def test_a_logger_made_before_configure_follows_it() -> None:
    early = logs.get_logger("jobs")
    target = io.StringIO()
    logs.configure("train", settings=settings(), stream=target)
    early.info("hello")
    assert lines(target)[0]["program"] == "train"


def test_bound_fields_are_on_every_line_until_the_block_ends(stream: io.StringIO) -> None:
    logger = logs.get_logger("jobs")
    logs.bind(epoch=3)
    with logs.bind(search="s", task="t-1", attempt=2):
        with logs.bind(task="t-2", trial=None):
            logger.info("inner")
        logger.info("outer")
    logger.info("after")
    inner, outer, after = lines(stream)
    assert (inner["search"], inner["task"], inner["attempt"], inner["epoch"]) == ("s", "t-2", 2, 3)
    assert "trial" not in inner
    assert outer["task"] == "t-1"
    assert after["epoch"] == 3
    assert "task" not in after


@pytest.mark.parametrize("name", ["token", "api_key", "PASSWORD", "client_secret", "authorization", "private_key"])
def test_fields_named_like_secrets_are_hidden(stream: io.StringIO, name: str) -> None:
    logs.get_logger("rpc").info("call", **{name: "hunter2hunter2"})
    assert "hunter2" not in stream.getvalue()


@pytest.mark.parametrize(
    "value",
    ["Bearer abcdefgh12345678", "postgres://user:hunter2@db/x", "-----BEGIN PRIVATE KEY-----\nabcdefgh12345678"],
)
def test_values_shaped_like_secrets_are_hidden(stream: io.StringIO, value: str) -> None:
    logs.get_logger("rpc").info("call", header=f"x {value}")
    assert "abcdefgh" not in stream.getvalue()
    assert "hunter2" not in stream.getvalue()


def test_payloads_are_logged_by_size(stream: io.StringIO) -> None:
    ref = object_pb2.ObjectRef(key="networks/private")
    logs.get_logger("rpc").info("call", content=b"secret bytes", message=ref)
    (line,) = lines(stream)
    assert line["content"] == "<12 bytes>"
    assert line["message"] == f"<ObjectRef, {ref.ByteSize()} bytes>"


@pytest.mark.parametrize("text", ["x" * 100_000, "é" * 100_000, '"\\\n' * 30_000])
def test_long_lines_are_cut_and_stay_json(stream: io.StringIO, text: str) -> None:
    logs.get_logger("rpc").info("long", **{f"field_{i}": text for i in range(40)})
    (line,) = lines(stream)
    assert len(stream.getvalue().encode()) <= limits.LOG_LINE_BYTES
    assert line["event"] == "long"
    assert line["truncated"] is True


def test_too_many_fields_still_make_one_short_line(stream: io.StringIO) -> None:
    logs.get_logger("rpc").info("wide", **{f"field_{i}": i for i in range(5000)})
    (line,) = lines(stream)
    assert line == {"event": "wide", "level": "info", "truncated": True}


def test_long_console_lines_are_cut() -> None:
    target = io.StringIO()
    logs.configure("train", settings=settings(LOG_FORMAT="console"), stream=target)
    logs.get_logger("rpc").info("long", **{f"field_{i}": "é" * 1000 for i in range(40)})
    assert len(target.getvalue().encode()) <= limits.LOG_LINE_BYTES


def test_exceptions_are_logged_with_their_trace(stream: io.StringIO) -> None:
    try:
        raise ValueError("why")
    except ValueError as error:
        logs.get_logger("rpc").error("failed", exc_info=error)
    assert "ValueError: why" in str(lines(stream)[0]["exception"])


def test_libraries_use_the_same_stream_and_form(stream: io.StringIO) -> None:
    logging.getLogger("grpc._server").warning("odd %s", "thing")
    logging.getLogger("grpc._server").debug("chatter")
    (line,) = lines(stream)
    assert (line["event"], line["part"], line["text"]) == ("library_log", "grpc._server", "odd thing")


def test_without_configure_nothing_goes_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    structlog.reset_defaults()
    logger = logs.get_logger("script")
    logger.info("quiet")
    logger.warning("heard")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "quiet" not in captured.err
    assert "heard" in captured.err
