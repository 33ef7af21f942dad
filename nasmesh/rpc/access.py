"""What a program is given to be known by and to know others by: paths from flags over environment, nothing read yet."""

import argparse
from dataclasses import dataclass
from pathlib import Path

from nasmesh.errors import Invalid
from nasmesh.settings import Settings

ACCESS_VARIABLES = frozenset(
    f"NASMESH_{name}"
    for name in ("TLS_CERT", "TLS_KEY", "TLS_CA", "TOKENS", "CA_FILE", "CERT_FILE", "KEY_FILE", "TOKEN_FILE")
)
"""The environment's names for all of it."""
CALLER_FILES = frozenset(("ca-file", "cert-file", "key-file", "token-file"))
"""The fields of what is wrong with a file of ClientAccess."""


def _flags(*pairs: tuple[str, Path | None]) -> tuple[str, ...]:
    return tuple(text for flag, path in pairs if path is not None for text in (flag, str(path.absolute())))


def _check_halves(cert: Path | None, key: Path | None, cert_field: str, key_field: str) -> None:
    if cert is not None and key is None:
        raise Invalid("KEY_MISSING", f"{key_field}: --{cert_field} needs its key; add --{key_field}", field=key_field)
    if key is not None and cert is None:
        raise Invalid(
            "CERTIFICATE_MISSING",
            f"{cert_field}: --{key_field} needs its certificate; add --{cert_field}",
            field=cert_field,
        )


@dataclass(frozen=True, slots=True)
class ServerAccess:
    """What a server shows and asks for.

    With `cert` and `key` it speaks TLS only. With `ca` it asks everybody for a certificate of that authority, with
    `tokens` everybody for a token in that file; with both for both, and they must name the same caller.
    """

    cert: Path | None = None
    key: Path | None = None
    ca: Path | None = None
    tokens: Path | None = None

    def __post_init__(self) -> None:
        """Raise Invalid (KEY_MISSING, CERTIFICATE_MISSING, TOKENS_PLAINTEXT) for a set that makes no sense."""
        _check_halves(self.cert, self.key, "tls-cert", "tls-key")
        if self.ca is not None and self.cert is None:
            raise Invalid(
                "CERTIFICATE_MISSING",
                "tls-ca: callers can be asked for certificates only with TLS; add --tls-cert and --tls-key",
                field="tls-cert",
            )
        if self.tokens is not None and self.cert is None:
            raise Invalid(
                "TOKENS_PLAINTEXT", "tokens: tokens travel over TLS only; add --tls-cert and --tls-key", field="tokens"
            )

    @property
    def has_tls(self) -> bool:
        """Whether it speaks TLS."""
        return self.cert is not None

    def flags(self) -> tuple[str, ...]:
        """Return the flags that say this to another program."""
        return _flags(
            ("--tls-cert", self.cert), ("--tls-key", self.key), ("--tls-ca", self.ca), ("--tokens", self.tokens)
        )

    @property
    def asks_identity(self) -> bool:
        """Whether callers must say who they are."""
        return self.ca is not None or self.tokens is not None


@dataclass(frozen=True, slots=True)
class ClientAccess:
    """What a caller trusts and shows: the servers' authority, its own pair, the file with its token.

    A token's file may hold the authority too; `ca` goes before it.
    """

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    token: Path | None = None

    def __post_init__(self) -> None:
        """Raise Invalid (KEY_MISSING, CERTIFICATE_MISSING, AUTHORITY_MISSING)."""
        _check_halves(self.cert, self.key, "cert-file", "key-file")
        if self.cert is not None and not self.has_tls:
            raise Invalid(
                "AUTHORITY_MISSING", "ca-file: a certificate is shown over TLS only; add --ca-file", field="ca-file"
            )

    @property
    def has_tls(self) -> bool:
        """Whether it speaks TLS; a token is shown in no other way."""
        return self.ca is not None or self.token is not None

    def flags(self) -> tuple[str, ...]:
        """Return the flags that say this to another program."""
        return _flags(
            ("--ca-file", self.ca), ("--cert-file", self.cert), ("--key-file", self.key), ("--token-file", self.token)
        )


NO_SERVER_ACCESS = ServerAccess()
"""Plaintext, and everybody who reaches the port may do everything."""
NO_CLIENT_ACCESS = ClientAccess()
"""Plaintext."""


def add_server_flags(parser: argparse.ArgumentParser, settings: Settings) -> None:
    """Add the flags of a program that serves; the environment is their default."""
    group = parser.add_argument_group("access: files; without them plain text, on this machine only")
    group.add_argument("--tls-cert", type=Path, default=settings.tls_cert, metavar="FILE", help="certificate to show")
    group.add_argument("--tls-key", type=Path, default=settings.tls_key, metavar="FILE", help="its key, mode 0600")
    group.add_argument(
        "--tls-ca",
        type=Path,
        default=settings.tls_ca,
        metavar="FILE",
        help="ask callers for certificates of this authority",
    )
    group.add_argument(
        "--tokens", type=Path, default=settings.tokens, metavar="FILE", help="ask callers for a token in this file"
    )


def server_access(flags: argparse.Namespace) -> ServerAccess:
    """Return what add_server_flags found; raises Invalid for flags that do not go together."""
    return ServerAccess(flags.tls_cert, flags.tls_key, flags.tls_ca, flags.tokens)


def add_client_flags(parser: argparse.ArgumentParser, settings: Settings) -> None:
    """Add the flags of a program that calls others; the environment is their default."""
    group = parser.add_argument_group("access to other programs: files")
    group.add_argument(
        "--ca-file", type=Path, default=settings.ca_file, metavar="FILE", help="authority of the servers: speak TLS"
    )
    group.add_argument("--cert-file", type=Path, default=settings.cert_file, metavar="FILE", help="certificate to show")
    group.add_argument("--key-file", type=Path, default=settings.key_file, metavar="FILE", help="its key, mode 0600")
    group.add_argument(
        "--token-file",
        type=Path,
        default=settings.token_file,
        metavar="FILE",
        help="token to show, mode 0600; with the authority in it, --ca-file may be left out",
    )


def client_access(flags: argparse.Namespace) -> ClientAccess:
    """Return what add_client_flags found; raises Invalid for flags that do not go together."""
    return ClientAccess(flags.ca_file, flags.cert_file, flags.key_file, flags.token_file)
