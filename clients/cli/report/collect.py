"""Gathers what a report says from the scheduler. Judges nothing, draws nothing."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import nasmesh
from clients.cli.display.view import score
from clients.cli.report.finals import Final, finals, headline
from nasmesh.client import Client
from nasmesh.errors import NasmeshError
from nasmesh.v1 import dataset_pb2, measurement_pb2
from nasmesh.v1.search_pb2 import Search, Trial


@dataclass(frozen=True, slots=True)
class Collected:
    """A search with its trials, its best trial, and who worked on it."""

    search: Search
    trials: Sequence[Trial]
    best: Trial
    dataset: dataset_pb2.Dataset | None
    versions: Mapping[str, str]
    # Trials of other searches that this one's network was taken over from, newest first.
    origins: Sequence[Trial] = ()

    @property
    def metric(self) -> str:
        """The metric that says how good a network is."""
        return headline(self.search, self.dataset)

    @property
    def test_score(self) -> float | None:
        """That metric on the test split; None before the final evaluation."""
        return score(self.best, self.metric, measurement_pb2.SPLIT_TEST)

    @property
    def finals(self) -> list[Final]:
        """The final networks with their scores over seeds."""
        return finals(self.trials, self.metric)

    @property
    def best_final(self) -> Final | None:
        """What the final phase found of the best network; None before it has."""
        return next((final for final in self.finals if self.best in final.trials), None)

    @property
    def has_pictures(self) -> bool:
        """Whether samples are pictures, bytes; nothing is known of data that is gone."""
        return self.dataset is None or self.dataset.kind in _PICTURES

    @property
    def class_names(self) -> list[str]:
        """Names of the classes in the order of the network's outputs; empty where they have none."""
        return _class_names(self.search, self.dataset)

    @property
    def wall_time_s(self) -> float:
        """Seconds from creation to end; 0 while it runs."""
        if not self.search.HasField("end_time"):
            return 0.0
        return (self.search.end_time.ToNanoseconds() - self.search.create_time.ToNanoseconds()) / 1e9

    @property
    def test_accuracy(self) -> float | None:
        """The one score on the test split; None before the final evaluation."""
        return score(self.best, "accuracy", measurement_pb2.SPLIT_TEST)

    @property
    def lineage(self) -> list[Trial]:
        """The trials that the best descends from by first parents, oldest first, itself last."""
        by_name = {trial.name: trial for trial in self.trials}
        chain: list[Trial] = []
        here: Trial | None = self.best
        while here is not None and here not in chain:
            chain.append(here)
            here = by_name.get(here.parents[0]) if here.parents else None
        return [*reversed(self.origins), *chain[::-1]]


_PICTURES = (dataset_pb2.SAMPLE_KIND_UNSPECIFIED, dataset_pb2.SAMPLE_KIND_IMAGE)


def _class_names(search: Search, dataset: dataset_pb2.Dataset | None) -> list[str]:
    names = list(dataset.class_names) if dataset else []
    chosen = search.spec.data.view.classes
    return [names[label] for label in chosen] if names and chosen else names


def facts_of_trial(client: Client, trial: Trial) -> dict[str, object]:
    """Return what a stand-alone file of a trial's network says of its data; raises NotFound (SEARCH_UNKNOWN)."""
    search = client.get_search(trial.name.partition("/trials/")[0])
    return facts_of(trial, search, _dataset(client, search))


def facts_of(trial: Trial, search: Search, dataset: dataset_pb2.Dataset | None) -> dict[str, object]:
    """Return what a stand-alone file of a network says of its data: see nasmesh.model.standalone."""
    facts: dict[str, object] = {
        "title": f"{trial.network.name} of {trial.name}, trained on {search.spec.data.dataset}."
    }
    if dataset is None:
        return facts
    if dataset.kind in _PICTURES:
        facts["sample_type"] = "uint8"
    if names := _class_names(search, dataset):
        facts["class_names"] = names
    if dataset.target_std:
        facts |= {"target_mean": list(dataset.target_mean), "target_std": list(dataset.target_std)}
    for key, given in (("channel_names", dataset.channel_names), ("target_names", dataset.target_names)):
        if given:
            facts[key] = list(given)
    return facts


def collect(client: Client, name: str) -> Collected:
    """Fetch everything that a report needs; raises NotFound (SEARCH_UNKNOWN) and Stale (NOT_TRAINED)."""
    search = client.get_search(name)
    best = client.best(name)
    trials = list(client.list_trials(name))
    info = client.server_info()
    versions = {"nasmesh": nasmesh.__version__, "scheduler": info.version, "python": platform.python_version()}
    for generator in client.generators():
        if generator.name == search.spec.generator.generator:
            versions[generator.name] = generator.version
    return Collected(search, trials, best, _dataset(client, search), versions, _origins(client, search))


def _origins(client: Client, search: Search) -> list[Trial]:
    """Return the trials of other searches that the network was taken over from, as far as they still exist."""
    found: list[Trial] = []
    here = search.spec.transfer.trial
    while here and here not in [trial.name for trial in found]:
        try:
            found.append(client.get_trial(here))
            here = client.get_search(here.partition("/trials/")[0]).spec.transfer.trial
        except NasmeshError:  # deleted since; what is recorded here still names it
            break
    return found


def _dataset(client: Client, search: Search) -> dataset_pb2.Dataset | None:
    try:
        found = client.get_dataset(search.spec.data.dataset, search=search.name)
    except NasmeshError:  # its servers may have left since; the report says less, and is right
        return None
    # An older scheduler goes by the name alone, which may stand for another data set by now.
    return found if found.manifest == search.spec.data.manifest else None


def split_text(collected: Collected) -> str:
    """Return how the data was divided, as words."""
    data = collected.search.spec.data
    rule = dataset_pb2.DivisionRule.Name(data.division).removeprefix("DIVISION_RULE_").lower().replace("_", " ")
    text = f"divided {rule} with seed {data.split_seed}, {data.validation_fraction:.0%} to validate"
    text += f", {data.test_fraction:.0%} to test" if data.HasField("test_fraction") else ", its own test split"
    view = data.view
    text += f", {view.fraction:.0%} of it used" if view.HasField("fraction") else ""
    text += f", at most {view.max_samples:,} samples" if view.max_samples else ""
    return text + (f", only labels {', '.join(map(str, view.classes))}" if view.classes else "")
