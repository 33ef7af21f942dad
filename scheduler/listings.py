"""What clients read besides searches: trials, networks, data sets, generators, agents. Methods are commands."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial

from nasmesh import __version__, ids
from nasmesh.data import catalog
from nasmesh.errors import Invalid, NotFound, Stale
from nasmesh.rpc.identity import LOCAL, Identity
from nasmesh.v1 import dataset_pb2, generate_service_pb2, object_pb2, search_pb2
from nasmesh.v1 import scheduler_service_pb2 as pb
from scheduler import compiled, convert, pages
from scheduler.activity_message import activity_message
from scheduler.datasets import visible
from scheduler.demand import demand_message
from scheduler.engine import Engine
from scheduler.fields import sized, tag
from scheduler.offers import Offers
from scheduler.ownership import is_visible
from scheduler.searches import Searches

_TRIALS = tag(pb.ListTrialsResponse.TRIALS_FIELD_NUMBER)
_OUTCOMES = {name.removeprefix("TRIAL_OUTCOME_"): number for name, number in search_pb2.TrialOutcome.items()}
_FINAL = {"true": True, "false": False}


class Listings:
    """Everything else that clients read."""

    def __init__(self, engine: Engine, searches: Searches, store_kind: str, offers: Offers | None = None) -> None:
        """Serve an engine; `offers` as of Searches."""
        self._engine = engine
        self._offers = Offers(engine.clock) if offers is None else offers
        self._searches = searches
        self._store_kind = store_kind

    def trial(self, name: str, *, caller: Identity = LOCAL) -> search_pb2.Trial:
        """Return a trial; raises NotFound (TRIAL_UNKNOWN)."""
        search, number = ids.parse_trial(name)
        run = self._engine.state.searches.get(search)
        if run is None or number > len(run.trials) or not is_visible(caller, run.owner):
            raise NotFound("TRIAL_UNKNOWN", f"there is no trial {name}", field="name")
        return _copy(run.trials[number - 1])

    def trials(self, request: pb.ListTrialsRequest, *, caller: Identity = LOCAL) -> bytes:
        """Return a page of a search's trials, by number: an encoded ListTrialsResponse."""
        run = self._searches.run(request.parent, field="parent", caller=caller)
        terms = dict(
            pages.parse_filter(request.filter, {"outcome": _OUTCOMES.__contains__, "final": _FINAL.__contains__})
        )
        start = max(0, pages.start_index(f"trials {run.id}", request.page_token))

        def rows() -> Iterator[tuple[str, Callable[[], bytes]]]:
            for index in range(start, len(run.trials)):
                if not terms or _is_listed(run.trials[index], terms):
                    yield str(index + 1), partial(run.trials.body, index)

        found, token = pages.take_weighed(f"trials {run.id}", request.page_size, rows(), len)
        # As kept: a trial that has ended is not made into a message only to be encoded again.
        page = b"".join(part for body in found for part in (_TRIALS, sized(body)))
        return page + pb.ListTrialsResponse(next_page_token=token).SerializeToString()

    def network(self, name: str, *, caller: Identity = LOCAL) -> search_pb2.Network:
        """Return a network; raises NotFound (NETWORK_UNKNOWN)."""
        ids.parse_name("networks", name)
        found = self._engine.state.networks.get(name)
        if found is None or not (caller.sees_all or name in self._networks_of(caller)):
            raise NotFound("NETWORK_UNKNOWN", f"no search has used {name}", field="name")
        return found

    def networks(self, request: pb.ListNetworksRequest, *, caller: Identity = LOCAL) -> pb.ListNetworksResponse:
        """Return a page of networks in the order of first use: first by anybody, or first by the caller."""
        state = self._engine.state
        names = state.network_names if caller.sees_all else list(self._networks_of(caller))
        start = pages.start_index("networks", request.page_token) + 1
        rows = (
            (str(index), partial(state.networks.__getitem__, names[index]))
            for index in range(start, len(names))
            if names[index]
        )
        found, token = pages.take("networks", request.page_size, rows)
        return pb.ListNetworksResponse(networks=found, next_page_token=token)

    def _networks_of(self, caller: Identity) -> dict[str, None]:
        """Return the networks that a caller's own searches have used."""
        runs = [run for run in self._engine.state.searches.values() if is_visible(caller, run.owner)]
        return {trial.network.name: None for run in runs for trial in run.trials if trial.network.name}

    def datasets(self, request: pb.ListDatasetsRequest, *, caller: Identity = LOCAL) -> pb.ListDatasetsResponse:
        """Return a page of data sets, by name."""
        known = self._datasets(caller)
        after = pages.start_after("datasets", request.page_token)
        rows = ((name, partial(known.__getitem__, name)) for name in sorted(known) if name > after)
        found, token = pages.take("datasets", request.page_size, rows)
        return pb.ListDatasetsResponse(datasets=found, next_page_token=token)

    def dataset(self, name: str, *, search: str = "", caller: Identity = LOCAL) -> dataset_pb2.Dataset:
        """Return a data set, by its own name or as what a search uses.

        One whose name was deleted, or stands for other data since, has nothing but its name and its manifest. Raises
        NotFound (DATASET_UNKNOWN, SEARCH_UNKNOWN).
        """
        known = self._datasets(caller)
        if search:
            data = self._searches.run(search, field="search", caller=caller).spec.data
            name = data.dataset
            if data.HasField("manifest") and (name not in known or known[name].manifest != data.manifest):
                return dataset_pb2.Dataset(name=name, manifest=data.manifest)
        ids.parse_name("datasets", name)
        if name not in known:
            raise NotFound("DATASET_UNKNOWN", f"there is no {name}; known: {', '.join(sorted(known))}", field="name")
        return known[name]

    def generators(self, request: pb.ListGeneratorsRequest) -> pb.ListGeneratorsResponse:
        """Return a page of generators, by name."""
        after = pages.start_after("generators", request.page_token)
        there = self._offers.generators(self._engine.agents.generators())
        known = [generator for generator in there if generator.name > after]
        rows: Iterator[tuple[str, Callable[[], generate_service_pb2.Generator]]] = (
            (generator.name, partial(_itself, generator)) for generator in known
        )
        found, token = pages.take("generators", request.page_size, rows)
        return pb.ListGeneratorsResponse(generators=found, next_page_token=token)

    def agent(self, name: str) -> pb.Agent:
        """Return an agent; raises NotFound (AGENT_UNKNOWN)."""
        ids.parse_name("agents", name)
        entry = self._engine.agents.get(name)
        if entry is None:
            raise NotFound("AGENT_UNKNOWN", f"{name} has not been here since the scheduler started", field="name")
        return convert.agent_message(entry, self._engine.state)

    def agents(self, request: pb.ListAgentsRequest) -> pb.ListAgentsResponse:
        """Return a page of agents, by name."""
        after = pages.start_after("agents", request.page_token)
        rows = (
            (entry.name, partial(convert.agent_message, entry, self._engine.state))
            for entry in self._engine.agents.all()
            if entry.name > after
        )
        found, token = pages.take("agents", request.page_size, rows)
        return pb.ListAgentsResponse(agents=found, next_page_token=token)

    def info(self) -> pb.GetServerInfoResponse:
        """Describe this scheduler."""
        engine = self._engine
        response = pb.GetServerInfoResponse(
            version=__version__,
            epoch=engine.state.epoch,
            journal=engine.journal.kind_name,
            store=self._store_kind,
            compiled=compiled.in_use(),
        )
        response.start_time.FromMicroseconds(engine.start_time_us)
        response.activity.CopyFrom(activity_message(engine))
        return response

    def demand(self) -> pb.GetDemandResponse:
        """Return what waits and what runs, by what it needs."""
        return demand_message(self._engine)

    def exported(self, request: pb.ExportNetworkRequest, *, caller: Identity = LOCAL) -> object_pb2.ObjectRef:
        """Return the object that an export names.

        Raises NotFound (NETWORK_UNKNOWN, TRIAL_UNKNOWN), Stale (NOT_TRAINED, NOT_QUANTIZED, NOT_REPORTED), Invalid
        (FIELD_INVALID).
        """
        if request.form not in pb.ExportForm.values():
            raise Invalid("FIELD_INVALID", f"form: {request.form} is no form", field="form")
        if request.name.startswith("networks/"):
            if request.form not in (pb.EXPORT_FORM_UNSPECIFIED, pb.EXPORT_FORM_NETWORK):
                raise Invalid("FIELD_INVALID", "form: name a trial to export what was trained", field="form")
            return self.network(request.name, caller=caller).object
        trial = self.trial(request.name, caller=caller)
        refs = {
            pb.EXPORT_FORM_NETWORK: trial.network.object,
            pb.EXPORT_FORM_CHECKPOINT: trial.checkpoint,
            pb.EXPORT_FORM_QUANTIZED: trial.quantized,
            pb.EXPORT_FORM_REPORT: trial.report,
        }
        ref = refs.get(request.form, trial.model)
        if not ref.key:
            reason, what = _MISSING.get(request.form, _MISSING[pb.EXPORT_FORM_MODEL])
            raise Stale(reason, f"{request.name} {what}", field="name")
        return ref

    def _datasets(self, caller: Identity) -> dict[str, dataset_pb2.Dataset]:
        """Return the catalogue, with what connected servers say in its place, who has it first; and added ones."""
        built_in = [catalog.message(info, available=False) for info in catalog.DATASETS.values()]
        known = {dataset.name: dataset for dataset in built_in}
        for entry in self._engine.agents.connected():
            for dataset in entry.server.datasets:
                if dataset.name not in known or not known[dataset.name].available:
                    known[dataset.name] = dataset
        for dataset in self._offers.datasets():
            if dataset.available and not (dataset.name in known and known[dataset.name].available):
                known[dataset.name] = dataset
        known.update(visible(self._engine.state, caller))
        return known


_MISSING = {
    pb.EXPORT_FORM_MODEL: ("NOT_TRAINED", "is not trained yet; wait for it, or export its network (--form network)"),
    pb.EXPORT_FORM_QUANTIZED: (
        "NOT_QUANTIZED",
        "has no 8-bit copy: its evaluation was not asked for one; set evaluate.quantization in the specification, or "
        "have one made of the best network: nasmesh search best SEARCH --out DIR --int8",
    ),
    pb.EXPORT_FORM_REPORT: ("NOT_REPORTED", "has no evaluation report; its evaluation has not ended, or wrote none"),
}


def _is_listed(trial: search_pb2.Trial, terms: Mapping[str, str]) -> bool:
    """Say whether a trial meets the terms of a filter."""
    if "outcome" in terms and trial.outcome != _OUTCOMES[terms["outcome"]]:
        return False
    return "final" not in terms or trial.final == _FINAL[terms["final"]]


def _copy(trial: search_pb2.Trial) -> search_pb2.Trial:
    """Return a copy: the reply is sent after the step, when the trial may have gone on."""
    copy = search_pb2.Trial()
    copy.CopyFrom(trial)
    return copy


def _itself(generator: generate_service_pb2.Generator) -> generate_service_pb2.Generator:
    return generator
