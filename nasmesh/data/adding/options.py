"""What a person may say about the data that is added; everything else is found out from the files."""

from dataclasses import dataclass, fields
from pathlib import Path

from nasmesh.errors import Invalid


@dataclass(frozen=True, slots=True)
class Options:
    """Choices of `nasmesh dataset add`. What is left at its default is inferred; what a reader cannot use is refused.

    `size` is (height, width) to which images are scaled and cropped; `mode` "grey" or "rgb"; `label`, `target`,
    `image`, `group` and `split` name columns of tables or arrays of archives; `samples` names an array; `drop` names
    columns; `layout` says where the channels are; `window` and `stride` cut series; `classes` bounds labels that are
    numbers.
    """

    description: str = ""
    skip_bad: bool = False
    task: str = ""
    kind: str = ""
    size: tuple[int, int] | None = None
    mode: str = ""
    label: str = ""
    target: tuple[str, ...] = ()
    image: str = ""
    group: str = ""
    split: str = ""
    samples: str = ""
    drop: tuple[str, ...] = ()
    layout: str = ""
    window: int = 0
    stride: int = 0
    classes: int = 0


_ALWAYS = frozenset({"description", "skip_bad"})
_CHOICES = {
    "task": ("classification", "regression"),
    "kind": ("image", "series", "table"),
    "mode": ("grey", "rgb"),
}
_SIDE = 4096


def check(options: Options, takes: frozenset[str], source: str) -> None:
    """Raise Invalid (DATASET_OPTION_INVALID, DATASET_OPTION_UNUSED) for options of no sense, or none here."""
    for name, allowed in _CHOICES.items():
        value = getattr(options, name)
        if value and value not in allowed:
            raise _invalid(name, f"{value[:80]!r} is not one of {', '.join(allowed)}")
    if options.size is not None and not all(1 <= side <= _SIDE for side in options.size):
        raise _invalid("size", f"{options.size} is not HEIGHTxWIDTH from 1 to {_SIDE}")
    for name in ("window", "stride", "classes"):
        if getattr(options, name) < 0:
            raise _invalid(name, "must not be negative")
    if options.stride and not options.window:
        raise _invalid("stride", "say also how long a --window is")
    if options.label and options.target:
        raise _invalid("target", "give a label to classify or targets to predict, not both")
    if options.target and options.task == "classification":
        raise _invalid("task", "targets are predicted by regression; name a label instead")
    for field in fields(Options):
        given = getattr(options, field.name) != field.default
        if given and field.name not in _ALWAYS | takes:
            raise Invalid(
                "DATASET_OPTION_UNUSED",
                f"{field.name}: {source} have no use for it; leave it out",
                field=field.name,
            )


def _invalid(name: str, what: str) -> Invalid:
    return Invalid("DATASET_OPTION_INVALID", f"{name}: {what}", field=name)


def check_path(path: Path) -> Path:
    """Return the absolute path of what is added; raises Invalid (DATASET_PATH_UNKNOWN, DATASET_FORMAT_UNKNOWN)."""
    found = path.expanduser().absolute()
    if not found.exists():
        raise Invalid("DATASET_PATH_UNKNOWN", f"path: there is nothing at {found}", field="path")
    if not (found.is_file() or found.is_dir()):
        raise Invalid("DATASET_FORMAT_UNKNOWN", f"path: {found} is neither a file nor a folder", field="path")
    return found
