"""What people type for a resource, turned into its name: bare ids are completed, the rest is checked."""

from nasmesh.ids import format_name, parse_name, parse_trial


def search_name(text: str) -> str:
    """Return "searches/{id}" for an id or a name; raises Invalid (NAME_INVALID)."""
    if "/" not in text:
        return format_name("searches", text, field="search")
    parse_name("searches", text, field="search")
    return text


def subject_name(text: str) -> str:
    """Return the name of a network or trial for a digest, "networks/{digest}" or "searches/{id}/trials/{n}"."""
    if "/trials/" in text:
        parse_trial(text, field="network")
        return text
    if "/" not in text:
        return format_name("networks", text, field="network")
    parse_name("networks", text, field="network")
    return text
