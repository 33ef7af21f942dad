"""Certificates that our authority's own commands do not make: of other trust domains, of roles that do not call."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from nasmesh.clock import SystemClock
from nasmesh.rpc.secret_files import write_public, write_secret
from tests.builders.access import Authority, Pair


def odd_pair(authority: Authority, *uris: str, days: float = 7.0, issued: float = 0.0, file: str) -> Pair:
    """Write a caller's pair with exactly these URIs in it."""
    key = ec.generate_private_key(ec.SECP256R1())
    start = datetime.fromtimestamp(SystemClock().wall(), UTC) + timedelta(days=issued, minutes=-5)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "odd")]))
        .issuer_name(authority.signer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
    )
    if uris:
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri) for uri in uris])
        builder = builder.add_extension(names, critical=False)
    made = builder.sign(authority.signer.key, hashes.SHA256())
    pair = Pair(authority.directory / f"{file}.crt", authority.directory / f"{file}.key")
    write_public(pair.cert, made.public_bytes(serialization.Encoding.PEM), field="test", replace=True)
    form = serialization.PrivateFormat.PKCS8
    pem = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    write_secret(pair.key, pem, field="test", replace=True)
    return pair
