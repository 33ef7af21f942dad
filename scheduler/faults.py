"""Faults of a specification: a field within it, and what is wrong there."""

from collections.abc import Callable, Iterator

from nasmesh.errors import FieldViolation, Invalid, NasmeshError

Fault = tuple[str, str]


def checked(field: str, check: Callable[[], object]) -> Iterator[Fault]:
    """Yield what a check of another module finds, as faults of this spec."""
    try:
        check()
    except Invalid as error:
        for violation in error.violations or (FieldViolation(field, error.message),):
            yield violation.field or field, violation.description.removeprefix(f"{violation.field}: ")
    except NasmeshError as error:
        yield error.field or field, error.message.removeprefix(f"{error.field}: ")
