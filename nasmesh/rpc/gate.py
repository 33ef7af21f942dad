"""Decides for every call who makes it and whether it may: identity, policy table, rates, and open streams.

Knows nothing of messages: a call is admitted before anything of its request is parsed.
"""

import ipaddress
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, Protocol
from urllib.parse import unquote

from nasmesh.clock import Clock, SystemClock
from nasmesh.errors import Busy, Denied, NasmeshError, Unauthenticated, Unavailable
from nasmesh.logs import get_logger
from nasmesh.rpc.access import NO_SERVER_ACCESS, ServerAccess
from nasmesh.rpc.identity import LOCAL, Identity, Role
from nasmesh.rpc.peers import PeerCertificate, PeerCertificates
from nasmesh.rpc.policy import rule_for
from nasmesh.rpc.rates import Buckets, OpenStreams, Rate, Rates
from nasmesh.rpc.tokens import Token, TokenFile

_SCHEDULER = "/nasmesh.v1.SchedulerService/"
# Counted by lease and slots instead; one stream for as long as an agent lives.
_UNRATED = "/nasmesh.v1.DispatchService/Work"
# Streams that cost their server something for as long as somebody keeps them open.
_COUNTED = frozenset({"/nasmesh.v1.SchedulerService/WatchSearch", "/grpc.health.v1.Health/Watch"})
_NOBODY = Identity("", frozenset())
_log = get_logger("access")


class CallContext(Protocol):
    """What is needed of gRPC's context, in both its forms."""

    def peer(self) -> str:
        """Return the caller's address, "ipv4:127.0.0.1:1234"."""
        ...

    def invocation_metadata(self) -> Iterable[tuple[str, str | bytes]]:
        """Return what was sent ahead of the request."""
        ...

    def auth_context(self) -> dict[str, Iterable[bytes]]:
        """Return what the handshake has shown."""
        ...


class Caller(NamedTuple):
    """Who makes a call, and by what; `key` is whom its calls are counted for, empty for nobody."""

    identity: Identity
    key: str = ""
    token: Token | None = None
    certificate: PeerCertificate | None = None

    @property
    def may_lapse(self) -> bool:
        """Whether its credential can end while a stream of it is open."""
        return self.token is not None or self.certificate is not None


class Cut:
    """One open stream of a caller whose credential may end; `error` is set when it has."""

    __slots__ = ("_stop", "caller", "error")

    def __init__(self, caller: Caller, stop: Callable[[], object]) -> None:
        """Call `stop` once when the credential has ended."""
        self.caller = caller
        self.error: NasmeshError | None = None
        self._stop = stop

    def end(self, error: NasmeshError) -> None:
        """End the stream."""
        if self.error is None:
            self.error = error
            self._stop()


_LOCAL_CALLER = Caller(LOCAL)


class Gate:
    """The door of one server. Thread-safe."""

    def __init__(
        self,
        access: ServerAccess = NO_SERVER_ACCESS,
        *,
        open_to_network: bool = False,
        rates: Rates | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Read the tokens file; raises Invalid for one that is wrong.

        `open_to_network`: other machines reach the server; without identities their addresses are counted.
        """
        self._clock = clock or SystemClock()
        self._rates = rates or Rates()
        self._asks_certificate = access.ca is not None
        self._tokens = TokenFile(access.tokens, clock=clock) if access.tokens is not None else None
        self._counts_addresses = open_to_network
        self._buckets = Buckets(self._rates.callers, clock=clock)
        self._streams = OpenStreams(self._rates.watches)
        self._certificates = PeerCertificates(self._rates.callers)
        self._lock = threading.Lock()
        self._cuts: set[Cut] = set()
        self.asks_identity = access.asks_identity
        self.asked = 0
        """Calls that have come, since the start, where callers are asked or counted."""
        self.refusals: Counter[str] = Counter()
        """Those refused, by reason."""

    @property
    def is_open(self) -> bool:
        """Whether every call of a method that the table names may be made, uncounted."""
        return not self.asks_identity and not self._counts_addresses

    def admit(self, method: str, context: CallContext) -> Caller:
        """Return who makes a call.

        Raises Unauthenticated (TOKEN_…, CERTIFICATE_…), Denied (METHOD_UNLISTED, ROLE_FORBIDDEN, CERTIFICATE_ROLE,
        CREDENTIALS_DISAGREE), Busy (RATE_EXCEEDED).
        """
        if self.is_open and rule_for(method) is not None:
            return _LOCAL_CALLER
        self.asked += 1
        try:
            caller = self._identify(method, context)
        except (Unauthenticated, Denied) as error:
            self._refused(method, context, error)
            raise
        if caller.key and method != _UNRATED:
            self._buckets.take(caller.key, self._rate(caller.identity, method))
        return caller

    @contextmanager
    def opened(self, method: str, caller: Caller, stop: Callable[[], object]) -> Iterator[Cut]:
        """Keep an eye on a stream within the block; raises Busy (WATCHES_EXCEEDED).

        When the caller's credential ends meanwhile, Cut.error is set and `stop` called, from whichever thread notices.
        """
        cut = Cut(caller, stop)
        counted = method in _COUNTED and bool(caller.key)
        if counted:
            self._streams.enter(caller.key)
        try:
            if caller.may_lapse:
                with self._lock:
                    self._cuts.add(cut)
            yield cut
        finally:
            if caller.may_lapse:
                with self._lock:
                    self._cuts.discard(cut)
            if counted:
                self._streams.leave(caller.key)

    def look(self) -> None:
        """End the streams of callers whose credential has ended; called now and then."""
        with self._lock:
            cuts = list(self._cuts)
        for cut in cuts:
            try:
                self._recheck(cut.caller)
            except (Unauthenticated, Denied) as error:
                _log.warning("stream_cut", caller=cut.caller.identity.name, reason=error.reason)
                # Not the reason itself: who has been given a new credential meanwhile may go on at once, and everybody
                # else hears the reason with the next call.
                cut.end(Unavailable("CREDENTIAL_ENDED", f"{error.message}; the stream ends, sign in again"))

    # --- below ------------------------------------------------------------------------------------------------------

    def _identify(self, method: str, context: CallContext) -> Caller:
        rule = rule_for(method)
        if rule is None:
            raise Denied("METHOD_UNLISTED", f"{method[:120]} is in no policy table: nobody may call it")
        if not self.asks_identity:
            return Caller(LOCAL, _address(context, spare_loopback=True))
        if rule.anyone:
            return Caller(_NOBODY, _address(context))
        caller = self._sign_in(context)
        if not rule.admits(caller.identity.roles, by_token=caller.token is not None):
            held = ", ".join(sorted(caller.identity.roles)) or "none"
            allowed = rule.roles | (rule.token_roles if caller.token is not None else frozenset())
            wanted = " or ".join(sorted(allowed)) or "nobody's role"
            message = f"{caller.identity.name} may not call {method}: it takes {wanted}, and its roles are {held}"
            raise Denied("ROLE_FORBIDDEN", message)
        return caller

    def _sign_in(self, context: CallContext) -> Caller:
        """Return who a call's certificate and token say that it is from: what the server asks for must be there."""
        shown = self._certificates.read(context.auth_context()) if self._asks_certificate else None
        if shown is not None:
            shown.check_time(self._clock.wall())
        token = self._tokens.check(_bearer(context)) if self._tokens is not None else None
        identity = _agreed(shown, token)
        return Caller(identity, identity.name, token, shown)

    def _recheck(self, caller: Caller) -> None:
        if caller.certificate is not None:
            caller.certificate.check_time(self._clock.wall())
        if caller.token is not None and self._tokens is not None:
            self._tokens.recheck(caller.token)

    def _rate(self, identity: Identity, method: str) -> Rate:
        if identity is LOCAL:  # an address: behind it may be an agent that drives a server
            return self._rates.client if method.startswith(_SCHEDULER) else self._rates.agent
        if identity is _NOBODY or identity.roles == {Role.AGENT}:
            return self._rates.agent
        return self._rates.client

    def _refused(self, method: str, context: CallContext, error: NasmeshError) -> None:
        """Count and log a refusal; an address with too many gets the shorter answer, and no more lines."""
        self.refusals[error.reason] += 1
        address = _address(context)
        try:
            self._buckets.take(f"refused {address}", self._rates.refusals)
        except Busy as busy:
            self.refusals[busy.reason] += 1
            raise
        _log.warning("call_refused", method=method[:120], reason=error.reason, peer=address, why=error.message)


def _agreed(shown: PeerCertificate | None, token: Token | None) -> Identity:
    """Return the identity that both credentials name, with the roles that both give."""
    if shown is None or token is None:
        found = shown.identity if shown is not None else token.identity if token is not None else _NOBODY
    else:
        found = Identity(shown.identity.name, shown.identity.roles & token.identity.roles)
        if shown.identity.name != token.identity.name or not found.roles:
            raise Denied(
                "CREDENTIALS_DISAGREE",
                f"the certificate is that of {shown.identity.name}, the token that of {token.identity.name}",
            )
    return found


def _bearer(context: CallContext) -> str:
    """Return the token that a call shows; raises Unauthenticated (TOKEN_MISSING, TOKEN_MALFORMED)."""
    found = [value for key, value in context.invocation_metadata() or () if key == "authorization"]
    if not found:
        raise Unauthenticated("TOKEN_MISSING", "this server asks for a token; give --token-file")
    scheme, _, text = str(found[0]).partition(" ")
    if len(found) != 1 or scheme.lower() != "bearer":
        raise Unauthenticated("TOKEN_MALFORMED", "the authorization header is not one Bearer token")
    return text.strip()


def _address(context: CallContext, *, spare_loopback: bool = False) -> str:
    """Return whom to count a caller without a name as: an IPv4 address, the /64 that an IPv6 host may choose from.

    With `spare_loopback` empty for this machine, which is not counted.
    """
    kind, _, rest = unquote(context.peer()).partition(":")
    host = rest.rpartition(":")[0].strip("[]") if kind in ("ipv4", "ipv6") else ""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return "" if spare_loopback and kind == "unix" else f"address {kind}"
    if spare_loopback and address.is_loopback:
        return ""
    if isinstance(address, ipaddress.IPv6Address):
        return f"address {ipaddress.ip_network((address, 64), strict=False)}"
    return f"address {address}"
