"""Whether trainings of a search go with its data: what no trial could be trained with is refused once, not by each."""

from collections.abc import Iterator

from nasmesh import training_config
from nasmesh.data.info import DatasetInfo
from nasmesh.data.training_fit import data_faults
from nasmesh.v1 import search_pb2


def training_data_faults(full: search_pb2.SearchSpec, info: DatasetInfo) -> Iterator[tuple[str, str]]:
    """Yield fields of trainings, complete, that the data has no use for; what the final one shares is named once."""
    if full.evaluate.table:
        return  # nothing is trained
    searched = dict(data_faults(full.train, info))
    yield from ((f"train.{name}", what) for name, what in searched.items())
    if full.HasField("final"):
        final = training_config.merge(full.train, full.final.train)
        for name, what in data_faults(final, info):
            if name not in searched:
                yield f"final.train.{name}", what
