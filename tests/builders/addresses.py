"""Addresses on loopback for programs that keep theirs: nobody else is given one, also while its program is killed."""

import socket

_held: list[socket.socket] = []


def hold() -> socket.socket:
    """Return a socket whose address nobody else is given until it is closed.

    It is bound and does not listen: a program that names the port may serve there (SO_REUSEADDR), one that takes any
    free port, as the programs of tests beside this one do, gets another (bind(2), ip(7)).
    """
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    return held


def address_of(held: socket.socket) -> str:
    """Return HOST:PORT."""
    return f"127.0.0.1:{held.getsockname()[1]}"


def free_address() -> str:
    """Return an address that nobody serves at, and nobody else is given until this process ends."""
    _held.append(hold())
    return address_of(_held[-1])
