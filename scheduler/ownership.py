"""Whose search is whose: what a caller does not own does not exist for it. Pure; the servicer says who calls."""

from nasmesh.errors import Denied, NotFound
from nasmesh.rpc.identity import Identity, Role


def is_visible(identity: Identity, owner: str) -> bool:
    """Say whether a caller may know of what `owner` owns; admins, and everybody on a local server, see all."""
    return identity.sees_all or (bool(owner) and identity.name == owner)


def check_visible(identity: Identity, owner: str, name: str, *, field: str = "name") -> None:
    """Raise NotFound (SEARCH_UNKNOWN) for a search of somebody else, in the words of one that does not exist."""
    if not is_visible(identity, owner):
        raise unknown_search(name, field=field)


def check_writable(identity: Identity, owner: str, name: str, *, field: str = "name") -> None:
    """As check_visible; raises Denied (ROLE_FORBIDDEN) for a caller that may only look at its own."""
    check_visible(identity, owner, name, field=field)
    if not identity.roles & {Role.CLIENT_WRITE, Role.ADMIN}:
        raise Denied("ROLE_FORBIDDEN", f"{field}: {name} may only be read with this identity", field=field)


def unknown_search(name: str, *, field: str = "name") -> NotFound:
    """Return the error for a search that does not exist, as far as the caller may know."""
    return NotFound("SEARCH_UNKNOWN", f"there is no search {name}", field=field)


def check_agent_name(identity: Identity, agent: str) -> None:
    """Raise Denied (AGENT_NAME_FORBIDDEN) unless a caller may be the agent of this resource name.

    An identity "agents/gpu1" may be the agent gpu1, and those whose name goes on from there after a hyphen
    (gpu1-train-7402): one credential serves a host, or a fleet with a prefix of its own.
    """
    if not may_be_agent(identity, agent):
        raise Denied(
            "AGENT_NAME_FORBIDDEN",
            f"hello.agent: {agent[:80]} is not {identity.name or 'this caller'}, nor {identity.name}-…; "
            "start it with --name as the credential says, or issue one for it",
            field="hello.agent",
        )


def may_be_agent(identity: Identity, agent: str) -> bool:
    """Say whether a caller may act as the agent of this resource name."""
    if not identity.name:  # a server that asks for no identity
        return True
    allowed = f"agents/{identity.name.rpartition('/')[2]}"
    return Role.AGENT in identity.roles and (agent == allowed or agent.startswith(f"{allowed}-"))
