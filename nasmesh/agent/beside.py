"""Where a server keeps its state when others of its kind run on the same machine: one command starts one more."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from nasmesh.agent.flags import ServerSettings
from nasmesh.agent.lifetime import locked_directory
from nasmesh.errors import Unavailable
from nasmesh.logs import get_logger
from nasmesh.settings import format_address, parse_address

MOST = 64
"""Servers of one kind that find a place of their own on one machine; as many slots do the same in one."""

# Between the ports of one kind's servers: generate, train and evaluate have three in a row.
_PORTS_APART = 10
_LOG = get_logger("program")


@contextmanager
def held_place(settings: ServerSettings) -> Iterator[ServerSettings]:
    """Hold a work directory for this process, and yield the settings with it.

    Where nothing was said of name, directory and address, and the usual directory is another program's, it is the first
    free one of `{directory}-2`, `-3` and so on, with a port of its own: the same for whoever comes back to it, and so
    the same name of an agent and the same outcomes that wait. Raises as locked_directory does.
    """
    with ExitStack() as stack:
        yield _held(settings, stack)


def _held(settings: ServerSettings, stack: ExitStack) -> ServerSettings:
    try:
        stack.enter_context(locked_directory(settings.work_dir))
    except Unavailable:
        if not settings.has_usual_place or not settings.scheduler:
            raise
    else:
        return settings
    for number in range(2, MOST + 1):
        place = _beside(settings, number)
        try:
            stack.enter_context(locked_directory(place.work_dir))
        except Unavailable:
            if number == MOST:
                raise
            continue
        _LOG.info("beside_others", work_dir=str(place.work_dir), listen=place.listen)
        return place
    raise AssertionError("unreachable: the last place is held or refused")


def _beside(settings: ServerSettings, number: int) -> ServerSettings:
    host, port = parse_address(settings.listen)
    directory = settings.work_dir.with_name(f"{settings.work_dir.name}-{number}")
    listen = format_address(host, port + _PORTS_APART * (number - 1))
    return replace(settings, work_dir=directory, listen=listen)
