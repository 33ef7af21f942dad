"""The run-time guard against code in data: no program of the mesh, and no child of one, ever unpickles a class.

The linter bans the modules in our own files; this also stops libraries. torch's own reader of pickles refuses with it,
and so does everything that goes through the interpreter's pickle module.
"""

import sys

from nasmesh.errors import Denied

# Raised by the interpreter before an unpickler imports what a pickle names, and before marshal reads code from a file.
_REFUSED = frozenset({"pickle.find_class", "marshal.load"})
_forbidden = False


def forbid_unpickling() -> None:
    """Refuse, from now on and for the life of this process, to unpickle anything that names a class or function.

    What tries gets Denied (UNPICKLING_FORBIDDEN). An audit hook cannot be removed, not even by the code it stops.
    """
    global _forbidden
    if not _forbidden:
        sys.addaudithook(_refuse)
        _forbidden = True


def _refuse(event: str, arguments: tuple[object, ...]) -> None:
    if event in _REFUSED:
        named = ".".join(str(part)[:80] for part in arguments)
        message = f"{event} of {named!r}: no code is loaded from data; store networks as ONNX and numbers as protobuf"
        raise Denied("UNPICKLING_FORBIDDEN", message)
