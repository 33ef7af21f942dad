"""The settings of NAC: their schema with defaults, and their typed form. Constants of the algorithm live only here."""

from dataclasses import dataclass
from fractions import Fraction

from google.protobuf import struct_pb2

from generate_svc.nac_rules import Rules
from generate_svc.nac_statistics import Observation
from generate_svc.settings import Json, Schema, read_settings, settings_schema


def _integer(default: int, minimum: int, description: str) -> Json:
    return {
        "type": "integer",
        "minimum": minimum,
        "maximum": 1_000_000_000,
        "default": default,
        "description": description,
    }


def _one_of(values: list[str], description: str) -> Json:
    return {"enum": values, "default": values[0], "description": description}


SCHEMA: Schema = settings_schema(
    "Settings of NAC",
    {
        "iterations": _integer(5, 0, "Restructurings after the start network."),
        "max_filter_prune": _integer(6, 1, "Most branches pruned per stage and iteration."),
        "prune_fraction": {
            "type": "number",
            "exclusiveMinimum": 0,
            "maximum": 1,
            "default": 1 / 3,
            "description": "Part of a stage's branches pruned per iteration, rounded down; at least one is pruned.",
        },
        "statistic": _one_of(["mean_square", "variance", "mean"], "What branches are ranked by."),
        "order": _one_of(
            ["ascending", "descending"], "Which end is pruned: the smallest statistic, or the largest (worst case)."
        ),
        "skip_ranking": _one_of(
            ["signed", "absolute", "l2"], "What an old cell keeps skips by: the scalar, its magnitude, or its square."
        ),
        "weights": _one_of(
            ["scratch", "inherit"], "Whether a network starts from its parent's weights where name and shape agree."
        ),
        "tap": _one_of(["activation", "output"], "Where branches are observed: before or after their dropout."),
        "observe_every_steps": _integer(1, 1, "Steps between two observations."),
        "observe_from_step": _integer(0, 0, "First step that is observed."),
        "observe_window_steps": _integer(0, 0, "Steps in a window, of which the last complete one counts; 0: all."),
        "retries": _integer(1, 0, "How often a network that failed or was lost is tried again before the search ends."),
        "stable_after": _integer(3, 0, "Ends when no ranking changed in so many successive iterations; 0: never."),
    },
)


@dataclass(frozen=True, slots=True)
class NacSettings:
    """The settings as the algorithm uses them."""

    iterations: int
    rules: Rules
    statistic: str
    inherit: bool
    observation: Observation
    retries: int
    stable_after: int


def read(given: struct_pb2.Struct) -> NacSettings:
    """Return the settings with defaults; raises Invalid (SETTINGS_INVALID) naming each wrong one."""
    settings = read_settings(SCHEMA, given)
    # 0.3333 means a third: floor(18 * 0.3333) would be 5 instead of 6.
    fraction = Fraction(settings.number("prune_fraction")).limit_denominator(1000)
    return NacSettings(
        iterations=settings.integer("iterations"),
        rules=Rules(
            max_filter_prune=settings.integer("max_filter_prune"),
            prune_fraction=fraction,
            descending=settings.text("order") == "descending",
            skip_ranking=settings.text("skip_ranking"),
        ),
        statistic=settings.text("statistic"),
        inherit=settings.text("weights") == "inherit",
        observation=Observation(
            tap=settings.text("tap"),
            every_steps=settings.integer("observe_every_steps"),
            from_step=settings.integer("observe_from_step"),
            window_steps=settings.integer("observe_window_steps"),
        ),
        retries=settings.integer("retries"),
        stable_after=settings.integer("stable_after"),
    )
