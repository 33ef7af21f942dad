"""Values of choices: which choices are active, and whether each value lies in its domain."""

import difflib
import math
from collections.abc import Mapping, Sequence

from nasmesh.errors import FieldViolation, Invalid
from nasmesh.v1 import space_pb2 as pb

OFF_ON = ("off", "on")


def categorical(name: str, values: Sequence[str], conditions: Sequence[pb.ChoiceCondition] = ()) -> pb.Choice:
    """Return a choice of one of `values`."""
    return pb.Choice(name=name, categorical=pb.CategoricalDomain(values=values), conditions=conditions)


def integer(name: str, minimum: int, maximum: int) -> pb.Choice:
    """Return an unconditional choice of an integer from `minimum` to `maximum`, both included."""
    return pb.Choice(name=name, integer=pb.IntegerDomain(min=minimum, max=maximum))


def at_least(choice: str, bound: int) -> pb.ChoiceCondition:
    """Return the condition that integer `choice` is at least `bound`."""
    return pb.ChoiceCondition(choice=choice, at_least=bound)


def is_active(choice: pb.Choice, values: Mapping[str, str]) -> bool:
    """Tell whether all conditions of `choice` hold; `values` must be checked for the choices that they name."""
    return all(_holds(condition, values) for condition in choice.conditions)


def _holds(condition: pb.ChoiceCondition, values: Mapping[str, str]) -> bool:
    value = values.get(condition.choice)
    if value is None:
        return False
    if condition.HasField("at_least"):
        return int(value) >= condition.at_least
    return value in condition.one_of


def resolve(choices: Sequence[pb.Choice], given: pb.ChoiceValues) -> dict[str, str]:
    """Return the value of every active choice by name, in the order of `choices`.

    Raises Invalid, naming the choice: CHOICE_UNKNOWN, CHOICE_MISSING, CHOICE_INACTIVE or CHOICE_OUT_OF_DOMAIN.
    """
    known = {choice.name for choice in choices}
    for name in sorted(given.values):
        if name not in known:
            raise _wrong("CHOICE_UNKNOWN", name, f"is no choice of this space{_nearest(name, known)}")
    resolved: dict[str, str] = {}
    for choice in choices:
        active = is_active(choice, resolved)
        value = given.values.get(choice.name)
        if active and value is None:
            raise _wrong("CHOICE_MISSING", choice.name, f"has no value; use {describe_domain(choice)}")
        if not active and value is not None:
            conditions = ", ".join(_describe_condition(condition) for condition in choice.conditions)
            raise _wrong("CHOICE_INACTIVE", choice.name, f"only counts when {conditions}; leave it out")
        if value is not None:
            if not in_domain(choice, value):
                raise _wrong("CHOICE_OUT_OF_DOMAIN", choice.name, f"is {value[:40]!r}; use {describe_domain(choice)}")
            resolved[choice.name] = value
    return resolved


def in_domain(choice: pb.Choice, value: str) -> bool:
    """Tell whether text `value` is a value of the choice, written as the contract says."""
    domain = choice.WhichOneof("domain")
    if domain == "categorical":
        return value in choice.categorical.values
    try:
        number = int(value) if domain == "integer" else float(value)
    except (ValueError, OverflowError):
        return False
    if domain == "integer":
        # Only one spelling per value: "07" or "+7" would make equal networks look different.
        return str(number) == value and choice.integer.min <= number <= choice.integer.max
    return math.isfinite(number) and choice.real.min <= number <= choice.real.max


def describe_domain(choice: pb.Choice) -> str:
    """Return the domain in words."""
    domain = choice.WhichOneof("domain")
    if domain == "categorical":
        return "one of " + ", ".join(choice.categorical.values)
    if domain == "integer":
        return f"an integer from {choice.integer.min} to {choice.integer.max}"
    return f"a number from {choice.real.min} to {choice.real.max}"


def _describe_condition(condition: pb.ChoiceCondition) -> str:
    if condition.HasField("at_least"):
        return f"{condition.choice} ≥ {condition.at_least}"
    return f"{condition.choice} is one of {', '.join(condition.one_of)}"


def _nearest(name: str, known: set[str]) -> str:
    # Sorted, so that the same mistake gives the same sentence.
    matches = difflib.get_close_matches(name, sorted(known), n=1)
    return f"; did you mean {matches[0]}?" if matches else ""


def _wrong(reason: str, choice: str, what: str) -> Invalid:
    name = choice[:80]
    field = f"choices.{name}"
    message = f"choice {name} {what}"
    return Invalid(reason, message, field=field, violations=[FieldViolation(field, message)])
