"""The thin Python client, `from nasmesh.client import Client`: gRPC and the stubs only, no onnx, torch or numpy."""

from nasmesh.client.client import DEFAULT_SCHEDULER, Client, Exported
from nasmesh.client.spec import parse_spec, read_spec
from nasmesh.rpc.access import ClientAccess

__all__ = ["DEFAULT_SCHEDULER", "Client", "ClientAccess", "Exported", "parse_spec", "read_spec"]
