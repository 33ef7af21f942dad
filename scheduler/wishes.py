"""Facts that come from a person's wish about something that exists already; the others are in scheduler.facts."""

from dataclasses import dataclass

from nasmesh.v1 import dataset_pb2, generate_service_pb2
from nasmesh.v1 import search_pb2 as pb


@dataclass(frozen=True, slots=True)
class SearchPaused:
    """A person held a search."""

    search: str


@dataclass(frozen=True, slots=True)
class SearchResumed:
    """A person let a held search go on."""

    search: str


@dataclass(frozen=True, slots=True)
class SearchUpdated:
    """A person changed a search; the spec is complete."""

    search: str
    spec: pb.SearchSpec


@dataclass(frozen=True, slots=True)
class SearchDeleted:
    """A person deleted an ended search."""

    search: str


@dataclass(frozen=True, slots=True)
class TrialEnqueued:
    """A person added a network to a search; control parameters are complete."""

    search: str
    proposal: generate_service_pb2.Proposal


@dataclass(frozen=True, slots=True)
class AgentDrained:
    """A person drained an agent, or took that back; `release`: its trainings are asked back."""

    agent: str
    draining: bool
    release: bool = False


@dataclass(frozen=True, slots=True)
class DatasetAdded:
    """A person added a data set: as it is listed, less its time."""

    dataset: dataset_pb2.Dataset


@dataclass(frozen=True, slots=True)
class DatasetDeleted:
    """A person deleted the name of an added data set: "datasets/{id}"."""

    dataset: str
