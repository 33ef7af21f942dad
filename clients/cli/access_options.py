"""The options for TLS, certificate and token on every command that calls a scheduler, over the environment."""

from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nasmesh.rpc.access import ClientAccess
from nasmesh.settings import read_settings

if TYPE_CHECKING:
    from collections.abc import Mapping

_PANEL = "Access"
_GIVEN: ContextVar["Mapping[str, Path]"] = ContextVar("nasmesh_access_options", default={})  # noqa: B039 - never changed


def _options(
    ca_file: Annotated[
        Path | None,
        typer.Option("--ca-file", metavar="FILE", help="Authority of the servers: speak TLS.", rich_help_panel=_PANEL),
    ] = None,
    cert_file: Annotated[
        Path | None, typer.Option("--cert-file", metavar="FILE", help="Certificate to show.", rich_help_panel=_PANEL)
    ] = None,
    key_file: Annotated[
        Path | None, typer.Option("--key-file", metavar="FILE", help="Its key, mode 0600.", rich_help_panel=_PANEL)
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option("--token-file", metavar="FILE", help="Token to show, mode 0600.", rich_help_panel=_PANEL),
    ] = None,
) -> None:
    """Carry the options; never run."""


def with_access_options(command: Any) -> Any:
    """Return a command, or group of them, with the options added to each that calls a program, and to `up`."""
    _GIVEN.set({})
    for child in getattr(command, "commands", {}).values():
        with_access_options(child)
    if command.name == "up" or any(parameter.name in ("scheduler", "deployer") for parameter in command.params):
        carrier = typer.Typer(add_completion=False)
        carrier.command()(_options)
        for parameter in typer.main.get_command(carrier).params:
            parameter.expose_value = False  # commands ask client_access instead
            parameter.callback = _note
            command.params.append(parameter)
    return command


def client_access() -> ClientAccess:
    """Return what the command line and the environment give; raises Invalid where they do not go together."""
    given, settings = _GIVEN.get(), read_settings()
    return ClientAccess(
        ca=given.get("ca_file", settings.ca_file),
        cert=given.get("cert_file", settings.cert_file),
        key=given.get("key_file", settings.key_file),
        token=given.get("token_file", settings.token_file),
    )


def _note(_context: Any, parameter: Any, value: Any) -> Any:
    if value is not None:
        _GIVEN.set({**_GIVEN.get(), parameter.name: Path(value)})
    return value
