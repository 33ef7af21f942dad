"""The text of predict.py: how anyone runs best.onnx with onnxruntime alone, fed as it was trained."""

import re
from collections.abc import Sequence

from nasmesh.v1 import dataset_pb2

_PREDICT_PY = '''"""Runs best.onnx. Needs numpy and onnxruntime only.

    python predict.py SAMPLES.npy    # as stored: pictures are bytes [N, channels, height, width] (or without channels)
"""

import json
import pathlib
import sys

import numpy
import onnxruntime

# Of what is predicted, where that is numbers: a network's numbers are in deviations around the mean.
TARGET_MEAN, TARGET_STD = @TARGETS@
# Of classes, by number; empty where they have no names.
CLASS_NAMES = @CLASSES@
# Of the columns of a sample (the channels of a series) and of what is predicted, in order; empty as above.
COLUMNS, TARGETS = @COLUMNS@


def load(path=pathlib.Path(__file__).with_name("best.onnx")):
    """Return an onnxruntime session for the model."""
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def prepare(session, samples):
    """Return float32 network input for samples as they are stored, as the model's metadata says."""
    rule = json.loads(session.get_modelmeta().custom_metadata_map.get("nasmesh.preprocessing", "{}"))
    samples = numpy.asarray(samples)
    x = samples.astype("float32") / (255 if samples.dtype == numpy.uint8 else 1)
    if rule.get("per_image"):
        floor = 1 / numpy.sqrt(numpy.prod(x.shape[1:]))
        axes = tuple(range(1, x.ndim))
        x = (x - x.mean(axes, keepdims=True)) / numpy.maximum(x.std(axes, keepdims=True), floor)
    for key, apply in (("mean", numpy.subtract), ("std", numpy.divide)):
        if rule.get(key):
            x = apply(x, numpy.float32(rule[key]).reshape((1, -1) + (1,) * (x.ndim - 2)))
    return x.astype("float32")


def run(samples, session=None):
    """Return the network's numbers for samples: logits, or targets in units of their deviation around their mean."""
    session = session or load()
    samples = numpy.asarray(samples)
    if samples.ndim == len(session.get_inputs()[0].shape) - 1:
        samples = samples[:, None]
    return session.run(None, {session.get_inputs()[0].name: prepare(session, samples)})[0]


def classify(samples, session=None):
    """Return (class, probability of each class) for samples."""
    logits = run(samples, session)
    odds = numpy.exp(logits - logits.max(axis=1, keepdims=True))
    return logits.argmax(axis=1), odds / odds.sum(axis=1, keepdims=True)


def amounts(samples, session=None):
    """Return the targets that the network predicts for samples, in their own units."""
    return run(samples, session) * numpy.float32(TARGET_STD) + numpy.float32(TARGET_MEAN)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    if TARGET_STD:
        for index, values in enumerate(amounts(numpy.load(sys.argv[1], allow_pickle=False))):
            print(f"sample {index}: {' '.join(format(value, '.6g') for value in values)}")
        sys.exit()
    classes, odds = classify(numpy.load(sys.argv[1], allow_pickle=False))
    for index, (label, row) in enumerate(zip(classes, odds)):
        print(f"sample {index}: class {CLASS_NAMES[label] if CLASS_NAMES else label} ({row[label]:.1%})")
'''


def predict_py(dataset: dataset_pb2.Dataset | None = None, class_names: Sequence[str] = ()) -> str:
    """Return the loader; it reads the preprocessing from the model it loads, and is told units and names here."""
    data = dataset or dataset_pb2.Dataset()
    told = {
        "@TARGETS@": f"{list(data.target_mean)!r}, {list(data.target_std)!r}",
        "@COLUMNS@": f"{list(data.channel_names)!a}, {list(data.target_names)!a}",
        "@CLASSES@": ascii(list(class_names)),
    }
    # In one pass: names are somebody's text, and may be one of these marks.
    return re.sub("|".join(told), lambda match: told[match[0]], _PREDICT_PY)
