"""How long each call may take. A method without a row here has no place on the wire: a test walks the descriptors."""

from nasmesh import limits

_READ_S = 10.0
_WRITE_S = 10.0
_START_S = 5.0
# A proposal may build and rank many networks on a busy processor.
_PROPOSE_S = 300.0
# An object of up to 64 MiB over a slow line.
_TRANSFER_S = 600.0
# A stream that lasts as long as what it watches; liveness comes by keepalive and heartbeats.
_OPEN = None


def _rows(service: str, **methods: float | None) -> dict[str, float | None]:
    return {f"/nasmesh.v1.{service}/{method}": seconds for method, seconds in methods.items()}


DEADLINES_S: dict[str, float | None] = {
    **_rows(
        "SchedulerService",
        CreateSearch=_WRITE_S,
        PauseSearch=_WRITE_S,
        ResumeSearch=_WRITE_S,
        UpdateSearch=_WRITE_S,
        DeleteSearch=_WRITE_S,
        DeleteUnreferencedObjects=_TRANSFER_S,
        EnqueueTrial=_WRITE_S,
        DrainAgent=_WRITE_S,
        UndrainAgent=_WRITE_S,
        GetSearch=_READ_S,
        ListSearches=_READ_S,
        CancelSearch=_WRITE_S,
        WatchSearch=_OPEN,
        GetTrial=_READ_S,
        ListTrials=_READ_S,
        GetNetwork=_READ_S,
        ListNetworks=_READ_S,
        ExportNetwork=_TRANSFER_S,
        LinkNetwork=_READ_S,
        ImportNetwork=_TRANSFER_S,
        GetDataset=_READ_S,
        ListDatasets=_READ_S,
        UploadDatasetObject=_TRANSFER_S,
        CreateDataset=_WRITE_S,
        DeleteDataset=_WRITE_S,
        ListGenerators=_READ_S,
        GetAgent=_READ_S,
        ListAgents=_READ_S,
        GetServerInfo=_READ_S,
        GetDemand=_READ_S,
        OfferServers=_WRITE_S,
    ),
    **_rows("DeployerService", ListPools=_READ_S),
    **_rows("DispatchService", Work=_OPEN, GetAttempt=_READ_S),
    **_rows("GenerateService", ListServedGenerators=_READ_S, GetGenerator=_READ_S, Propose=_PROPOSE_S),
    **_rows(
        "TrainService",
        StartTraining=_START_S,
        GetTraining=_READ_S,
        ListTrainings=_READ_S,
        WatchTraining=_OPEN,
        CancelTraining=_START_S,
        DeleteTraining=_WRITE_S,
        GetServer=_READ_S,
    ),
    **_rows(
        "EvaluateService",
        StartEvaluation=_START_S,
        GetEvaluation=_READ_S,
        ListEvaluations=_READ_S,
        WatchEvaluation=_OPEN,
        CancelEvaluation=_START_S,
        DeleteEvaluation=_WRITE_S,
        GetServer=_READ_S,
    ),
}
"""Full method name → seconds; None for streams that stay open."""

# What a server of another make offers beside ours (health, reflection) answers at once or not at all.
OTHER_S = limits.HEARTBEAT_S


def deadline_s(method: str) -> float | None:
    """Return the deadline of a full method name, "/package.Service/Method"."""
    return DEADLINES_S.get(method, OTHER_S)
