"""How Python's collector of cyclic garbage behaves in a scheduler: rarely, and never over what stays."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

# Objects with references that come and go between two looks at the young ones, and looks before older ones are looked
# at. A step makes some ten thousand, nearly all of which end by their count of references.
_YOUNG, _MIDDLE, _OLD = 50_000, 20, 50


def settle() -> None:
    """Leave what has been loaded so far out of every later collection: a full one would stop all work for 80 ms."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, _MIDDLE, _OLD)


@contextmanager
def no_collection() -> Iterator[None]:
    """Collect nothing meanwhile: what is read back stays, and would be looked through again and again."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
