"""Checks a search's rule of early stopping and fills its defaults in."""

from collections.abc import Iterator

from nasmesh.v1 import search_pb2 as pb


def stopping_faults(full: pb.SearchSpec) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with a rule, as field and fault."""
    if full.HasField("early_stopping"):
        yield "early_stopping", "this version ends no trial early; leave it out"
