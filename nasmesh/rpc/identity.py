"""Who calls: the identity that the access checks of a server found for the call in hand."""

import re
from dataclasses import dataclass
from enum import StrEnum

from nasmesh.errors import Invalid
from nasmesh.scoped import Scoped

# The grammar of agent ids, so that an agent's identity and its name compare.
_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,62}")


class Role(StrEnum):
    """What an identity may do; the policy table says which methods that is."""

    CLIENT_READ = "client:read"
    CLIENT_WRITE = "client:write"
    ADMIN = "admin"
    AGENT = "agent"


@dataclass(frozen=True, slots=True)
class Identity:
    """A caller. `name` is "clients/NAME" or "agents/NAME"; empty where the server asks for no identity."""

    name: str
    roles: frozenset[Role]

    @property
    def sees_all(self) -> bool:
        """Whether resources of other owners are visible to it."""
        return Role.ADMIN in self.roles


LOCAL = Identity("", frozenset(Role))
"""Everybody, on a server that asks for no identity: plaintext on loopback."""

CALLER: Scoped[Identity] = Scoped("nasmesh_identity", LOCAL)
"""Who makes the call that this thread or task answers. Interceptors set it."""


def current_identity() -> Identity:
    """Return who makes the call that this task or thread answers; LOCAL outside any call."""
    return CALLER.get()


def check_caller_name(name: str, *, field: str) -> str:
    """Return the name part of an identity; raises Invalid (NAME_INVALID)."""
    if not _NAME.fullmatch(name):
        raise Invalid(
            "NAME_INVALID", f"{field}: {name[:80]!r} is no name of a caller; use {_NAME.pattern}", field=field
        )
    return name
