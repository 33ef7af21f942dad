"""What a rehearsal knows of its data: built-in sets from the catalogue, added ones from a journal."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

from nasmesh.data import catalog
from nasmesh.data.info import DatasetInfo
from nasmesh.data.manifest import info_of_dataset
from nasmesh.errors import NotFound
from nasmesh.v1 import dataset_pb2
from scheduler.journal import codec
from scheduler.journal.places import place_of, reader_of
from scheduler.replaying import replay_event

Added: TypeAlias = Mapping[str, dataset_pb2.Dataset]
NOTHING_ADDED: Added = MappingProxyType({})


class Data(NamedTuple):
    """The data of a search, and what is known of the set they are of."""

    spec: dataset_pb2.DatasetSpec
    info: DatasetInfo

    @property
    def split_sizes(self) -> tuple[int, int, int]:
        """Samples of the train, validation and test splits."""
        return catalog.split_sizes(self.spec, self.info)

    @property
    def seen(self) -> DatasetInfo:
        """The set as its view shows it."""
        return catalog.viewed(self.info, self.spec.view)


def known(spec: dataset_pb2.DatasetSpec, added: Added = NOTHING_ADDED) -> Data:
    """Return the data of a complete specification; raises NotFound (DATASET_UNKNOWN)."""
    found = added.get(spec.dataset)
    return Data(spec, info_of_dataset(found) if found is not None else catalog.describe(spec.dataset, others=added))


def added_data(journal: str, name: str) -> Added:
    """Return the data sets that were added, by resource name, where `name` is no built-in one; nothing if it is.

    Nothing, too, where there is no journal at the URL: then the specification is refused with what is known without
    one. Raises Invalid (JOURNAL_URL_INVALID, JOURNAL_CORRUPT).
    """
    if name.rpartition("/")[2] in catalog.DATASETS:
        return NOTHING_ADDED
    reader = reader_of(place_of(journal))
    try:
        reader.open()
    except NotFound:
        return NOTHING_ADDED
    try:
        at, rows = reader.origin()
        state = codec.decode_rows(rows)
        for sequence, body in reader.events(at):
            replay_event(state, sequence, body)
    finally:
        reader.close()
    return state.datasets
