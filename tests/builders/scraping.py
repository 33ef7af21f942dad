"""Metrics as Prometheus reads them."""

import re
import urllib.request

from prometheus_client.parser import text_string_to_metric_families

Scrape = dict[str, dict[tuple[str, ...], float]]
"""Values by sample name and label values, the latter in the order of the labels' names."""


def scrape(address: str) -> Scrape:
    """Scrape a program."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as response:
        text = response.read().decode()
    found: Scrape = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(value for _, value in sorted(sample.labels.items()))] = sample.value
    return found


def known_names(found: Scrape) -> set[str]:
    """Return the catalogue's names behind the samples of a scrape."""
    names = {re.sub(r"_(total|bucket|count|sum|created)$", "", name) for name in found if name.startswith("nasmesh_")}
    return names - {"nasmesh_build_info"}


def moved(before: Scrape, after: Scrape) -> set[str]:
    """Return the catalogue's names of what has another value, or has one for the first time that is not 0."""
    return known_names({name: values for name, values in after.items() if values != _nothing(values, before.get(name))})


def _nothing(values: dict[tuple[str, ...], float], before: dict[tuple[str, ...], float] | None) -> object:
    """Return what the values would be if nothing had happened."""
    return dict.fromkeys(values, 0.0) if before is None else before
