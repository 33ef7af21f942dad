"""Spaces, requests and results for tests of spaces and generators; a search is played without any server."""

import hashlib
from collections.abc import Mapping

from google.protobuf import struct_pb2

from nasmesh import spaces
from nasmesh.v1 import architecture_pb2 as arch
from nasmesh.v1 import generate_service_pb2 as pb
from nasmesh.v1 import search_pb2, space_pb2, training_pb2

DIGITS = (1, 8, 8)
CIFAR = (3, 32, 32)
# Defaults of CIFAR construction: 3 stages of 2 cells, at most 7, 6, 2, the last one frozen.
CONSTRUCTION = ((2, 7, True), (2, 6, True), (2, 2, False))


def envelope(*stages: tuple[int, int, bool], width: int = 64, **fields: object) -> space_pb2.Space:
    space = space_pb2.Space()
    space.envelope.CopyFrom(space_pb2.EnvelopeSpace(**fields))
    space.envelope.stem.width = width
    for initial, most, construct in stages or CONSTRUCTION:
        space.envelope.stages.add(initial_cells=initial, max_cells=most, construct=construct)
    return space


def chain(**fields: object) -> space_pb2.Space:
    given = {"min_layers": 1, "max_layers": 3, "kernels": [1, 3, 5], "channels": [4, 8], "pooling": True, **fields}
    return space_pb2.Space(chain=space_pb2.ChainSpace(**given))


def build(space: space_pb2.Space, values: space_pb2.ChoiceValues, dims: tuple[int, ...] = DIGITS) -> arch.Architecture:
    return spaces.build(space, values, input_dims=dims, classes=10, preprocessing=arch.Preprocessing())


def request(generator: str, space: space_pb2.Space, **fields: object) -> pb.ProposeRequest:
    settings = fields.pop("settings", {})
    dims = fields.pop("input_dims", DIGITS)
    made = pb.ProposeRequest(
        **{
            "generator": f"generators/{generator}",
            "search": "searches/s",
            "space": space,
            "input_dims": dims,
            "classes": 10,
            "seed": 7,
            "call": 1,
            "count": 1,
            **fields,
        }
    )
    assert isinstance(settings, Mapping)
    struct = struct_pb2.Struct()
    struct.update(settings)
    made.settings.CopyFrom(struct)
    return made


def reading(seed: int, element: str, metric: str) -> float:
    """Return a number in (0, 1) that depends on all three and is the same everywhere."""
    return (int.from_bytes(hashlib.sha256(f"{seed}/{element}/{metric}".encode()).digest()[:6]) + 1) / (2**48 + 1)


def observe(proposal: pb.Proposal, architecture: arch.Architecture, seed: int, trial: int) -> pb.Result:
    """Return the result that a trainer would report for the proposal's instrumentation plan."""
    blocks = {block.id: block for block in architecture.blocks}
    result = pb.Result(
        trial=f"searches/s/trials/{trial}",
        proposal_id=proposal.proposal_id,
        outcome=search_pb2.TRIAL_OUTCOME_SUCCEEDED,
    )
    result.measurements.add(metric="accuracy", value=0.9)
    for probe in proposal.instrumentation.probes:
        for element in probe.elements:
            block = blocks[element]
            if probe.tap == training_pb2.TAP_EDGE_SCALE:
                names = [f"{element}.scale.{edge.source}" for edge in block.inputs if edge.HasField("scale")]
                assert names
                found = [(name, "value") for name in names]
            else:
                assert block.operation.HasField("conv_unit")
                known = [training_pb2.Statistic.Name(s).removeprefix("STATISTIC_").lower() for s in probe.statistics]
                found = [(element, metric) for metric in known]
            for name, metric in found:
                result.measurements.add(element=name, metric=metric, value=reading(seed, name, metric), step=100)
    return result
