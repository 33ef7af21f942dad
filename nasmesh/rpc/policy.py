"""Who may call what: full method name to rule. A method without a row is refused everywhere; a test sees to the rows.

Rows about searches say who may ask at all; that clients see and change only their own is scheduler/ownership.py.
"""

from dataclasses import dataclass

from nasmesh.rpc.identity import Role


@dataclass(frozen=True, slots=True)
class Rule:
    """Who may call a method.

    `roles` may, however they signed in; `token_roles` may too, with a token of this very server: a certificate is good
    for the whole mesh, a token only for the servers that hold its hash. `anyone`: not even an identity is asked for.
    """

    roles: frozenset[Role] = frozenset()
    token_roles: frozenset[Role] = frozenset()
    anyone: bool = False

    def admits(self, roles: frozenset[Role], *, by_token: bool) -> bool:
        """Say whether a caller with these roles may call."""
        return self.anyone or bool(roles & self.roles) or (by_token and bool(roles & self.token_roles))


_READ = Rule(frozenset({Role.CLIENT_READ, Role.CLIENT_WRITE, Role.ADMIN}))
_WRITE = Rule(frozenset({Role.CLIENT_WRITE, Role.ADMIN}))
_ADMIN = Rule(frozenset({Role.ADMIN}))
_AGENT = Rule(frozenset({Role.AGENT}))
_SERVER = Rule(frozenset({Role.AGENT, Role.ADMIN}), token_roles=frozenset({Role.CLIENT_WRITE}))
# Agents learn by reflection what the server beside them serves, people with grpcurl how to call. It shows nothing that
# the public contracts do not, but it is work done for whoever asks, so whoever asks must be known.
_KNOWN = Rule(frozenset(Role))
# Load balancers and probes have no identity; the answer is one enum.
_ANYONE = Rule(anyone=True)


def _rows(service: str, **methods: Rule) -> dict[str, Rule]:
    return {f"/{service}/{method}": rule for method, rule in methods.items()}


POLICY: dict[str, Rule] = {
    **_rows(
        "nasmesh.v1.SchedulerService",
        CreateSearch=_WRITE,
        GetSearch=_READ,
        ListSearches=_READ,
        CancelSearch=_WRITE,
        PauseSearch=_WRITE,
        ResumeSearch=_WRITE,
        UpdateSearch=_WRITE,
        DeleteSearch=_ADMIN,
        DeleteUnreferencedObjects=_ADMIN,
        EnqueueTrial=_WRITE,
        WatchSearch=_READ,
        GetTrial=_READ,
        ListTrials=_READ,
        GetNetwork=_READ,
        ListNetworks=_READ,
        ExportNetwork=_WRITE,
        LinkNetwork=_WRITE,
        ImportNetwork=_WRITE,
        GetDataset=_READ,
        ListDatasets=_READ,
        UploadDatasetObject=_WRITE,
        CreateDataset=_WRITE,
        DeleteDataset=_WRITE,
        ListGenerators=_READ,
        GetAgent=_READ,
        ListAgents=_READ,
        DrainAgent=_ADMIN,
        UndrainAgent=_ADMIN,
        GetServerInfo=_READ,
        GetDemand=_ADMIN,
        OfferServers=_ADMIN,
    ),
    **_rows("nasmesh.v1.DeployerService", ListPools=_READ),
    # KEDA shows a certificate, or is a neighbour on a network that is trusted.
    **_rows(
        "externalscaler.ExternalScaler", IsActive=_READ, StreamIsActive=_READ, GetMetricSpec=_READ, GetMetrics=_READ
    ),
    **_rows("nasmesh.v1.DispatchService", Work=_AGENT, GetAttempt=_AGENT),
    **_rows("nasmesh.v1.GenerateService", ListServedGenerators=_SERVER, GetGenerator=_SERVER, Propose=_SERVER),
    **_rows(
        "nasmesh.v1.TrainService",
        StartTraining=_SERVER,
        GetTraining=_SERVER,
        ListTrainings=_SERVER,
        WatchTraining=_SERVER,
        CancelTraining=_SERVER,
        DeleteTraining=_SERVER,
        GetServer=_SERVER,
    ),
    **_rows(
        "nasmesh.v1.EvaluateService",
        StartEvaluation=_SERVER,
        GetEvaluation=_SERVER,
        ListEvaluations=_SERVER,
        WatchEvaluation=_SERVER,
        CancelEvaluation=_SERVER,
        DeleteEvaluation=_SERVER,
        GetServer=_SERVER,
    ),
    **_rows("grpc.health.v1.Health", Check=_ANYONE, Watch=_ANYONE, List=_ANYONE),
    **_rows("grpc.reflection.v1alpha.ServerReflection", ServerReflectionInfo=_KNOWN),
}
"""Full method name → rule."""


def rule_for(method: str) -> Rule | None:
    """Return the rule of "/package.Service/Method"; None: nobody may call it."""
    return POLICY.get(method)
