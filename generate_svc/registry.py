"""The algorithms served here, by id; finds the one a request names."""

from collections.abc import Mapping

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


def find(name: str, *, field: str, served: Mapping[str, Algorithm] = GENERATORS) -> Algorithm:
    """Return the algorithm "generators/{id}"; raises NotFound (GENERATOR_UNKNOWN) naming those that are served."""
    names = {ids.format_name("generators", identifier): identifier for identifier in sorted(served)}
    if name not in names:
        message = f"{field}: {name[:80]!r} is not served here; known: {', '.join(names)}"
        raise NotFound("GENERATOR_UNKNOWN", message, field=field)
    return served[names[name]]


def list_served(served: Mapping[str, Algorithm] = GENERATORS) -> pb.ListServedGeneratorsResponse:
    """Return the descriptions of all algorithms, by name."""
    return pb.ListServedGeneratorsResponse(generators=[served[key].describe() for key in sorted(served)])


def describe(request: pb.GetGeneratorRequest, served: Mapping[str, Algorithm] = GENERATORS) -> pb.GetGeneratorResponse:
    """Return the description of one algorithm; where one is served, it need not be named."""
    name = request.name or (ids.format_name("generators", next(iter(served))) if len(served) == 1 else "")
    return pb.GetGeneratorResponse(generator=find(name, field="name", served=served).describe())


def propose(request: pb.ProposeRequest, served: Mapping[str, Algorithm] = GENERATORS) -> pb.ProposeResponse:
    """Check the request and pass it to the algorithm that it names."""
    algorithm = find(request.generator, field="generator", served=served)
    check_request(algorithm.describe(), request)
    return algorithm.propose(request)
