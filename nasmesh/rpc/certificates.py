"""Reads certificates and keys: whose they are, until when, and whether the two belong together."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID

from nasmesh.errors import Invalid

TRUST_DOMAIN = "nasmesh"
Kind = TypeVar("Kind", bound=x509.ExtensionType)
ROLES = ("agent", "client", "admin", "server")
"""What a certificate of ours may say that its holder is; the first part of the path in its SPIFFE id."""

_SPIFFE = re.compile(rf"spiffe://{TRUST_DOMAIN}/(agent|client|admin|server)/([a-z0-9][a-z0-9.-]{{0,62}})")


@dataclass(frozen=True, slots=True)
class Certificate:
    """What matters of a certificate. Times are wall seconds since 1970."""

    subject: str
    serial: str
    not_before: float
    not_after: float
    role: str
    """One of ROLES; empty for a certificate that is not of this mesh, or an authority's."""
    name: str
    hosts: tuple[str, ...]
    is_authority: bool
    serves: bool
    """Whether it may be a server's."""
    calls: bool
    """Whether it may be a client's."""
    public_key: bytes

    def check_time(self, now: float, *, field: str) -> None:
        """Raise Invalid (CERTIFICATE_EXPIRED, CERTIFICATE_NOT_YET_VALID)."""
        if now >= self.not_after:
            raise Invalid(
                "CERTIFICATE_EXPIRED",
                f"{field}: the certificate of {self.subject} expired on {format_time(self.not_after)}; issue a new one",
                field=field,
            )
        if now < self.not_before:
            raise Invalid(
                "CERTIFICATE_NOT_YET_VALID",
                f"{field}: the certificate of {self.subject} is valid from {format_time(self.not_before)} on",
                field=field,
            )


def parse_spiffe(uri: str) -> tuple[str, str] | None:
    """Return (role, name) of "spiffe://nasmesh/ROLE/NAME"; None for anything else."""
    match = _SPIFFE.fullmatch(uri)
    return (match[1], match[2]) if match else None


def format_spiffe(role: str, name: str) -> str:
    """Return "spiffe://nasmesh/ROLE/NAME"; raises Invalid (ROLE_UNKNOWN, NAME_INVALID)."""
    if role not in ROLES:
        raise Invalid("ROLE_UNKNOWN", f"role: {role[:40]!r} is none of {', '.join(ROLES)}", field="role")
    uri = f"spiffe://{TRUST_DOMAIN}/{role}/{name}"
    if parse_spiffe(uri) is None:
        raise Invalid(
            "NAME_INVALID", f"name: {name[:80]!r} is no name of a caller; use [a-z0-9][a-z0-9.-]{{0,62}}", field="name"
        )
    return uri


def parse_certificates(pem: bytes, *, field: str) -> list[Certificate]:
    """Return the certificates in a PEM file, the holder's own first; raises Invalid (CERTIFICATE_INVALID)."""
    try:
        return [_facts(found) for found in x509.load_pem_x509_certificates(pem)]
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise Invalid(
            "CERTIFICATE_INVALID", f"{field}: the file does not hold a certificate in PEM form", field=field
        ) from None


def check_pair(certificate: Certificate, key_pem: bytes, *, field: str) -> None:
    """Raise Invalid (KEY_INVALID, KEY_MISMATCH) unless a private key is the one of a certificate."""
    try:
        key = serialization.load_pem_private_key(key_pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise Invalid(
            "KEY_INVALID", f"{field}: the file does not hold a private key in PEM form without a password", field=field
        ) from None
    if _public_bytes(key.public_key()) != certificate.public_key:
        raise Invalid(
            "KEY_MISMATCH", f"{field}: the key is not that of the certificate of {certificate.subject}", field=field
        )


def check_authority(certificate: Certificate, *, field: str) -> None:
    """Raise Invalid (AUTHORITY_INVALID) unless a certificate may sign others."""
    if not certificate.is_authority:
        raise Invalid(
            "AUTHORITY_INVALID",
            f"{field}: the certificate of {certificate.subject} is no authority's; give ca.crt",
            field=field,
        )


def format_time(seconds: float) -> str:
    """Return wall seconds as people write them, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _facts(found: x509.Certificate) -> Certificate:
    names = _extension(found, x509.SubjectAlternativeName)
    uses = _extension(found, x509.ExtendedKeyUsage)
    constraints = _extension(found, x509.BasicConstraints)
    uris = names.get_values_for_type(x509.UniformResourceIdentifier) if names else []
    # Several identities in one certificate are none: which would it be?
    role, name = (parse_spiffe(uris[0]) or ("", "")) if len(uris) == 1 else ("", "")
    hosts = (
        [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]
        if names
        else []
    )
    return Certificate(
        subject=found.subject.rfc4514_string(),
        serial=f"{found.serial_number:x}",
        not_before=found.not_valid_before_utc.timestamp(),
        not_after=found.not_valid_after_utc.timestamp(),
        role=role,
        name=name,
        hosts=tuple(hosts),
        is_authority=bool(constraints and constraints.ca),
        serves=uses is None or ExtendedKeyUsageOID.SERVER_AUTH in uses,
        calls=uses is None or ExtendedKeyUsageOID.CLIENT_AUTH in uses,
        public_key=_public_bytes(found.public_key()),
    )


def _extension(found: x509.Certificate, kind: type[Kind]) -> Kind | None:
    try:
        return found.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _public_bytes(key: object) -> bytes:
    encoding, form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    return bytes(key.public_bytes(encoding, form))  # type: ignore[attr-defined]
