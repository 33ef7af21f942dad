"""What a deployer asks of a scheduler, beside what every client may."""

from collections.abc import Iterable

from nasmesh.client.client import Client
from nasmesh.v1 import scheduler_service_pb2 as pb


class DeployerClient(Client):
    """The client of whoever starts servers; its calls are for admins."""

    def demand(self) -> pb.GetDemandResponse:
        """Say what waits and what runs, by what it needs."""
        return self._call(lambda: self._stub.GetDemand(pb.GetDemandRequest()))

    def offer_servers(self, deployer: str, offers: Iterable[pb.ServerOffer]) -> None:
        """Say which servers are started when there is work for them; holds for a minute.

        Raises Invalid (OFFER_INVALID).
        """
        request = pb.OfferServersRequest(deployer=deployer, offers=offers)
        self._call(lambda: self._stub.OfferServers(request))
