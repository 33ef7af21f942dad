"""The environment and addresses."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nasmesh.errors import Invalid
from nasmesh.settings import KNOWN, format_address, home, parse_address, read_settings


def test_empty_environment_gives_defaults_below_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = read_settings({})
    assert settings.home == tmp_path / ".nasmesh"
    assert settings.store == f"dir:{tmp_path}/.nasmesh/objects"
    assert settings.journal == f"sqlite:{tmp_path}/.nasmesh/journal.db"
    assert settings.data == tmp_path / ".nasmesh" / "data"
    assert (settings.scheduler, settings.log_level, settings.log_format) == ("127.0.0.1:7400", "info", "auto")
    assert settings.failpoint == ""


ACCESS = {
    f"NASMESH_{name}": f"/access/{name.lower()}"
    for name in (
        "TLS_CERT",
        "TLS_KEY",
        "TLS_CA",
        "TOKENS",
        "CA_FILE",
        "CERT_FILE",
        "KEY_FILE",
        "TOKEN_FILE",
        "STORE_CREDENTIALS",
    )
}


def test_every_known_variable_is_read() -> None:
    given_values = {
        "NASMESH_HOME": "/h",
        "NASMESH_STORE": "memory:",
        "NASMESH_STORE_CACHE": "/c",
        "NASMESH_STORE_CACHE_BYTES": "5000",
        "NASMESH_SCHEDULER": "10.0.0.1:7400",
        "NASMESH_JOURNAL": "memory:",
        "NASMESH_DATA": "/d",
        "NASMESH_LOG_LEVEL": "DEBUG",
        "NASMESH_LOG_FORMAT": "json",
        "NASMESH_METRICS": "127.0.0.1:9400",
        "NASMESH_TRACES": "file:/t",
        "NASMESH_TRACES_RATIO": "0.25",
        "NASMESH_GANG_LISTEN": "127.0.0.1:7403",
        "NASMESH_OPEN_SEARCHES": "3",
        "NASMESH_QUEUED_NETWORKS": "1000000",
        "NASMESH_WATCHES": "7",
        "NASMESH_CLIENT_RATE": "0.5/1",
        "NASMESH_AGENT_RATE": "900/3000",
        "NASMESH_FAILPOINT": "after_commit:kill",
        **ACCESS,
    }
    assert set(given_values) == set(KNOWN)
    settings = read_settings(given_values)
    assert (settings.home, settings.store, settings.data) == (Path("/h"), "memory:", Path("/d"))
    assert (settings.store_cache, settings.store_cache_bytes) == (Path("/c"), 5000)
    assert (settings.scheduler, settings.journal) == ("10.0.0.1:7400", "memory:")
    assert (settings.log_level, settings.log_format) == ("debug", "json")
    assert (settings.metrics, settings.traces, settings.traces_ratio) == ("127.0.0.1:9400", "file:/t", 0.25)
    assert (settings.failpoint, settings.gang_listen) == ("after_commit:kill", "127.0.0.1:7403")
    assert (settings.open_searches, settings.queued_networks, settings.watches) == (3, 1_000_000, 7)
    assert (settings.client_rate, settings.agent_rate) == ((0.5, 1.0), (900.0, 3000.0))
    for name, path in ACCESS.items():
        assert getattr(settings, name.removeprefix("NASMESH_").lower()) == Path(path)


def test_empty_variables_count_as_unset() -> None:
    assert read_settings(dict.fromkeys(KNOWN, "")) == read_settings({})


@pytest.mark.parametrize(
    ("wrong", "meant"), [("NASMESH_STOER", "NASMESH_STORE"), ("NASMESH_LOGLEVEL", "NASMESH_LOG_LEVEL")]
)
def test_misspelt_variable_is_refused_naming_the_nearest(wrong: str, meant: str) -> None:
    with pytest.raises(Invalid, match=f"did you mean {meant}") as caught:
        read_settings({wrong: "x"})
    assert (caught.value.reason, caught.value.field) == ("SETTING_UNKNOWN", wrong)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NASMESH_LOG_LEVEL", "loud"),
        ("NASMESH_LOG_FORMAT", "xml"),
        ("NASMESH_SCHEDULER", "nowhere"),
        ("NASMESH_TRACES_RATIO", "2"),
    ],
)
def test_wrong_value_is_refused_naming_the_variable(name: str, value: str) -> None:
    with pytest.raises(Invalid, match=name) as caught:
        read_settings({name: value})
    assert caught.value.field == name


def test_home_is_absolute_and_expands_the_users_directory() -> None:
    assert home({"NASMESH_HOME": "x"}).is_absolute()
    assert "~" not in str(home({"NASMESH_HOME": "~/x"}))


@given(st.sampled_from(["127.0.0.1", "localhost", "::1", "gpu-3.example"]), st.integers(0, 65535))
def test_parse_of_format_is_the_identity(host: str, port: int) -> None:
    assert parse_address(format_address(host, port)) == (host, port)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "7400",
        ":7400",
        "h:",
        "h:x",
        "h:65536",
        "h:-1",
        "::1:7400",
        "[h]:1",
        "[::1]",
        "http://h:1",
        "h:1 ",
        "h:١",
    ],
)
def test_other_addresses_are_refused_with_an_example(text: str) -> None:
    with pytest.raises(Invalid, match=r"127\.0\.0\.1:7400") as caught:
        parse_address(text, field="listen")
    assert (caught.value.reason, caught.value.field) == ("ADDRESS_INVALID", "listen")
