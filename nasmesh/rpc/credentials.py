"""Credentials of gRPC from the files that a program was given, each checked first. Imported only where there is TLS.

Files are read again when they change: servers present a renewed certificate from the next connection on, clients when
they connect anew, tokens with the next call.
"""

import threading
from pathlib import Path
from typing import Any

import grpc

from nasmesh.clock import SystemClock
from nasmesh.errors import Invalid
from nasmesh.logs import get_logger
from nasmesh.rpc.access import ClientAccess, ServerAccess
from nasmesh.rpc.certificates import Certificate, check_authority, check_pair, parse_certificates
from nasmesh.rpc.secret_files import Stamp, read_public, read_secret, stamp
from nasmesh.rpc.tokens import check_text, split_file

_log = get_logger("credentials")


def server_credentials(access: ServerAccess) -> grpc.ServerCredentials:
    """Return credentials that follow the files; raises Invalid for a file that is wrong, naming the flag."""
    source = _ServerFiles(access)
    return grpc.dynamic_ssl_server_credentials(source.first, source.current, access.ca is not None)


def channel_credentials(access: ClientAccess) -> grpc.ChannelCredentials:
    """Return credentials of a channel; raises Invalid for a file that is wrong, naming the flag."""
    now = SystemClock().wall()
    roots = _roots(access, now)
    key = chain = None
    if access.cert is not None and access.key is not None:
        chain, key, facts = _pair(access.cert, access.key, ("cert-file", "key-file"), now)
        if not facts.calls:
            raise _wrong_role(facts, access.cert, "cert-file", "callers need an agent's, client's or admin's")
    found = grpc.ssl_channel_credentials(roots, key, chain)
    if access.token is None:
        return found
    bearer = _Bearer(access.token)
    bearer.text()
    return grpc.composite_channel_credentials(found, grpc.metadata_call_credentials(bearer))


def _roots(access: ClientAccess, now: float) -> bytes:
    """Return the servers' authority: from its own file, or from the token's."""
    if access.ca is not None:
        return _authority(read_public(access.ca, field="ca-file"), "ca-file", now)
    if access.token is None:
        raise Invalid("AUTHORITY_MISSING", "ca-file: TLS needs the servers' authority; add --ca-file", field="ca-file")
    authority = split_file(read_secret(access.token, field="token-file")).authority
    if not authority:
        raise Invalid(
            "TOKEN_PLAINTEXT",
            "token-file: a token is sent over TLS only, and its file holds no authority; add --ca-file, or have the "
            "file made by `nasmesh token create --ca`",
            field="token-file",
        )
    return _authority(authority, "token-file", now)


class _Bearer(grpc.AuthMetadataPlugin):
    """Shows the token in a file, as it stands when a call begins. gRPC asks for it on connections with TLS only."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: Stamp | None = None
        self._text = ""

    def text(self) -> str:
        """Return the token; raises Invalid for a file that is wrong."""
        now = stamp(self._path)
        if now != self._stamp:
            raw = split_file(read_secret(self._path, field="token-file")).token
            self._text = check_text(raw, field="token-file")
            self._stamp = now
        return self._text

    def __call__(self, context: grpc.AuthMetadataContext, callback: Any) -> None:  # noqa: ARG002 - gRPC's
        """Give gRPC the header."""
        try:
            callback((("authorization", f"Bearer {self.text()}"),), None)
        except Invalid as error:
            callback((), error)


class _ServerFiles:
    """A server's pair and authority as they stand on disk. gRPC asks before each handshake, on threads of its own."""

    def __init__(self, access: ServerAccess) -> None:
        self._access = access
        self._lock = threading.Lock()
        self._stamps = self._look()
        self.first = self._load()

    def current(self) -> Any:
        """Return the configuration if the files have changed and are right, else None: go on with the one before."""
        with self._lock:
            now = self._look()
            if now == self._stamps:
                return None
            self._stamps = now
            try:
                found = self._load()
            except Invalid as error:
                _log.error("certificate_not_reloaded", reason=error.reason, text=error.message)
                return None
            _log.info("certificate_reloaded", cert=str(self._access.cert))
            return found

    def _look(self) -> tuple[Stamp, ...]:
        access = self._access
        return tuple(stamp(path) for path in (access.cert, access.key, access.ca) if path is not None)

    def _load(self) -> Any:
        access = self._access
        if access.cert is None or access.key is None:
            raise Invalid("CERTIFICATE_MISSING", "tls-cert: TLS needs a certificate and its key", field="tls-cert")
        now = SystemClock().wall()
        chain, key, facts = _pair(access.cert, access.key, ("tls-cert", "tls-key"), now)
        if not facts.serves:
            raise _wrong_role(facts, access.cert, "tls-cert", "servers need one of role server")
        roots = None
        if access.ca is not None:
            roots = _authority(read_public(access.ca, field="tls-ca"), "tls-ca", now)
        return grpc.ssl_server_certificate_configuration([(key, chain)], root_certificates=roots)


def _pair(cert: Path, key: Path, fields: tuple[str, str], now: float) -> tuple[bytes, bytes, Certificate]:
    """Return a pair's files as they are, and what the certificate says, checked."""
    chain = read_public(cert, field=fields[0])
    facts = parse_certificates(chain, field=fields[0])[0]
    facts.check_time(now, field=fields[0])
    secret = read_secret(key, field=fields[1])
    check_pair(facts, secret, field=fields[1])
    return chain, secret, facts


def _wrong_role(facts: Certificate, path: Path, field: str, wanted: str) -> Invalid:
    whose = facts.role or ("client" if facts.calls else "server" if facts.serves else "stranger")
    return Invalid("CERTIFICATE_ROLE", f"{field}: {path} is a {whose}'s; {wanted}", field=field)


def _authority(pem: bytes, field: str, now: float) -> bytes:
    """Return the authorities in a file's content, checked."""
    for facts in parse_certificates(pem, field=field):
        check_authority(facts, field=field)
        facts.check_time(now, field=field)
    return pem
