"""The thin Python client, `from nasmesh.client import Client`: gRPC and the stubs only, no onnx, torch or numpy."""

from nasmesh.client.client import DEFAULT_SCHEDULER, Client, Exported
from nasmesh.client.spec import parse_spec, read_spec

__all__ = ["DEFAULT_SCHEDULER", "Client", "Exported", "parse_spec", "read_spec"]
