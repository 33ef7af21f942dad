"""A private certificate authority for one mesh: `nasmesh certs init` makes it, `nasmesh certs issue` uses it.

Keys are P-256, written with mode 0600; the authority's own key never leaves its directory.
"""

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from nasmesh.clock import Clock, SystemClock
from nasmesh.errors import Invalid
from nasmesh.limits import AUTHORITY_DAYS, CERTIFICATE_DAYS, CERTIFICATE_DAYS_MAX
from nasmesh.rpc.certificates import check_authority, check_pair, format_spiffe, parse_certificates
from nasmesh.rpc.secret_files import (
    make_private_directory,
    read_public,
    read_secret,
    write_public,
    write_secret,
)
from nasmesh.rpc.tokens import check_days

CA_CERTIFICATE, CA_KEY = "ca.crt", "ca.key"
# Clocks of hosts differ; a certificate made here must be valid there at once.
_SKEW = timedelta(minutes=5)
_HOST = re.compile(r"(?=.{1,253}\Z)[a-zA-Z0-9]([a-zA-Z0-9-]{0,62})(\.[a-zA-Z0-9]([a-zA-Z0-9-]{0,62}))*")


@dataclass(frozen=True, slots=True)
class Issued:
    """Where a new pair is."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Wish:
    """What a certificate shall say. `hosts`, for servers: the names and addresses that clients dial."""

    role: str
    name: str
    days: float = CERTIFICATE_DAYS
    hosts: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Signer:
    """An authority in memory."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def new_signer(
    key: ec.EllipticCurvePrivateKey | None = None, *, days: float = AUTHORITY_DAYS, clock: Clock | None = None
) -> Signer:
    """Return a new authority, its key, unless given, only in memory."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "nasmesh authority")])
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    builder = (
        _builder(key, name, name, days, clock or SystemClock())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return Signer(builder.sign(key, hashes.SHA256()), key)


def sign(signer: Signer, wish: Wish, *, clock: Clock | None = None) -> tuple[bytes, bytes]:
    """Return (certificate, key) in PEM form.

    Raises Invalid (ROLE_UNKNOWN, NAME_INVALID, DAYS_INVALID, HOST_INVALID).
    """
    check_days(wish.days, CERTIFICATE_DAYS_MAX)
    uri = format_spiffe(wish.role, wish.name)
    serves = wish.role == "server"
    if serves != bool(wish.hosts):
        raise Invalid(
            "HOST_INVALID", "host: a server, and only a server, needs the names that it is dialled by", field="host"
        )
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{wish.role} {wish.name}"[:64])])
    # One use each: a server's certificate must not be good for calling, nor a client's for serving.
    use = ExtendedKeyUsageOID.SERVER_AUTH if serves else ExtendedKeyUsageOID.CLIENT_AUTH
    names = [x509.UniformResourceIdentifier(uri), *map(_host, wish.hosts)]
    builder = (
        _builder(key, subject, signer.certificate.subject, wish.days, clock or SystemClock())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([use]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.key.public_key()), critical=False)
    )
    return _pem(builder.sign(signer.key, hashes.SHA256())), _key_pem(key)


def init(directory: Path, hosts: Sequence[str], *, days: float = CERTIFICATE_DAYS) -> Issued:
    """Make an authority in a directory, and the scheduler's pair for these hosts; return the latter.

    What was killed in the middle is gone on with. Raises Invalid (FILE_EXISTS, FILE_UNWRITABLE, HOST_INVALID,
    DAYS_INVALID).
    """
    wish = Wish("server", "scheduler", days, hosts)
    if (directory / CA_CERTIFICATE).exists():
        raise Invalid(
            "FILE_EXISTS",
            f"dir: {directory} has an authority, which is left as it is; renew the scheduler's certificate with "
            "`nasmesh certs issue --role server --name scheduler --host NAME`, or name another directory",
            field="dir",
        )
    half = (directory / CA_KEY).exists()
    signer = new_signer(_read_key(directory) if half else None)
    sign(signer, wish)  # every complaint before anything is written
    make_private_directory(directory, field="dir")
    if not half:
        write_secret(directory / CA_KEY, _key_pem(signer.key), field="dir", replace=False)
    write_public(directory / CA_CERTIFICATE, _pem(signer.certificate), field="dir", replace=False)
    return issue(directory, wish)


def issue(directory: Path, wish: Wish) -> Issued:
    """Write a pair signed by the authority of a directory, in place of an earlier one of the same role and name.

    Raises Invalid as sign does, and what is wrong with the authority's files.
    """
    certificate, key = sign(_open(directory), wish)
    found = Issued(directory / f"{wish.role}-{wish.name}.crt", directory / f"{wish.role}-{wish.name}.key")
    # The key first: a server that reads between the two finds a pair that does not match, and keeps the old one.
    write_secret(found.key, key, field="dir", replace=True)
    write_public(found.certificate, certificate, field="dir", replace=True)
    return found


def _open(directory: Path) -> Signer:
    """Return the authority in a directory."""
    pem = read_public(directory / CA_CERTIFICATE, field="dir")
    facts = parse_certificates(pem, field="dir")[0]
    check_authority(facts, field="dir")
    facts.check_time(SystemClock().wall(), field="dir")
    check_pair(facts, read_secret(directory / CA_KEY, field="dir"), field="dir")
    return Signer(x509.load_pem_x509_certificate(pem), _read_key(directory))


def _read_key(directory: Path) -> ec.EllipticCurvePrivateKey:
    """Return the key of the authority in a directory."""
    try:
        key = serialization.load_pem_private_key(read_secret(directory / CA_KEY, field="dir"), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise Invalid("KEY_INVALID", f"dir: {directory / CA_KEY} is no elliptic-curve key", field="dir")
    return key


def _builder(
    key: ec.EllipticCurvePrivateKey, subject: x509.Name, issuer: x509.Name, days: float, clock: Clock
) -> x509.CertificateBuilder:
    now = datetime.fromtimestamp(clock.wall(), UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + timedelta(days=days))
    )


def _host(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        pass
    if not _HOST.fullmatch(text):
        raise Invalid("HOST_INVALID", f"host: {text[:80]!r} is no host name or address", field="host")
    return x509.DNSName(text.lower())


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
