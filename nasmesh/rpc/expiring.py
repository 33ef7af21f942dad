"""When the certificates that a program shows and trusts end: for metrics, and a word in the log in good time.

They live for days, and what happens when nobody renews one happens everywhere at once.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from nasmesh.clock import Clock, SystemClock
from nasmesh.errors import Invalid
from nasmesh.limits import CERTIFICATE_LOOK_S, CERTIFICATE_WARNED, CERTIFICATE_WARNED_S
from nasmesh.logs import get_logger
from nasmesh.rpc.access import NO_CLIENT_ACCESS, NO_SERVER_ACCESS, ClientAccess, ServerAccess
from nasmesh.rpc.secret_files import Stamp, read_public, stamp
from nasmesh.telemetry.exposition import Source
from nasmesh.telemetry.samples import Sample

_log = get_logger("credentials")


class _Life(NamedTuple):
    """From when and until when a certificate is good, in wall seconds."""

    begins: float
    ends: float


class Expiring:
    """The certificates in a program's files, by the flag that names each. Read again when they change."""

    def __init__(
        self,
        shown: ServerAccess = NO_SERVER_ACCESS,
        own: ClientAccess = NO_CLIENT_ACCESS,
        *,
        clock: Clock | None = None,
    ) -> None:
        """Read nothing yet."""
        named = {"tls-cert": shown.cert, "tls-ca": shown.ca, "ca-file": own.ca, "cert-file": own.cert}
        self._files = {field: path for field, path in named.items() if path is not None}
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._known: dict[str, tuple[Stamp, _Life]] = {}

    @property
    def has_files(self) -> bool:
        """Whether there is anything to look at."""
        return bool(self._files)

    def readings(self) -> Sequence[Sample]:
        """Return when each ends, in wall seconds since 1970; a file that is not to be read now is left out."""
        return [Sample("nasmesh_certificate_ends", life.ends, (field,)) for field, life in self._lives()]

    def look(self) -> list[str]:
        """Log those of which little is left, or nothing; return their flags."""
        now = self._clock.wall()
        soon = [(field, life.ends) for field, life in self._lives() if life.ends - now < _warned_s(life)]
        for field, ends in soon:
            from nasmesh.rpc.certificates import format_time

            _log.warning(
                "certificate_ends_soon" if ends > now else "certificate_ended",
                flag=field,
                file=str(self._files[field]),
                until=format_time(ends),
                advice="renew it in its place, by nasmesh certs issue if it is yours: no restart is needed",
            )
        return [field for field, _ in soon]

    def _lives(self) -> list[tuple[str, _Life]]:
        found = []
        for field, path in self._files.items():
            life = self._life(field, path)
            if life is not None:
                found.append((field, life))
        return found

    def _life(self, field: str, path: Path) -> _Life | None:
        now = stamp(path)
        with self._lock:
            known = self._known.get(field)
        if known is not None and known[0] == now:
            return known[1]
        # Here, not above: a program without TLS need not load the library for certificates.
        from nasmesh.rpc.certificates import parse_certificates

        try:
            parsed = parse_certificates(read_public(path, field=field), field=field)
        except Invalid:
            return None
        first = min(parsed, key=lambda facts: facts.not_after)
        life = _Life(first.not_before, first.not_after)
        with self._lock:
            self._known[field] = now, life
        return life


def _warned_s(life: _Life) -> float:
    """Return how long before the end of a certificate it is told."""
    return min(CERTIFICATE_WARNED * (life.ends - life.begins), CERTIFICATE_WARNED_S)


@contextmanager
def certificates_watched(
    shown: ServerAccess = NO_SERVER_ACCESS, own: ClientAccess = NO_CLIENT_ACCESS
) -> Iterator[Sequence[Source]]:
    """Look at a program's certificates now and then within the block; yields what metrics tell of them."""
    expiring = Expiring(shown, own)
    if not expiring.has_files:
        yield ()
        return
    over = threading.Event()

    def watch() -> None:
        expiring.look()
        while not over.wait(CERTIFICATE_LOOK_S):
            expiring.look()

    threading.Thread(target=watch, name="certificates", daemon=True).start()
    try:
        yield (expiring.readings,)
    finally:
        over.set()
