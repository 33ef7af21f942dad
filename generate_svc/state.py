"""The opaque state of our generators: compact JSON with sorted keys, so that equal states are equal bytes."""

import json
from collections.abc import Mapping

from generate_svc.settings import Json
from nasmesh import limits
from nasmesh.errors import Invalid


def dump_state(content: Mapping[str, Json], version: int) -> bytes:
    """Return the state as bytes, stamped with the version of its form."""
    text = json.dumps({**content, "v": version}, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode()


def load_state(state: bytes, version: int) -> Mapping[str, Json]:
    """Return the content of a non-empty state; raises Invalid (STATE_UNREADABLE)."""
    if len(state) > limits.STATE_BYTES:
        raise unreadable(f"{len(state)} bytes; at most {limits.STATE_BYTES}")
    try:
        content = json.loads(state)
    except (ValueError, RecursionError) as error:
        raise unreadable("not JSON") from error
    if not isinstance(content, dict) or content.get("v") != version:
        raise unreadable(f"not of version {version} of its form")
    return content


def unreadable(why: str) -> Invalid:
    """Return the error for a state that this generator did not write."""
    message = f"state: {why}; pass what the previous call returned, or nothing to start again"
    return Invalid("STATE_UNREADABLE", message, field="state")
