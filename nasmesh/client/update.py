"""What people type to change a search, "budget.max_trials=20", as the values and paths of UpdateSearch."""

import re
from collections.abc import Sequence

from nasmesh.client.spec import parse_message
from nasmesh.errors import Invalid
from nasmesh.v1 import search_pb2

_CAPITAL = re.compile("[A-Z]")


def read_update(
    changes: Sequence[str], removals: Sequence[str], current: search_pb2.SearchSpec
) -> tuple[search_pb2.SearchSpec, list[str]]:
    """Return the specification with the new values, and the paths that changed, each once.

    `removals` name fields that are left unset; labels are changed one by one. Raises Invalid as read_spec does, and
    (OVERRIDE_INVALID) where nothing is to be changed.
    """
    if not changes and not removals:
        raise Invalid("OVERRIDE_INVALID", "--set: say what to change, for example --set budget.max_trials=20")
    spec = parse_message(search_pb2.SearchSpec(), "{}", changes, source="--set")
    paths: dict[str, None] = {}
    labels = dict(current.labels) | dict(spec.labels)
    for text in [*(change.partition("=")[0] for change in changes), *removals]:
        top, _, rest = text.strip().partition(".")
        if top == "labels":
            if rest and text in removals:
                labels.pop(rest, None)
            elif not rest:
                labels = dict(spec.labels)
            paths["spec.labels"] = None
        else:
            paths[f"spec.{_snake(text.strip())}"] = None
    spec.labels.clear()
    spec.labels.update(labels if "spec.labels" in paths else {})
    return spec, list(paths)


def _snake(path: str) -> str:
    return _CAPITAL.sub(lambda found: f"_{found[0].lower()}", path)
