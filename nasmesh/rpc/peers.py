"""Whose certificate the other side of a connection has shown, read from gRPC's account of the handshake."""

import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from nasmesh.errors import Denied, Invalid, Unauthenticated
from nasmesh.rpc.identity import Identity, Role

_PEM = "x509_pem_cert"
_ROLES = {
    "client": frozenset({Role.CLIENT_READ, Role.CLIENT_WRITE}),
    "agent": frozenset({Role.AGENT}),
    "admin": frozenset({Role.ADMIN}),
}


@dataclass(frozen=True, slots=True)
class PeerCertificate:
    """A caller's certificate: whose, and until when in wall seconds."""

    identity: Identity
    not_after: float

    def check_time(self, now: float) -> None:
        """Raise Unauthenticated (CERTIFICATE_EXPIRED); the handshake looked too, but a connection may be old."""
        if now >= self.not_after:
            raise Unauthenticated(
                "CERTIFICATE_EXPIRED", f"the certificate of {self.identity.name} has expired; renew it"
            )


class PeerCertificates:
    """Reads callers' certificates, each once. Thread-safe."""

    def __init__(self, kept: int) -> None:
        """Remember at most `kept`, those used last."""
        self._kept = kept
        self._lock = threading.Lock()
        self._known: OrderedDict[bytes, PeerCertificate] = OrderedDict()

    def __len__(self) -> int:
        """Return how many are remembered."""
        return len(self._known)

    def read(self, shown: dict[str, Iterable[bytes]]) -> PeerCertificate:
        """Return the caller's certificate, whose chain and time gRPC has verified.

        Raises Unauthenticated (CERTIFICATE_MISSING, CERTIFICATE_IDENTITY), Denied (CERTIFICATE_ROLE).
        """
        pem = next(iter(shown.get(_PEM, ())), None)
        if pem is None:
            raise Unauthenticated("CERTIFICATE_MISSING", "this server asks for a certificate; give --cert-file")
        with self._lock:
            found = self._known.get(pem)
            if found is not None:
                self._known.move_to_end(pem)
                return found
        found = _read(pem)
        with self._lock:
            self._known[pem] = found
            if len(self._known) > self._kept:
                self._known.popitem(last=False)
        return found


def _read(pem: bytes) -> PeerCertificate:
    # Here, not above: a server without TLS need not load the library.
    from nasmesh.rpc.certificates import parse_certificates

    try:
        facts = parse_certificates(pem, field="certificate")[0]
    except Invalid:
        raise Unauthenticated("CERTIFICATE_IDENTITY", "the certificate cannot be read") from None
    if not facts.role:
        raise Unauthenticated(
            "CERTIFICATE_IDENTITY", "the certificate names nobody of this mesh; issue one with `nasmesh certs issue`"
        )
    if facts.role not in _ROLES:
        raise Denied(
            "CERTIFICATE_ROLE", f"the certificate is a {facts.role}'s, who calls nobody; issue one for a client"
        )
    kind = "agents" if facts.role == "agent" else "clients"
    return PeerCertificate(Identity(f"{kind}/{facts.name}", _ROLES[facts.role]), facts.not_after)
