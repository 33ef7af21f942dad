"""The algorithms served here, by id; finds the one a request names."""

from generate_svc.algorithm import Algorithm, check_request
from generate_svc.fixed import FixedGenerator
from generate_svc.nac import NacGenerator
from generate_svc.random_search import RandomGenerator
from nasmesh import ids
from nasmesh.errors import NotFound
from nasmesh.v1 import generate_service_pb2 as pb

GENERATORS: dict[str, Algorithm] = {
    "fixed": FixedGenerator(),
    "nac": NacGenerator(),
    "random": RandomGenerator(),
}


def find(name: str, *, field: str) -> Algorithm:
    """Return the algorithm "generators/{id}"; raises NotFound (GENERATOR_UNKNOWN) naming those that are served."""
    served = {ids.format_name("generators", identifier): identifier for identifier in sorted(GENERATORS)}
    if name not in served:
        message = f"{field}: {name[:80]!r} is not served here; known: {', '.join(served)}"
        raise NotFound("GENERATOR_UNKNOWN", message, field=field)
    return GENERATORS[served[name]]


def list_served() -> pb.ListServedGeneratorsResponse:
    """Return the descriptions of all algorithms, by name."""
    return pb.ListServedGeneratorsResponse(generators=[GENERATORS[key].describe() for key in sorted(GENERATORS)])


def describe(request: pb.GetGeneratorRequest) -> pb.GetGeneratorResponse:
    """Return the description of one algorithm."""
    return pb.GetGeneratorResponse(generator=find(request.name, field="name").describe())


def propose(request: pb.ProposeRequest) -> pb.ProposeResponse:
    """Check the request and pass it to the algorithm that it names."""
    algorithm = find(request.generator, field="generator")
    check_request(algorithm.describe(), request)
    return algorithm.propose(request)
