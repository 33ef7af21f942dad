"""The envelope space of NAC (Kamath et al. 2018): its defaults, bounds and choices.

Entries in network order: the stem, then per stage its cells, then a widener after every stage but the last. Ids are
stable: cell k of stage s is "s{s}_c{k}" for ever, because cells are only ever appended to a stage.
"""

import math
from collections.abc import Sequence

from nasmesh.errors import FieldViolation, Invalid
from nasmesh.limits import ADMISSION_KERNEL
from nasmesh.spaces.blocks import LEAST_CELLS
from nasmesh.spaces.domains import OFF_ON, at_least, categorical, integer
from nasmesh.v1 import space_pb2 as pb

PALETTE = ("1x1", "3x3", "3x3sep", "5x5", "5x5sep", "7x7", "7x7sep")
DEFAULT_PALETTE = ("1x1", "3x3", "3x3sep", "5x5", "5x5sep", "7x7sep")
STEM = "stem"
# Bounds keep the flat view small: choices grow with the square of the cells.
MAX_STAGES = 8
MAX_CELLS = 64
MAX_CELLS_IN_ALL = 128
MAX_WIDTH = 4096


def cell_id(stage: int, cell: int) -> str:
    """Return the id of cell `cell` of stage `stage`, both from 1."""
    return f"s{stage}_c{cell}"


def widener_id(stage: int) -> str:
    """Return the id of the widener after stage `stage`, from 1."""
    return f"w{stage}"


def cells_choice(stage: int) -> str:
    """Return the name of the choice of how many cells stage `stage` has."""
    return f"stage_{stage}.cells"


def most_cells(stage: pb.EnvelopeStage) -> int:
    """Return how many cells a stage may end with: one more than the most that restructuring may still add to."""
    if stage.construct and stage.initial_cells <= stage.max_cells:
        return stage.max_cells + 1
    return stage.initial_cells


def limited_width(width: int, cells: int) -> int:
    """Return the width of the cells that are not last under the parameter limit (Kamath et al. 2018, section 3).

    `cells` is the stage's length; up to 2 cells need no limit.
    """
    if cells <= 2:
        return width
    return int(width / (cells - 2) * (math.sqrt(cells - 1) - 1))


def cell_width(space: pb.EnvelopeSpace, stage: int, cell: int, cells: int) -> int:
    """Return the nominal channels of cell `cell` in a stage of `cells`, all from 1; `space` must be complete."""
    width = space.stem.width << (stage - 1)
    return limited_width(width, cells) if space.limit_parameters and cell < cells else width


def complete(space: pb.EnvelopeSpace) -> pb.EnvelopeSpace:
    """Return a copy with the defaults of space.proto filled in."""
    full = pb.EnvelopeSpace()
    full.CopyFrom(space)
    if not full.palette:
        full.palette.extend(DEFAULT_PALETTE)
    full.stem.width = full.stem.width or 64
    full.stem.kernel = full.stem.kernel or 1
    if not full.stem.HasField("local_response_norm"):
        full.stem.local_response_norm = True
    if not full.HasField("branch_dropout"):
        full.branch_dropout = 0.2
    if not full.HasField("head_dropout"):
        full.head_dropout = 0.2
    if not full.HasField("skips"):
        full.skips = True
    for stage in full.stages:
        stage.max_cells = stage.max_cells or stage.initial_cells
    return full


def check(space: pb.EnvelopeSpace) -> None:
    """Raise Invalid (SPACE_INVALID) with every field that is out of bounds."""
    full = complete(space)
    found = [*_check_stages(full), *_check_palette(full.palette), *_check_numbers(full)]
    found = found or _check_channels(full) or _check_auxiliary(full)
    if found:
        raise Invalid("SPACE_INVALID", found[0].description, field=found[0].field, violations=found)


def _violation(field: str, what: str) -> FieldViolation:
    path = f"space.envelope.{field}"
    return FieldViolation(path, f"{path}: {what}")


def _check_stages(space: pb.EnvelopeSpace) -> list[FieldViolation]:
    found: list[FieldViolation] = []
    if not 1 <= len(space.stages) <= MAX_STAGES:
        found.append(_violation("stages", f"{len(space.stages)} stages; use 1 to {MAX_STAGES}"))
    for index, stage in enumerate(space.stages):
        if not 1 <= stage.initial_cells <= MAX_CELLS:
            what = f"{stage.initial_cells} cells; use 1 to {MAX_CELLS}"
            found.append(_violation(f"stages[{index}].initial_cells", what))
        elif stage.construct and not stage.initial_cells <= stage.max_cells < MAX_CELLS:
            what = f"{stage.max_cells} must be from initial_cells to {MAX_CELLS - 1}, or construct false"
            found.append(_violation(f"stages[{index}].max_cells", what))
    total = sum(most_cells(stage) for stage in space.stages)
    if not found and total > MAX_CELLS_IN_ALL:
        found.append(_violation("stages", f"may grow to {total} cells; allow at most {MAX_CELLS_IN_ALL} in all"))
    return found


def _check_palette(palette: Sequence[str]) -> list[FieldViolation]:
    found: list[FieldViolation] = []
    for index, name in enumerate(palette):
        if name not in PALETTE:
            found.append(_violation(f"palette[{index}]", f"{name[:40]!r} is no branch; use {', '.join(PALETTE)}"))
        elif name in palette[:index]:
            found.append(_violation(f"palette[{index}]", f"{name} is listed twice"))
    return found


def _check_numbers(space: pb.EnvelopeSpace) -> list[FieldViolation]:
    found: list[FieldViolation] = []
    if not 1 <= space.stem.width <= MAX_WIDTH:
        found.append(_violation("stem.width", f"{space.stem.width} channels; use 1 to {MAX_WIDTH}"))
    if not 1 <= space.stem.kernel <= ADMISSION_KERNEL:
        found.append(_violation("stem.kernel", f"{space.stem.kernel}; use 1 to {ADMISSION_KERNEL}"))
    for name, rate in (("branch_dropout", space.branch_dropout), ("head_dropout", space.head_dropout)):
        # Written so that NaN is refused as well.
        if not 0 <= rate < 1:
            found.append(_violation(name, f"{rate} is no rate; use 0 <= rate < 1"))
    return found


def _check_channels(space: pb.EnvelopeSpace) -> list[FieldViolation]:
    """Find stages in which a full cell would leave a branch without channels."""
    found: list[FieldViolation] = []
    for index, stage in enumerate(space.stages):
        narrowest = min(cell_width(space, index + 1, 1, cells) for cells in range(1, most_cells(stage) + 1))
        if narrowest < len(space.palette):
            what = f"leaves {narrowest} channels for {len(space.palette)} branches in stage {index + 1}; widen it"
            found.append(_violation("stem.width", f"{space.stem.width} {what}"))
    return found


def _check_auxiliary(space: pb.EnvelopeSpace) -> list[FieldViolation]:
    if not space.auxiliary_head or sum(stage.initial_cells for stage in space.stages) >= LEAST_CELLS:
        return []
    return [_violation("auxiliary_head", f"needs {LEAST_CELLS} initial cells; there is one")]


def choices(space: pb.EnvelopeSpace) -> list[pb.Choice]:
    """Return the flat view of a complete space, in network order."""
    found = [integer(cells_choice(s), st.initial_cells, most_cells(st)) for s, st in enumerate(space.stages, start=1)]
    earlier: list[tuple[str, list[pb.ChoiceCondition]]] = [(STEM, [])]
    for s, stage in enumerate(space.stages, start=1):
        # A frozen stage keeps its initial cells as they are: full.
        states = OFF_ON if stage.construct else ("on",)
        for k in range(1, most_cells(stage) + 1):
            cell = cell_id(s, k)
            exists = [at_least(cells_choice(s), k)] if k > stage.initial_cells else []
            found += [categorical(f"{cell}.{branch}", states, exists) for branch in space.palette]
            if space.skips:
                # The last of the earlier entries is the direct input.
                found += [
                    categorical(f"{cell}.skip.{source}", OFF_ON, [*exists, *conditions])
                    for source, conditions in earlier[:-1]
                ]
            earlier.append((cell, exists))
        earlier.append((widener_id(s), []))
    return found
