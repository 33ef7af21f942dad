"""Where this server meets others for one training over several: its flag, port, and what may be asked. No torch."""

import argparse
import socket

from nasmesh.errors import Invalid, Unavailable
from nasmesh.rpc.options import plaintext_address
from nasmesh.settings import format_address, parse_address, read_settings
from nasmesh.training_rules import MOST_PROCESSES
from nasmesh.v1 import train_service_pb2 as pb

GANG_REFUSED = "GANG_REFUSED"
"""Reason of a place in a training that is refused by this server, whatever is trained."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags about trainings over several servers."""
    parser.add_argument(
        "--gang-listen",
        default=read_settings().gang_listen,
        metavar="HOST:PORT",
        help="take part in trainings over several servers; others reach this one by HOST, without TLS; "
        "port 0: any [NASMESH_GANG_LISTEN or none]",
    )


class GangAddress:
    """This server's address for others, held for as long as the server lives. Empty where it takes part in nothing."""

    def __init__(self, listen: str, *, insecure: bool = False) -> None:
        """Take the port that the flag names, so that only processes of this server's user can listen there.

        Raises Invalid (ADDRESS_INVALID, GANG_PLAINTEXT) and Unavailable (PORT_IN_USE).
        """
        self.text = ""
        self._held: socket.socket | None = None
        if listen:
            address = plaintext_address(listen, insecure=insecure, reason="GANG_PLAINTEXT", field="gang-listen")
            host, port = parse_address(address)
            if host in ("0.0.0.0", "::"):
                message = f"gang-listen: {address} is every address of this host; name the one by which others reach it"
                raise Invalid("ADDRESS_INVALID", message, field="gang-listen")
            self._held = _hold(host, port)
            self.text = format_address(host, self._held.getsockname()[1])


def _hold(host: str, port: int) -> socket.socket:
    """Return a socket that is bound and does not listen: who wants to listen there must be of the same user."""
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        message = f"gang-listen: {host} is no address: {error.strerror}"
        raise Invalid("ADDRESS_INVALID", message, field="gang-listen") from None
    held = socket.socket(family, kind, protocol)
    try:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(where)
    except OSError as error:
        held.close()
        message = f"gang-listen: {format_address(host, port)} cannot be had: {error.strerror}; choose another address"
        raise Unavailable("PORT_IN_USE", message, field="gang-listen") from None
    return held


def check_place(request: pb.StartTrainingRequest, own_address: str) -> None:
    """Refuse a place in a training over several servers that contradicts itself, the configuration, or this server.

    Raises Invalid (FIELD_INVALID, GANG_REFUSED).
    """
    gang, distribution = request.gang, request.config.distribution
    if not request.HasField("gang"):
        if distribution.across_hosts:
            raise _wrong("gang", "name this server's place: each process of the training has a server of its own")
        return
    if not distribution.across_hosts or gang.size != distribution.processes:
        raise _wrong("gang.size", f"{gang.size} is not what config.distribution says, with across_hosts")
    if not 0 <= gang.rank < gang.size <= MOST_PROCESSES:
        raise _wrong("gang.rank", f"{gang.rank} is not one of 0 to {gang.size - 1}")
    if parse_address(gang.rendezvous, field="gang.rendezvous")[1] == 0:
        raise _wrong("gang.rendezvous", f"{gang.rendezvous} names no port")
    if not own_address:
        message = "gang: this server takes part in no training over several; start it with --gang-listen HOST:PORT"
        raise Invalid(GANG_REFUSED, message, field="gang")
    if gang.rank == 0 and gang.rendezvous != own_address:
        message = f"gang.rendezvous: rank 0 listens at its own address, {own_address}, not at {gang.rendezvous}"
        raise Invalid(GANG_REFUSED, message, field="gang.rendezvous")


def _wrong(field: str, what: str) -> Invalid:
    return Invalid("FIELD_INVALID", f"{field}: {what}", field=field)
