"""A network in a few words per group, for displays."""

from nasmesh.v1 import architecture_pb2 as pb


def summary(architecture: pb.Architecture) -> dict[str, str]:
    """Return "7 cells, 18 branches" per stage group, and the number of scaled skips and blocks of the network.

    Branches are only told of where the architecture has branch groups; a network without stages has only "blocks".
    """
    stage_of = _stages_by_group(architecture)
    cells: dict[str, int] = {}
    branches: dict[str, int] = {}
    for group in architecture.groups:
        stage = stage_of.get(group.id, "")
        if group.kind == pb.GROUP_KIND_STAGE:
            cells.setdefault(group.id, 0)
        elif group.kind == pb.GROUP_KIND_CELL and stage:
            cells[stage] = cells.get(stage, 0) + 1
        elif group.kind == pb.GROUP_KIND_BRANCH and stage:
            branches[stage] = branches.get(stage, 0) + 1
    words = {stage: _count(number, "cell", "cells") for stage, number in cells.items()}
    for stage, number in branches.items():
        words[stage] += ", " + _count(number, "branch", "branches")
    skips = sum(edge.HasField("scale") for block in architecture.blocks for edge in block.inputs)
    if skips:
        words["skips"] = str(skips)
    words["blocks"] = str(len(architecture.blocks))
    return words


def _stages_by_group(architecture: pb.Architecture) -> dict[str, str]:
    """Return the id of the stage that contains each group, following parents; groups outside stages are left out."""
    groups = {group.id: group for group in architecture.groups}
    found: dict[str, str] = {}
    for start in groups:
        identifier = start
        # As many steps as groups, so that a circle of parents in a foreign architecture ends.
        for _ in groups:
            group = groups.get(identifier)
            if group is None:
                break
            if group.kind == pb.GROUP_KIND_STAGE:
                found[start] = identifier
                break
            identifier = group.parent
    return found


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
