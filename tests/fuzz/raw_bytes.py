"""T8a, one run of it: atheris feeds bytes to admission until the time is over or something but a refusal is raised.

`python -m tests.fuzz.raw_bytes CORPUS [libFuzzer's flags]`; the corpus is made here, of small good networks.
"""

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["nasmesh.model", "nasmesh.wire"]):
    from nasmesh.errors import Rejected
    from nasmesh.model.admission import admit
    from nasmesh.model.reasons import Reason

from nasmesh.model.encode import to_bytes
from tests.fuzz.mutants import bases

REASONS = {reason.value for reason in Reason}


def one(content: bytes) -> None:
    """Admission gives a verdict or a typed refusal."""
    try:
        admit(content)
    except Rejected as error:
        if error.reason not in REASONS or not error.message:
            raise RuntimeError(f"a refusal without a reason: {error!r}") from error


def main() -> None:
    corpus = Path(sys.argv[1])
    corpus.mkdir(parents=True, exist_ok=True)
    for number, model in enumerate(bases(12)):
        (corpus / f"good-{number}").write_bytes(to_bytes(model))
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
