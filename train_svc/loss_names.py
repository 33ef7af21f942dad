"""Names of losses: which are built in, for what, and which are installed. Free of torch: the server reads it too."""

import difflib
from importlib import metadata

from nasmesh.data.training_fit import LOSSES
from nasmesh.errors import Invalid

ENTRY_POINTS = "nasmesh.losses"
"""Group of installed losses: functions of outputs [B, n] float32 and labels [B] or targets [B, T] that give a mean."""


def names_known() -> list[str]:
    """Return the losses that this server trains by, in alphabetical order."""
    return sorted({*LOSSES, *(point.name for point in metadata.entry_points(group=ENTRY_POINTS))})


def check_known(name: str, *, field: str = "config.loss") -> None:
    """Raise Invalid (TRAIN_CONFIG_INVALID) for a loss that is neither built in nor installed; empty is the default."""
    if not name or name in LOSSES or is_installed(name):
        return
    known = names_known()
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {close[0]}? Known" if close else "; known"
    raise Invalid("TRAIN_CONFIG_INVALID", f"{field}: there is no loss {name!r}{hint}: {', '.join(known)}", field=field)


def is_installed(name: str) -> bool:
    """Say whether a package here brings a loss of this name."""
    return bool(metadata.entry_points(group=ENTRY_POINTS, name=name))
