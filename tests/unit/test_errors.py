"""The error tree."""

import pytest

from nasmesh import errors
from nasmesh.errors import Busy, FieldViolation, Invalid, NasmeshError, Rejected


def every_error() -> list[type[NasmeshError]]:
    """Return NasmeshError and all below it."""
    found: list[type[NasmeshError]] = [NasmeshError]
    for kind in found:
        found.extend(kind.__subclasses__())
    return found


def test_the_tree_in_the_docstring_names_every_error() -> None:
    assert all(kind.__name__ in (errors.__doc__ or "") for kind in every_error())


@pytest.mark.parametrize("kind", every_error())
def test_every_error_keeps_reason_message_field_and_metadata(kind: type[NasmeshError]) -> None:
    metadata = {"task": "t-1"}
    error = kind("SOME_REASON", "what happened", field="spec.budget", metadata=metadata)
    metadata["task"] = "changed later"
    assert (error.reason, error.message, error.field, str(error)) == (
        "SOME_REASON",
        "what happened",
        "spec.budget",
        "what happened",
    )
    assert error.metadata == {"task": "t-1"}


def test_one_wrong_field_is_a_violation_by_itself() -> None:
    assert Invalid("R", "too large", field="a").violations == (FieldViolation("a", "too large"),)
    assert Invalid("R", "no field").violations == ()


def test_many_violations_are_kept_in_order() -> None:
    violations = [FieldViolation("a", "1"), FieldViolation("b", "2")]
    assert Invalid("R", "both", violations=violations).violations == tuple(violations)


def test_a_rejected_network_is_an_invalid_request() -> None:
    assert issubclass(Rejected, Invalid)


def test_busy_says_how_long_to_wait() -> None:
    assert Busy("NO_SLOT", "full", retry_after_s=2.5).retry_after_s == 2.5
