"""The error for a file of people's data that cannot be read."""

from nasmesh.errors import Invalid


def damaged(name: str, what: str | BaseException) -> Invalid:
    """Return it, for a file's name and what is wrong with it, or what reading it raised."""
    if isinstance(what, BaseException):
        what = f"cannot be read ({str(what)[:120] or type(what).__name__})"
    return Invalid(
        "DATASET_FILES_CORRUPT",
        f"path: {name.rpartition('/')[2]} {what[:160]}; get it again",
        field="path",
        metadata={"count": "1", "files": name},
    )
