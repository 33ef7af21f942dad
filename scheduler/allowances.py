"""The flags that say how much one owner may have, and how often one caller may call, over the environment."""

import argparse
from collections.abc import Callable
from functools import partial

from nasmesh import limits
from nasmesh.rpc.rates import AGENT_RATE, CLIENT_RATE, Rate, Rates
from nasmesh.settings import Settings, parse_count, parse_rate
from scheduler.quotas import QUOTAS, Quotas


def add_allowance_flags(parser: argparse.ArgumentParser, settings: Settings) -> None:
    """Add the flags; a value that makes no sense raises Invalid (SETTING_INVALID) naming the flag."""
    group = parser.add_argument_group("how much one owner may have, and how often one caller may call")

    def add(flag: str, parse: Callable[..., int | Rate], default: int | Rate, metavar: str, what: str) -> None:
        read = partial(parse, field=flag.removeprefix("--"))
        group.add_argument(flag, type=read, default=default, metavar=metavar, help=f"{what} [%(default)s]")

    add(
        "--open-searches",
        parse_count,
        settings.open_searches or QUOTAS.open_searches,
        "N",
        "searches of one client that have not ended",
    )
    add(
        "--queued-networks",
        parse_count,
        settings.queued_networks or QUOTAS.queued_networks,
        "N",
        "networks of one owner that wait or are in work",
    )
    add("--watches", parse_count, settings.watches or limits.WATCHES, "N", "searches that one client watches at once")
    add(
        "--client-rate",
        _rate,
        _given(settings.client_rate, CLIENT_RATE),
        "CALLS/BURST",
        "calls a second of one client, and at once",
    )
    add(
        "--agent-rate",
        _rate,
        _given(settings.agent_rate, AGENT_RATE),
        "CALLS/BURST",
        "the same of one agent; its work is not counted",
    )


def quotas_of(flags: argparse.Namespace) -> Quotas:
    """Return the quotas that add_allowance_flags found."""
    return Quotas(flags.open_searches, flags.queued_networks)


def rates_of(flags: argparse.Namespace) -> Rates:
    """Return the rates that add_allowance_flags found."""
    return Rates(client=flags.client_rate, agent=flags.agent_rate, watches=flags.watches)


def _rate(text: str, *, field: str) -> Rate:
    return Rate(*parse_rate(text, field=field))


def _given(found: tuple[float, float] | None, otherwise: Rate) -> Rate:
    return Rate(*found) if found is not None else otherwise
