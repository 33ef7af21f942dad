"""Every connection is an open file: a program that serves thousands takes as many as the system grants it."""

import resource


def raise_open_files() -> int:
    """Raise this process's limit of open files to the most it may have, and return that."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most
