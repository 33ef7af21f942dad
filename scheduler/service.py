"""SchedulerService: converts, calls, converts. Decides nothing."""

# ruff: noqa: N802, ARG002 - names and signatures are the contract's

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

from nasmesh.rpc.identity import current_identity
from nasmesh.store.base import ObjectStore
from nasmesh.telemetry import tracing
from nasmesh.v1 import scheduler_service_pb2 as pb
from nasmesh.v1 import scheduler_service_pb2_grpc as rpc
from scheduler import transfer
from scheduler.core import Core
from scheduler.datasets import Datasets
from scheduler.following import follow
from scheduler.lifecycle import Lifecycle
from scheduler.listings import Listings
from scheduler.offers import Offers
from scheduler.quotas import QUOTAS, Quotas
from scheduler.searches import Searches
from scheduler.sweep import Sweep

Context = Any  # never used
Answer = TypeVar("Answer")


class SchedulerServicer(rpc.SchedulerServiceServicer):
    """Serves clients."""

    def __init__(self, core: Core, store: ObjectStore, quotas: Quotas = QUOTAS) -> None:
        """Serve from a core, and objects from a store; each owner within `quotas`."""
        self._core = core
        self._store = store
        self._offers = Offers(core.engine.clock)
        core.engine.work.needs.offered = self._offers.servers
        self._searches = Searches(core.engine, self._offers, quotas)
        self._listings = Listings(core.engine, self._searches, store.kind_name, self._offers)
        self._lifecycle = Lifecycle(core.engine, self._searches)
        self._datasets = Datasets(core, store)
        self._sweep = Sweep(core, store, self._lifecycle)

    def _ask(self, method: Callable[..., Answer], request: object) -> Awaitable[Answer]:
        """Submit a command. Who calls is noted now: commands run outside the call."""
        return self._core.submit(partial(method, request, caller=current_identity()))

    async def CreateSearch(self, request: pb.CreateSearchRequest, context: Context) -> pb.CreateSearchResponse:
        """Create a search, or check it."""
        return await self._ask(partial(self._searches.create, traceparent=tracing.current()), request)

    async def GetSearch(self, request: pb.GetSearchRequest, context: Context) -> pb.GetSearchResponse:
        """Return one search."""
        return pb.GetSearchResponse(search=await self._ask(self._searches.get, request.name))

    async def ListSearches(self, request: pb.ListSearchesRequest, context: Context) -> pb.ListSearchesResponse:
        """List searches."""
        return await self._ask(self._searches.list, request)

    async def CancelSearch(self, request: pb.CancelSearchRequest, context: Context) -> pb.CancelSearchResponse:
        """Cancel a search."""
        return await self._ask(self._searches.cancel, request)

    async def PauseSearch(self, request: pb.PauseSearchRequest, context: Context) -> pb.PauseSearchResponse:
        """Hold a search."""
        return await self._ask(self._lifecycle.pause, request)

    async def ResumeSearch(self, request: pb.ResumeSearchRequest, context: Context) -> pb.ResumeSearchResponse:
        """Let a search go on."""
        return await self._ask(self._lifecycle.resume, request)

    async def UpdateSearch(self, request: pb.UpdateSearchRequest, context: Context) -> pb.UpdateSearchResponse:
        """Change a search."""
        return await self._ask(self._lifecycle.update, request)

    async def DeleteSearch(self, request: pb.DeleteSearchRequest, context: Context) -> pb.DeleteSearchResponse:
        """Delete a search."""
        return await self._sweep.delete_search(request, caller=current_identity())

    async def DeleteUnreferencedObjects(
        self, request: pb.DeleteUnreferencedObjectsRequest, context: Context
    ) -> pb.DeleteUnreferencedObjectsResponse:
        """Delete objects that nothing names."""
        return await self._sweep.delete_unreferenced(request)

    async def EnqueueTrial(self, request: pb.EnqueueTrialRequest, context: Context) -> pb.EnqueueTrialResponse:
        """Add a network to a search; its bytes are an object first."""
        return await self._ask(self._lifecycle.enqueue, await transfer.with_object(self._store, request))

    async def WatchSearch(self, request: pb.WatchSearchRequest, context: Context) -> AsyncIterator[Any]:
        """Stream a search's changes."""
        async for change in follow(self._core, self._searches, request, caller=current_identity()):
            yield change

    async def GetTrial(self, request: pb.GetTrialRequest, context: Context) -> pb.GetTrialResponse:
        """Return one trial."""
        return pb.GetTrialResponse(trial=await self._ask(self._listings.trial, request.name))

    async def ListTrials(self, request: pb.ListTrialsRequest, context: Context) -> Any:
        """List the trials of a search."""
        return await self._ask(self._listings.trials, request)

    async def GetNetwork(self, request: pb.GetNetworkRequest, context: Context) -> pb.GetNetworkResponse:
        """Return one network."""
        return pb.GetNetworkResponse(network=await self._ask(self._listings.network, request.name))

    async def ListNetworks(self, request: pb.ListNetworksRequest, context: Context) -> pb.ListNetworksResponse:
        """List networks."""
        return await self._ask(self._listings.networks, request)

    async def ExportNetwork(
        self, request: pb.ExportNetworkRequest, context: Context
    ) -> AsyncIterator[pb.ExportNetworkResponse]:
        """Stream one object."""
        ref = await self._ask(self._listings.exported, request)
        async for piece in transfer.export(self._store, ref):
            yield piece

    async def LinkNetwork(self, request: pb.LinkNetworkRequest, context: Context) -> pb.LinkNetworkResponse:
        """Return an address to download one object from."""
        export = pb.ExportNetworkRequest(name=request.name, form=request.form)
        ref = await self._ask(self._listings.exported, export)
        return await asyncio.to_thread(transfer.link, self._store, ref, request)

    async def ImportNetwork(
        self, request_iterator: AsyncIterator[pb.ImportNetworkRequest], context: Context
    ) -> pb.ImportNetworkResponse:
        """Store one object."""
        return pb.ImportNetworkResponse(object=await transfer.receive(self._store, request_iterator))

    async def GetDataset(self, request: pb.GetDatasetRequest, context: Context) -> pb.GetDatasetResponse:
        """Return one data set."""
        found = await self._ask(partial(self._listings.dataset, search=request.search), request.name)
        return pb.GetDatasetResponse(dataset=await self._datasets.described(found))

    async def ListDatasets(self, request: pb.ListDatasetsRequest, context: Context) -> pb.ListDatasetsResponse:
        """List data sets."""
        return await self._ask(self._listings.datasets, request)

    async def UploadDatasetObject(
        self, request_iterator: AsyncIterator[pb.UploadDatasetObjectRequest], context: Context
    ) -> pb.UploadDatasetObjectResponse:
        """Store one object of a data set."""
        return pb.UploadDatasetObjectResponse(object=await self._datasets.receive(request_iterator))

    async def CreateDataset(self, request: pb.CreateDatasetRequest, context: Context) -> pb.CreateDatasetResponse:
        """Name a data set."""
        return await self._datasets.create(request, caller=current_identity())

    async def DeleteDataset(self, request: pb.DeleteDatasetRequest, context: Context) -> pb.DeleteDatasetResponse:
        """Forget a data set's name."""
        return await self._ask(self._datasets.delete, request)

    async def ListGenerators(self, request: pb.ListGeneratorsRequest, context: Context) -> pb.ListGeneratorsResponse:
        """List generators."""
        return await self._core.submit(partial(self._listings.generators, request))

    async def GetAgent(self, request: pb.GetAgentRequest, context: Context) -> pb.GetAgentResponse:
        """Return one agent."""
        return pb.GetAgentResponse(agent=await self._core.submit(partial(self._listings.agent, request.name)))

    async def ListAgents(self, request: pb.ListAgentsRequest, context: Context) -> pb.ListAgentsResponse:
        """List agents."""
        return await self._core.submit(partial(self._listings.agents, request))

    async def DrainAgent(self, request: pb.DrainAgentRequest, context: Context) -> pb.DrainAgentResponse:
        """Give an agent no more work."""
        return await self._ask(self._lifecycle.drain, request)

    async def UndrainAgent(self, request: pb.UndrainAgentRequest, context: Context) -> pb.UndrainAgentResponse:
        """Give an agent work again."""
        return await self._ask(self._lifecycle.undrain, request)

    async def GetServerInfo(self, request: pb.GetServerInfoRequest, context: Context) -> pb.GetServerInfoResponse:
        """Describe this scheduler."""
        return self._listings.info()  # not a command: it must answer while the journal does not

    async def GetDemand(self, request: pb.GetDemandRequest, context: Context) -> pb.GetDemandResponse:
        """Say what work there is."""
        return await self._core.submit(self._listings.demand)

    async def OfferServers(self, request: pb.OfferServersRequest, context: Context) -> pb.OfferServersResponse:
        """Keep what a deployer could start."""
        return await self._core.submit(partial(self._offers.put, request))
