"""The folder of a report: written whole or not at all, and never over files that are not from a report."""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clients.cli.report.artefacts import (
    AS_TRAINED,
    CHECKPOINT,
    EVALUATION,
    INT8,
    LOADER,
    MODEL,
    PYTHON,
    WEIGHTS,
    Wanted,
    gather,
)
from clients.cli.report.card import card
from clients.cli.report.collect import Collected, collect
from clients.cli.report.figures import FORMAT, report_json
from clients.cli.report.markdown import report_md
from clients.cli.report.plots import growth_png
from nasmesh.client import Client
from nasmesh.errors import Conflict, Invalid, NasmeshError

CARD, REPORT, FIGURES, PLOT = "card.md", "report.md", "report.json", "growth.png"
# report.json last: where it is, the rest is complete.
FILES = (MODEL, CHECKPOINT, INT8, PYTHON, WEIGHTS, LOADER, EVALUATION, CARD, REPORT, PLOT, FIGURES)


@dataclass(frozen=True, slots=True)
class Written:
    """Where a report is, what it reports, and what was checked of its model."""

    folder: Path
    files: Sequence[str]
    collected: Collected
    checks: Sequence[str]

    def path(self, name: str) -> str:
        """Return the path of one file, as people type it."""
        return str(self.folder / name)


def check_folder(folder: Path, *, force: bool) -> None:
    """Refuse a folder that a report must not be written to; raises Conflict (OUT_FOREIGN) and Invalid (OUT_INVALID)."""
    if "{search}" in str(folder):
        return  # names a folder of its own
    if folder.exists() and not folder.is_dir():
        raise Invalid("OUT_INVALID", f"--out: {folder} is a file; name a folder", field="out")
    above = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise Invalid("OUT_INVALID", f"--out: {above} cannot be written to; name another folder", field="out")
    foreign = [name for name in FILES if (folder / name).exists()]
    if foreign and not force and not _is_ours(folder):
        raise Conflict(
            "OUT_FOREIGN",
            f"--out: {folder} holds a {foreign[0]} that is not from a report; name another folder or add --force",
            field="out",
        )


def _is_ours(folder: Path) -> bool:
    try:
        with (folder / FIGURES).open(encoding="utf-8") as file:
            content = json.load(file)
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("format") == FORMAT


def write_report(client: Client, name: str, folder: Path, *, force: bool, wanted: Wanted = AS_TRAINED) -> Written:
    """Fetch, check and write the best network of a search, as it stands, with its report.

    Raises NotFound (SEARCH_UNKNOWN), Stale (NOT_TRAINED), Conflict (OUT_FOREIGN), NasmeshError (MODEL_UNVERIFIED,
    OUT_UNWRITABLE), and what `gather` raises.
    """
    collected = collect(client, name)
    target = Path(str(folder).replace("{search}", collected.search.name.rpartition("/")[2]))
    check_folder(target, force=force)
    made = gather(client, collected, wanted)
    verification = made.verification
    plot = growth_png(collected)
    content: dict[str, bytes] = {
        **made.files,
        CARD: card(collected, made).encode(),
        REPORT: report_md(collected, verification, plot=plot is not None).encode(),
    }
    if plot is not None:
        content[PLOT] = plot
    names = [*content, FIGURES]
    figures = report_json(collected, verification=verification.checks, files=names, copied=made.copied)
    content[FIGURES] = (json.dumps(figures, indent=2, ensure_ascii=False) + "\n").encode()
    try:
        _write(target, content)
    except OSError as error:
        raise NasmeshError(
            "OUT_UNWRITABLE", f"--out: {target} cannot be written ({error.strerror}); name another folder", field="out"
        ) from error
    return Written(target, names, collected, verification.checks)


def _write(target: Path, content: dict[str, bytes]) -> None:
    """Write everything beside the target first, so that a crash leaves the old report or the new one."""
    target = target.absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.parent / f".{target.name}.{os.getpid()}.tmp"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    try:
        for name, data in content.items():
            with (beside / name).open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        if not target.exists():
            os.rename(beside, target)
            return
        for name in FILES:
            if name in content:
                os.replace(beside / name, target / name)
            else:
                (target / name).unlink(missing_ok=True)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
