"""Bytes of the facts in scheduler.wishes; the rows that scheduler.journal.codec takes into its tables."""

from collections.abc import Callable
from typing import Any

from nasmesh.v1 import journal_pb2 as pb
from scheduler.wishes import (
    AgentDrained,
    DatasetAdded,
    DatasetDeleted,
    SearchDeleted,
    SearchPaused,
    SearchResumed,
    SearchUpdated,
    TrialEnqueued,
)

Wish = (
    AgentDrained
    | DatasetAdded
    | DatasetDeleted
    | SearchDeleted
    | SearchPaused
    | SearchResumed
    | SearchUpdated
    | TrialEnqueued
)

ENCODE: dict[type, Callable[[Any], dict[str, Any]]] = {
    SearchPaused: lambda c: {"search_paused": pb.JournalSearchPaused(search_id=c.search)},
    SearchResumed: lambda c: {"search_resumed": pb.JournalSearchResumed(search_id=c.search)},
    SearchUpdated: lambda c: {"search_updated": pb.JournalSearchUpdated(search_id=c.search, spec=c.spec)},
    SearchDeleted: lambda c: {"search_deleted": pb.JournalSearchDeleted(search_id=c.search)},
    TrialEnqueued: lambda c: {"trial_enqueued": pb.JournalTrialEnqueued(search_id=c.search, proposal=c.proposal)},
    AgentDrained: lambda c: {
        "agent_drained": pb.JournalAgentDrained(agent=c.agent, draining=c.draining, release=c.release)
    },
    DatasetAdded: lambda c: {"dataset_added": pb.JournalDatasetAdded(dataset=c.dataset)},
    DatasetDeleted: lambda c: {"dataset_deleted": pb.JournalDatasetDeleted(dataset=c.dataset)},
}

DECODE: dict[str, Callable[[Any], Wish]] = {
    "search_paused": lambda m: SearchPaused(m.search_id),
    "search_resumed": lambda m: SearchResumed(m.search_id),
    "search_updated": lambda m: SearchUpdated(m.search_id, m.spec),
    "search_deleted": lambda m: SearchDeleted(m.search_id),
    "trial_enqueued": lambda m: TrialEnqueued(m.search_id, m.proposal),
    "agent_drained": lambda m: AgentDrained(m.agent, m.draining, m.release),
    "dataset_added": lambda m: DatasetAdded(m.dataset),
    "dataset_deleted": lambda m: DatasetDeleted(m.dataset),
}
