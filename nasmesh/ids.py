"""Builds and parses every id and resource name. Nothing else does string work on names."""

import re

from nasmesh.errors import Invalid

_PATTERNS = {
    "searches": re.compile(r"[a-z][a-z0-9-]{0,62}"),
    "generators": re.compile(r"[a-z][a-z0-9-]{0,62}"),
    "datasets": re.compile(r"[a-z][a-z0-9-]{0,62}"),
    "tables": re.compile(r"[a-z][a-z0-9-]{0,62}"),
    "agents": re.compile(r"[a-z0-9][a-z0-9.-]{0,62}"),
    "networks": re.compile(r"[0-9a-f]{64}"),
}
_PLAIN = "at most 63 small letters, digits and hyphens, a letter first"
_IN_WORDS = {
    "agents": "at most 63 small letters, digits, dots and hyphens, no dot or hyphen first",
    "networks": "64 hexadecimal digits",
}
_TRIAL = re.compile(r"searches/([a-z][a-z0-9-]{0,62})/trials/([1-9][0-9]{0,9})")
_TASK = re.compile(r"[a-z0-9][a-z0-9-]{0,100}")
_JOB = re.compile(r"[a-z0-9][a-z0-9-]{0,127}")
BLOCK_ID = re.compile(r"[a-z][a-z0-9_]{0,63}")


def format_name(collection: str, identifier: str, *, field: str = "name") -> str:
    """Return "{collection}/{identifier}"; raises Invalid (NAME_INVALID) for an id outside the grammar."""
    if not _PATTERNS[collection].fullmatch(identifier):
        words = _IN_WORDS.get(collection, _PLAIN)
        message = f"{field}: {identifier[:80]!r} is no id of {collection}; use {words}"
        raise Invalid("NAME_INVALID", message, field=field)
    return f"{collection}/{identifier}"


def parse_name(collection: str, name: str, *, field: str = "name") -> str:
    """Return the id in "{collection}/{id}"; raises Invalid (NAME_INVALID)."""
    prefix, _, identifier = name.partition("/")
    if prefix != collection or not _PATTERNS[collection].fullmatch(identifier):
        raise Invalid(
            "NAME_INVALID",
            f"{field}: {name[:80]!r} is not of the form {collection}/{{id}}",
            field=field,
        )
    return identifier


def format_trial(search_id: str, number: int) -> str:
    """Return the resource name of a search's trial."""
    return f"{format_name('searches', search_id)}/trials/{number}"


def parse_trial(name: str, *, field: str = "name") -> tuple[str, int]:
    """Return (search id, trial number); raises Invalid (NAME_INVALID)."""
    match = _TRIAL.fullmatch(name)
    if match is None:
        raise Invalid("NAME_INVALID", f"{field}: {name[:80]!r} is not searches/{{id}}/trials/{{number}}", field=field)
    return match[1], int(match[2])


def check_job_id(identifier: str, *, field: str) -> str:
    """Return a caller-chosen job id; raises Invalid (NAME_INVALID)."""
    if not _JOB.fullmatch(identifier):
        raise Invalid("NAME_INVALID", f"{field}: {identifier[:80]!r} is no job id; use {_JOB.pattern}", field=field)
    return identifier


def check_task_id(identifier: str, *, field: str = "task") -> str:
    """Return a task id; raises Invalid (NAME_INVALID)."""
    if not _TASK.fullmatch(identifier):
        raise Invalid("NAME_INVALID", f"{field}: {identifier[:80]!r} is no task id", field=field)
    return identifier


def job_id(task: str, attempt: int) -> str:
    """Return the id of the job that works on an attempt; the same for every retry of the same attempt."""
    return f"{task}-{attempt}"
