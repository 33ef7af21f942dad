"""Servers that somebody starts when there is work for them: kept in memory, said again by whoever offers them."""

from collections.abc import Iterator, Sequence

from nasmesh import ids
from nasmesh.clock import Clock
from nasmesh.errors import Invalid
from nasmesh.settings_schema import read_settings_schema
from nasmesh.v1 import dataset_pb2, generate_service_pb2, job_pb2
from nasmesh.v1 import scheduler_service_pb2 as pb
from scheduler.domain import TaskKind

OFFER_KEEP_S = 60.0
"""How long an offer holds; a deployer repeats it every few seconds."""

_OFFERS = 64
_DEPLOYERS = 64
_NAME = 63
_KINDS = {int(kind): kind for kind in TaskKind}


class Offers:
    """What every deployer offers now."""

    def __init__(self, clock: Clock) -> None:
        """Hold nothing."""
        self._clock = clock
        self._offers: dict[str, tuple[float, Sequence[pb.ServerOffer]]] = {}

    def put(self, request: pb.OfferServersRequest) -> pb.OfferServersResponse:
        """Keep what a deployer offers, in the place of what it offered before; raises Invalid (OFFER_INVALID)."""
        _check(request)
        self._forget_old()
        if request.deployer not in self._offers and len(self._offers) >= _DEPLOYERS:
            raise _invalid("deployer", f"{_DEPLOYERS} others offer servers already")
        self._offers[request.deployer] = (self._clock.monotonic() + OFFER_KEEP_S, tuple(request.offers))
        return pb.OfferServersResponse()

    def servers(self, kind: TaskKind) -> Iterator[job_pb2.Server]:
        """Yield the servers of a kind that are offered now."""
        self._forget_old()
        for _, offers in self._offers.values():
            for offer in offers:
                if _KINDS[offer.kind] is kind:
                    yield offer.server

    def generators(self, connected: Sequence[generate_service_pb2.Generator]) -> list[generate_service_pb2.Generator]:
        """Return the generators of connected servers with those that are offered, by name, each once."""
        offered = {g.name: g for server in self.servers(TaskKind.GENERATE) for g in server.generators}
        found = {**offered, **{generator.name: generator for generator in connected}}
        return [found[name] for name in sorted(found)]

    def datasets(self) -> Iterator[dataset_pb2.Dataset]:
        """Yield the data sets that offered train servers have."""
        for server in self.servers(TaskKind.TRAIN):
            yield from server.datasets

    def _forget_old(self) -> None:
        now = self._clock.monotonic()
        for deployer in [name for name, (until, _) in self._offers.items() if until <= now]:
            del self._offers[deployer]


def has_data(server: job_pb2.Server, dataset: str) -> bool:
    """Say whether a train server has a data set; one that names none has any."""
    return not server.datasets or any(d.name == dataset and d.available for d in server.datasets)


def _check(request: pb.OfferServersRequest) -> None:
    if not 0 < len(request.deployer) <= _NAME:
        raise _invalid("deployer", f"a name of 1 to {_NAME} characters")
    if len(request.offers) > _OFFERS:
        raise _invalid("offers", f"{len(request.offers)} are more than {_OFFERS}")
    for index, offer in enumerate(request.offers):
        if offer.kind not in _KINDS:
            raise _invalid(f"offers.{index}.kind", "names no kind of work")
        for generator in offer.server.generators:
            field = f"offers.{index}.server.{generator.name}"
            try:
                ids.parse_name("generators", generator.name)
                read_settings_schema(generator.settings_schema, field=f"{field}.settings_schema")
            except Invalid as error:
                raise _invalid(field, error.message) from None


def _invalid(field: str, what: str) -> Invalid:
    return Invalid("OFFER_INVALID", f"{field}: {what}", field=field)
