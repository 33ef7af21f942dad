"""The 8-bit copy of a network whose search made none: `python -m evaluate_svc.afterwards MODEL REQUEST FOLDER`.

What `nasmesh search best --int8` runs, where the data is. REQUEST is a StartEvaluationRequest as bytes, of which the
data and the configuration are read; the copy and an EvaluateResult are written to FOLDER.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from evaluate_svc.quantized import score_copy
from evaluate_svc.subject import open_subject
from nasmesh import evaluate_config
from nasmesh.clock import SystemClock
from nasmesh.data.load import load
from nasmesh.errors import Invalid
from nasmesh.exits import OK, guarded_command
from nasmesh.model.admission import admit
from nasmesh.settings import read_settings
from nasmesh.store.base import ObjectStore
from nasmesh.store.open import open_store
from nasmesh.unpickling import forbid_unpickling
from nasmesh.v1 import evaluate_service_pb2 as pb
from nasmesh.v1 import evaluation_pb2

COPY, RESULT = "int8.onnx", "result.binpb"


def copy_of(content: bytes, start: pb.StartEvaluationRequest, store: ObjectStore) -> tuple[bytes, pb.EvaluateResult]:
    """Return a static 8-bit copy, calibrated on samples of the train split, and its score on the split asked for.

    Raises Rejected (NETWORK_NOT_QUANTIZABLE and others), Invalid, NotFound, Unavailable as an evaluation does.
    """
    evaluate_config.check(start.config)
    config = evaluate_config.complete(start.config)
    config.quantization = evaluation_pb2.QUANTIZATION_STATIC
    config.engine = evaluation_pb2.EVALUATE_ENGINE_ONNXRUNTIME
    config.latency = False  # of another machine than the one that timed the network
    splits = load(start.data, store)
    subject = open_subject(content, admit(content, checkpoint=True), splits, config)
    copy = score_copy(content, subject.preprocessing, splits, config, SystemClock(), lambda _done, _total: None)
    return copy.content, pb.EvaluateResult(measurements=copy.measurements(config), data_digest=splits.digest)


def main(arguments: Sequence[str]) -> int:
    """Make a copy; errors go to standard output as one JSON object as well."""

    def work() -> int:
        if len(arguments) != 3:
            raise Invalid("USAGE", "python -m evaluate_svc.afterwards MODEL REQUEST FOLDER")
        model, request, folder = map(Path, arguments)
        start = pb.StartEvaluationRequest.FromString(request.read_bytes())
        content, result = copy_of(model.read_bytes(), start, open_store(read_settings().store))
        (folder / COPY).write_bytes(content)
        (folder / RESULT).write_bytes(result.SerializeToString())
        return OK

    forbid_unpickling()
    return guarded_command(work, as_json=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
