"""The environment, read once into frozen values; nothing else reads it. Flags of a program come on top."""

import difflib
import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nasmesh.errors import Invalid

KNOWN = {
    "NASMESH_HOME": "directory for journal, objects and work of local programs [./.nasmesh]",
    "NASMESH_STORE": "URL of the object store: dir:PATH or s3://BUCKET?endpoint=HOST:PORT [dir:{home}/objects]",
    "NASMESH_STORE_CREDENTIALS": "file with keys for S3: access_key=, secret_key=, session_token= [AWS_* variables]",
    "NASMESH_STORE_CACHE": "directory with copies of what was read from S3 [{home}/cache/objects]",
    "NASMESH_STORE_CACHE_BYTES": "bytes that those copies may take; 0: none are kept [10 GiB]",
    "NASMESH_SCHEDULER": "HOST:PORT of the scheduler, for clients; several with commas [127.0.0.1:7400]",
    "NASMESH_JOURNAL": "the scheduler's journal: sqlite:PATH or postgresql://USER@HOST:PORT/DB [sqlite in {home}]",
    "NASMESH_DATA": "directory with data sets that are not bundled [{home}/data]",
    "NASMESH_LOG_LEVEL": "debug, info, warning or error [info]",
    "NASMESH_LOG_FORMAT": "json, console, or auto: console on a terminal, else json [auto]",
    "NASMESH_TLS_CERT": "certificate that servers show [none: plain text]",
    "NASMESH_TLS_KEY": "its key",
    "NASMESH_TLS_CA": "authority whose certificates servers ask callers for [none]",
    "NASMESH_TOKENS": "file with the tokens that servers ask callers for [none]",
    "NASMESH_CA_FILE": "authority of the servers that clients and agents call [none: plain text]",
    "NASMESH_CERT_FILE": "certificate that clients and agents show [none]",
    "NASMESH_KEY_FILE": "its key",
    "NASMESH_TOKEN_FILE": "file with the token that clients and agents show [none]",
    "NASMESH_METRICS": "HOST:PORT where a program serves metrics for Prometheus [none]",
    "NASMESH_TRACES": "where spans go: otlp:http://HOST:PORT or file:PATH [nowhere]",
    "NASMESH_TRACES_RATIO": "share of traces that are kept, 0 to 1; whoever starts a trace decides [1]",
    "NASMESH_GANG_LISTEN": "HOST:PORT where a train server meets others for one training over several [none]",
    "NASMESH_OPEN_SEARCHES": "scheduler: searches of one client that have not ended [20]",
    "NASMESH_QUEUED_NETWORKS": "scheduler: networks of one owner that wait or are in work [10000]",
    "NASMESH_WATCHES": "scheduler: searches that one client watches at once [5]",
    "NASMESH_CLIENT_RATE": "scheduler: calls a second of one client, and at once [10/40]",
    "NASMESH_AGENT_RATE": "scheduler: the same of one agent [500/2000]",
    "NASMESH_FAILPOINT": "tests only: where a program kills itself, as NAME:kill [none]",
}
LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("auto", "json", "console")
DEFAULT_SCHEDULER = "127.0.0.1:7400"
MOST_COUNT = 1_000_000
_NUMBER = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")


@dataclass(frozen=True, slots=True)
class Settings:
    """What the environment says, with defaults filled in."""

    home: Path
    store: str
    scheduler: str
    journal: str
    data: Path
    log_level: str
    log_format: str
    failpoint: str
    metrics: str = ""
    traces: str = ""
    traces_ratio: float = 1.0
    gang_listen: str = ""
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_ca: Path | None = None
    tokens: Path | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    token_file: Path | None = None
    store_credentials: Path | None = None
    store_cache: Path | None = None
    """Where copies of S3's objects are kept; None: nowhere."""
    store_cache_bytes: int | None = None
    """None: limits.STORE_CACHE_BYTES."""
    open_searches: int | None = None
    queued_networks: int | None = None
    watches: int | None = None
    client_rate: tuple[float, float] | None = None
    agent_rate: tuple[float, float] | None = None
    """Calls a second, and at once. None, as of those before it: what nasmesh/limits.py says."""


def read_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Return the settings of this process; raises Invalid (SETTING_UNKNOWN, SETTING_INVALID) naming the variable."""
    env = os.environ if environ is None else environ
    _refuse_unknown(env)
    root = home(env)
    scheduler = env.get("NASMESH_SCHEDULER") or DEFAULT_SCHEDULER
    parse_addresses(scheduler, field="NASMESH_SCHEDULER")
    return Settings(
        home=root,
        store=env.get("NASMESH_STORE") or f"dir:{root / 'objects'}",
        scheduler=scheduler,
        journal=env.get("NASMESH_JOURNAL") or f"sqlite:{root / 'journal.db'}",
        data=Path(env.get("NASMESH_DATA") or root / "data").expanduser().absolute(),
        log_level=_one_of(env, "NASMESH_LOG_LEVEL", LOG_LEVELS, "info"),
        log_format=_one_of(env, "NASMESH_LOG_FORMAT", LOG_FORMATS, "auto"),
        failpoint=env.get("NASMESH_FAILPOINT", ""),
        metrics=env.get("NASMESH_METRICS", ""),
        traces=env.get("NASMESH_TRACES", ""),
        traces_ratio=_share(env, "NASMESH_TRACES_RATIO"),
        gang_listen=env.get("NASMESH_GANG_LISTEN", ""),
        tls_cert=_file(env, "NASMESH_TLS_CERT"),
        tls_key=_file(env, "NASMESH_TLS_KEY"),
        tls_ca=_file(env, "NASMESH_TLS_CA"),
        tokens=_file(env, "NASMESH_TOKENS"),
        ca_file=_file(env, "NASMESH_CA_FILE"),
        cert_file=_file(env, "NASMESH_CERT_FILE"),
        key_file=_file(env, "NASMESH_KEY_FILE"),
        token_file=_file(env, "NASMESH_TOKEN_FILE"),
        store_credentials=_file(env, "NASMESH_STORE_CREDENTIALS"),
        store_cache=_file(env, "NASMESH_STORE_CACHE") or root / "cache" / "objects",
        store_cache_bytes=_bytes(env, "NASMESH_STORE_CACHE_BYTES"),
        open_searches=_count(env, "NASMESH_OPEN_SEARCHES"),
        queued_networks=_count(env, "NASMESH_QUEUED_NETWORKS"),
        watches=_count(env, "NASMESH_WATCHES"),
        client_rate=_rate(env, "NASMESH_CLIENT_RATE"),
        agent_rate=_rate(env, "NASMESH_AGENT_RATE"),
    )


def aws_keys(environ: Mapping[str, str] | None = None) -> tuple[str, str, str]:
    """Return access key, secret key and session token as AWS's own tools find them; empty where not set."""
    env = os.environ if environ is None else environ
    return env.get("AWS_ACCESS_KEY_ID", ""), env.get("AWS_SECRET_ACCESS_KEY", ""), env.get("AWS_SESSION_TOKEN", "")


def home(environ: Mapping[str, str] | None = None) -> Path:
    """Return the absolute directory of local state: NASMESH_HOME, or .nasmesh in the current directory."""
    env = os.environ if environ is None else environ
    return Path(env.get("NASMESH_HOME") or ".nasmesh").expanduser().absolute()


def parse_address(text: str, *, field: str = "address") -> tuple[str, int]:
    """Return (host, port) of "HOST:PORT" or "[IPV6]:PORT"; raises Invalid (ADDRESS_INVALID). Port 0 means any."""
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    plain = host[1:-1] if bracketed else host
    wrong = not colon or not plain or (":" in plain) != bracketed or any(c in plain for c in "/@[] \t\n")
    if wrong or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise Invalid(
            "ADDRESS_INVALID", f"{field}: {text[:80]!r} is not HOST:PORT, for example 127.0.0.1:7400", field=field
        )
    return plain, int(port)


def parse_addresses(text: str, *, field: str = "address") -> tuple[str, ...]:
    """Return the addresses of "HOST:PORT,HOST:PORT", each once: a scheduler and those that stand by for it.

    Raises Invalid (ADDRESS_INVALID).
    """
    found = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    for address in found:
        parse_address(address, field=field)
    return found


def format_address(host: str, port: int) -> str:
    """Return "HOST:PORT", with brackets around an IPv6 host."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Say whether an IP address can be reached from this machine only; names other than localhost are not trusted."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _refuse_unknown(env: Mapping[str, str]) -> None:
    """Raise on the first NASMESH_* variable that nothing reads: a misspelt setting must not be ignored in silence."""
    for name in sorted(env):
        if name.startswith("NASMESH_") and name not in KNOWN:
            near = difflib.get_close_matches(name, KNOWN, n=1, cutoff=0.0)
            raise Invalid("SETTING_UNKNOWN", f"{name}: no such setting; did you mean {near[0]}?", field=name)


def _file(env: Mapping[str, str], name: str) -> Path | None:
    """Return the path in a variable; None where it is not set."""
    return Path(env[name]).expanduser().absolute() if env.get(name) else None


def _one_of(env: Mapping[str, str], name: str, allowed: tuple[str, ...], default: str) -> str:
    """Return the lower-cased value of a variable with few values."""
    value = (env.get(name) or default).lower()
    if value not in allowed:
        raise Invalid("SETTING_INVALID", f"{name}: {value[:80]!r} is not one of {', '.join(allowed)}", field=name)
    return value


def _bytes(env: Mapping[str, str], name: str) -> int | None:
    """Return a whole number of bytes; None where the variable is not set."""
    text = env.get(name)
    if not text:
        return None
    if not (text.isascii() and text.isdigit()) or len(text) > 18:
        raise Invalid("SETTING_INVALID", f"{name}: {text[:80]!r} is not a whole number of bytes", field=name)
    return int(text)


def parse_count(text: str, *, field: str) -> int:
    """Return a whole number from 1 to a million; raises Invalid (SETTING_INVALID)."""
    if not (text.isascii() and text.isdigit()) or len(text) > 9 or not 1 <= int(text) <= MOST_COUNT:
        message = f"{field}: {text[:80]!r} is not a whole number from 1 to {MOST_COUNT:,}"
        raise Invalid("SETTING_INVALID", message, field=field)
    return int(text)


def parse_rate(text: str, *, field: str) -> tuple[float, float]:
    """Return calls a second and at once of "CALLS/BURST"; raises Invalid (SETTING_INVALID)."""
    found = [float(part) if _NUMBER.fullmatch(part) else 0.0 for part in text.split("/")]
    if len(found) != 2 or not 0 < found[0] <= MOST_COUNT or not 1 <= found[1] <= MOST_COUNT:
        raise Invalid(
            "SETTING_INVALID",
            f"{field}: {text[:80]!r} is not CALLS/BURST, calls a second and at once, for example 10/40;"
            f" each above 0, the burst at least 1, at most {MOST_COUNT:,}",
            field=field,
        )
    return found[0], found[1]


def _count(env: Mapping[str, str], name: str) -> int | None:
    """Return a whole number; None where the variable is not set."""
    return parse_count(env[name], field=name) if env.get(name) else None


def _rate(env: Mapping[str, str], name: str) -> tuple[float, float] | None:
    """Return a rate of calls; None where the variable is not set."""
    return parse_rate(env[name], field=name) if env.get(name) else None


def _share(env: Mapping[str, str], name: str) -> float:
    """Return a number from 0 to 1; 1 where the variable is not set."""
    text = env.get(name) or "1"
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 1.0:
        raise Invalid("SETTING_INVALID", f"{name}: {text[:80]!r} is not a number from 0 to 1", field=name)
    return value
