"""What both servers and channels tell gRPC, and where plaintext is allowed."""

from dataclasses import dataclass

from nasmesh import limits
from nasmesh.errors import Invalid
from nasmesh.settings import format_address, is_loopback, parse_address

Options = list[tuple[str, int]]

_MESSAGES: Options = [
    ("grpc.max_send_message_length", limits.MESSAGE_BYTES),
    ("grpc.max_receive_message_length", limits.MESSAGE_BYTES),
]

CHANNEL: Options = [
    *_MESSAGES,
    ("grpc.keepalive_time_ms", limits.KEEPALIVE_S * 1000),
    ("grpc.keepalive_timeout_ms", limits.KEEPALIVE_TIMEOUT_S * 1000),
    ("grpc.keepalive_permit_without_calls", 0),
    # 0: no limit on pings while a stream is silent; without it core stops pinging after two.
    ("grpc.http2.max_pings_without_data", 0),
    # Retry loops wait at most a few seconds for a server that has just come back.
    ("grpc.max_reconnect_backoff_ms", 5_000),
    ("grpc.enable_retries", 0),
]

HURRIED_S = 2
"""How long a connection may take to come about where there are other addresses to try; gRPC's own is 20 s."""
HURRIED: Options = [("grpc.min_reconnect_backoff_ms", HURRIED_S * 1000)]

_SERVER: Options = [
    *_MESSAGES,
    # Between the two gRPC refuses at random, the more often the larger; one number is easier to understand.
    ("grpc.max_metadata_size", limits.METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", limits.METADATA_BYTES),
    ("grpc.max_concurrent_streams", limits.STREAMS_A_CONNECTION),
    # Linux lets two servers share a port unless told otherwise; the second would steal half of the first's calls.
    ("grpc.so_reuseport", 0),
    ("grpc.keepalive_time_ms", limits.KEEPALIVE_S * 1000),
    ("grpc.keepalive_timeout_ms", limits.KEEPALIVE_TIMEOUT_S * 1000),
    ("grpc.http2.min_ping_interval_without_data_ms", limits.KEEPALIVE_PERMITTED_S * 1000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.server.max_pending_requests", limits.PENDING_CALLS),
    ("grpc.server.max_pending_requests_hard_limit", limits.PENDING_CALLS),
]


@dataclass(frozen=True, slots=True)
class Connections:
    """How many connections a server keeps, and how long. Times are in seconds."""

    most: int = limits.CONNECTIONS
    handshake_s: float = limits.HANDSHAKE_S
    idle_s: float = limits.CONNECTION_IDLE_S
    age_s: float = limits.CONNECTION_AGE_S
    age_grace_s: float = limits.CONNECTION_AGE_GRACE_S


def server_options(connections: Connections) -> Options:
    """Return the options of a server."""
    return [
        *_SERVER,
        ("grpc.max_allowed_incoming_connections", connections.most),
        ("grpc.server_handshake_timeout_ms", round(connections.handshake_s * 1000)),
        ("grpc.max_connection_idle_ms", round(connections.idle_s * 1000)),
        ("grpc.max_connection_age_ms", round(connections.age_s * 1000)),
        ("grpc.max_connection_age_grace_ms", round(connections.age_grace_s * 1000)),
    ]


def tls_address(address: str, *, field: str) -> str:
    """Return the address to bind or dial with TLS; "localhost" becomes 127.0.0.1, as in plaintext_address."""
    host, port = parse_address(address, field=field)
    return format_address("127.0.0.1" if host == "localhost" else host, port)


def plaintext_address(address: str, *, insecure: bool, reason: str, field: str) -> str:
    """Return the address to bind or dial without TLS; raises Invalid with `reason` for one beyond this machine.

    "localhost" becomes 127.0.0.1: it names two addresses, and gRPC is content with binding either of them.
    """
    host, port = parse_address(address, field=field)
    if host == "localhost":
        host = "127.0.0.1"
    tls = {"listen": "--tls-cert for TLS, ", "metrics": f"open:{address}, ", "gang-listen": ""}.get(
        field, "--ca-file for TLS, "
    )
    if not insecure and not is_loopback(host):
        raise Invalid(
            reason,
            f"{field}: {address} is reachable from other machines and this connection has no TLS; "
            f"use 127.0.0.1, {tls}or --insecure on a network that you trust",
            field=field,
        )
    return format_address(host, port)


def channel_options(target: str) -> Options:
    """Return the options of a channel; a proxy that the environment names is not asked for this machine's own ports."""
    here = is_loopback(parse_address(target)[0])
    return [*CHANNEL, ("grpc.enable_http_proxy", 0)] if here else CHANNEL
