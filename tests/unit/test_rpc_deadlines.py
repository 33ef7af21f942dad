"""Every method of every service has a row in the deadline table, and the table has no others."""

import importlib
import pkgutil
from collections.abc import Iterator

import nasmesh.v1
from nasmesh.rpc.deadlines import DEADLINES_S, deadline_s


def every_method() -> Iterator[tuple[str, bool]]:
    """Yield (full method name, whether either side streams) of all services in nasmesh.v1."""
    for module in pkgutil.iter_modules(nasmesh.v1.__path__):
        if not module.name.endswith("_pb2"):
            continue
        descriptor = importlib.import_module(f"nasmesh.v1.{module.name}").DESCRIPTOR
        for service in descriptor.services_by_name.values():
            for method in service.methods:
                yield f"/{service.full_name}/{method.name}", method.client_streaming or method.server_streaming


def test_the_table_has_exactly_the_methods_of_the_descriptors() -> None:
    assert set(DEADLINES_S) == {name for name, _ in every_method()}
    assert len(DEADLINES_S) >= 36


def test_every_call_that_is_no_stream_ends() -> None:
    for name, streams in every_method():
        seconds = DEADLINES_S[name]
        assert seconds is None or seconds > 0
        assert seconds is not None or streams, f"{name} could wait for ever"


def test_methods_of_others_have_a_deadline_too() -> None:
    assert deadline_s("/grpc.health.v1.Health/Check") is not None
