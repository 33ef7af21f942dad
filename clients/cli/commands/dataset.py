"""`nasmesh dataset`: data sets that there are, and adding one's own."""

import re
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clients.cli.adding import listed, nowhere, read_dataset, store_dataset
from clients.cli.options import SCHEDULER, AsJson, Insecure, Scheduler, connect
from clients.cli.output import message_dict, print_json, print_line, print_messages, print_table
from nasmesh.errors import Invalid

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nasmesh.data.adding.options import Options
    from nasmesh.v1 import dataset_pb2

app = typer.Typer(no_args_is_help=True, help="Data sets: built-in ones, and those that were added.")
Name = Annotated[str, typer.Argument(metavar="NAME", help='Id of the data set, or "datasets/{id}".')]
# Shards are a few megabytes each; a scheduler that is restarted meanwhile is waited for.
_PATIENCE_S = 30.0
_NAMES = 12
_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")


class Task(StrEnum):
    """What is learned."""

    CLASSIFICATION = "classification"
    REGRESSION = "regression"


class Kind(StrEnum):
    """What a sample is."""

    IMAGE = "image"
    SERIES = "series"
    TABLE = "table"


class Mode(StrEnum):
    """What images become."""

    GREY = "grey"
    RGB = "rgb"


@app.command("list")
def list_datasets(scheduler: Scheduler = SCHEDULER, as_json: AsJson = False, insecure: Insecure = False) -> None:
    """List data sets."""
    with connect(scheduler, insecure=insecure) as client:
        found = list(client.datasets())
    if as_json:
        print_messages(found)
        return
    rows = [
        (item.name, _dims(item), _learned(item), _splits(item), "yes" if item.available else "no", item.description)
        for item in found
    ]
    print_table(("name", "sample", ">classes", "samples", "present", "description"), rows, empty="there is none")


@app.command("show")
def show_dataset(
    name: Name, scheduler: Scheduler = SCHEDULER, as_json: AsJson = False, insecure: Insecure = False
) -> None:
    """Show one data set."""
    with connect(scheduler, insecure=insecure) as client:
        item = client.get_dataset(name)
    if as_json:
        print_json(message_dict(item))
    else:
        _print_dataset(item)


@app.command("add")
def add_dataset(  # noqa: PLR0913 - the flags of a command
    name: Annotated[str, typer.Argument(metavar="NAME", help="Id that it gets.")],
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="Images by class, CSV/Parquet, .npz/.npy, IDX or CIFAR archive.")
    ],
    task: Annotated[Task | None, typer.Option(help="What is learned, where the labels do not say.")] = None,
    kind: Annotated[Kind | None, typer.Option(help="What a sample is, where the files do not say.")] = None,
    label: Annotated[str, typer.Option(metavar="NAME", help="Column or array of classes.")] = "",
    target: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Column or array of numbers to predict. Repeatable.")
    ] = None,
    group: Annotated[str, typer.Option(metavar="NAME", help="Column or array of subjects; none is in two splits")] = "",
    split: Annotated[str, typer.Option(metavar="COLUMN", help='Column that says "test" where a row tests.')] = "",
    image: Annotated[str, typer.Option(metavar="COLUMN", help="Column of image files.")] = "",
    samples: Annotated[str, typer.Option(metavar="NAME", help="Array of samples.")] = "",
    drop: Annotated[list[str] | None, typer.Option(metavar="COLUMN", help="Column to leave out. Repeatable.")] = None,
    size: Annotated[str, typer.Option(metavar="HxW", help="Scale and crop images to this size.")] = "",
    mode: Annotated[Mode | None, typer.Option(help="Make all images grey or colour.")] = None,
    layout: Annotated[str, typer.Option(metavar="nchw|nhwc|ncl|nlc", help="Where the channels of an array are.")] = "",
    window: Annotated[int, typer.Option(metavar="ROWS", help="Cut rows into series of this length.")] = 0,
    stride: Annotated[int, typer.Option(metavar="ROWS", help="From one window to the next [its length].")] = 0,
    classes: Annotated[int, typer.Option(metavar="N", help="Labels are 0 to N-1; others are refused.")] = 0,
    description: Annotated[str, typer.Option(metavar="TEXT", help="One line for people.")] = "",
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out what cannot be used, and record it.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Read everything, store nothing.")] = False,
    scheduler: Scheduler = SCHEDULER,
    as_json: AsJson = False,
    insecure: Insecure = False,
) -> None:
    """Add your own data: it is read, checked, cut into objects and stored once, under a name that searches use."""
    from nasmesh.client.datasets import dataset_name

    options = _options(
        description=description,
        skip_bad=skip_bad,
        task=task.value if task else "",
        kind=kind.value if kind else "",
        size=_parse_size(size),
        mode=mode.value if mode else "",
        label=label,
        target=tuple(target or ()),
        image=image,
        group=group,
        split=split,
        samples=samples,
        drop=tuple(drop or ()),
        layout=layout,
        window=window,
        stride=stride,
        classes=classes,
    )
    dataset_name(name)
    if check:
        manifest, ref = read_dataset(path, options, nowhere)
        item, skipped = listed(manifest, name, ref), manifest.skipped_count
    else:
        with connect(scheduler, insecure=insecure, patience_s=_PATIENCE_S) as client:
            item, skipped = store_dataset(client, name, path, options)
    _tell_added(item, skipped, stored=not check, as_json=as_json)


def _tell_added(item: "dataset_pb2.Dataset", skipped: int, *, stored: bool, as_json: bool) -> None:
    if as_json:
        print_json(message_dict(item) | {"skipped": skipped, "stored": stored})
        return
    _print_dataset(item)
    if skipped:
        print_line(f"left out: {skipped}, as --skip-bad says; the first 1000 are named in the manifest")
    if stored:
        print_line(f"use it: data: {{dataset: {item.name}}} in a specification, or nasmesh search --data {item.name}")
    else:
        print_line("it can be added; nothing was stored (--check)")


@app.command("delete")
def delete_dataset(
    name: Name, scheduler: Scheduler = SCHEDULER, as_json: AsJson = False, insecure: Insecure = False
) -> None:
    """Forget an added data set's name; searches that use it go on, objects go with `nasmesh admin sweep`."""
    from nasmesh.client.datasets import dataset_name

    with connect(scheduler, insecure=insecure) as client:
        client.delete_dataset(name)
    if as_json:
        print_json({"deleted": dataset_name(name)})
    else:
        print_line(f"deleted {dataset_name(name)}; its objects go with `nasmesh admin sweep` once no search names them")


def _options(**given: object) -> "Options":
    from nasmesh.data.adding.options import Options

    return Options(**given)  # type: ignore[arg-type]  # names and types are those of the flags above


def _parse_size(text: str) -> tuple[int, int] | None:
    if not text:
        return None
    match = _SIZE.fullmatch(text)
    if match is None:
        raise Invalid("DATASET_OPTION_INVALID", f"size: {text[:40]!r} is not HxW, for example 32x32", field="size")
    return int(match[1]), int(match[2])


def _print_dataset(item: "dataset_pb2.Dataset") -> None:
    from nasmesh.v1 import dataset_pb2 as pb

    kind = pb.SampleKind.Name(item.kind).removeprefix("SAMPLE_KIND_").lower()
    rows = [("description", item.description), ("sample", f"{kind} {_dims(item)}")]
    if item.channel_names:
        word = "channels" if item.kind == pb.SAMPLE_KIND_SERIES else "columns"
        rows.append((word, named(len(item.channel_names), item.channel_names)))
    if item.targets:
        rows.append(("targets", named(item.targets, item.target_names)))
    else:
        rows.append(("classes", named(item.classes, item.class_names)))
    rows.append(("splits", _splits(item) + (", by group" if item.grouped else "")))
    rows.append(("content", item.content_digest or "not known"))
    if item.HasField("manifest"):
        rows.append(("manifest", item.manifest.key))
        rows.append(("stored", f"{item.size_bytes:,} bytes"))
    if item.owner:
        rows.append(("owner", item.owner))
    if item.HasField("create_time"):
        rows.append(("added", f"{item.create_time.ToDatetime():%Y-%m-%d %H:%M} UTC"))
    if not item.available:
        rows.append(("present", "no"))
    print_line(item.name)
    print_table(("", ""), rows, empty="")


def _dims(item: "dataset_pb2.Dataset") -> str:
    return "x".join(str(dim) for dim in item.sample_dims)


def named(count: int, names: "Sequence[str]") -> str:
    """Return a number of things and the first of their names, where they have some."""
    shown = ", ".join(names[:_NAMES]) + (" …" if len(names) > _NAMES else "")
    return f"{count}: {shown}" if shown else str(count)


def _learned(item: "dataset_pb2.Dataset") -> str:
    return f"{item.targets} target{'s' if item.targets > 1 else ''}" if item.targets else str(item.classes)


def _splits(item: "dataset_pb2.Dataset") -> str:
    from nasmesh.v1 import measurement_pb2

    return ", ".join(
        f"{measurement_pb2.Split.Name(part.split).removeprefix('SPLIT_').lower()} {part.samples}"
        for part in item.splits
    )
