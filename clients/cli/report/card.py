"""Writes card.md and model.py: how anyone loads best.onnx with onnxruntime alone, fed as it was trained."""

from clients.cli.display.view import format_metric, short
from clients.cli.report.collect import Collected, measurements
from clients.cli.report.verify import ModelFacts, Verification

_MODEL_PY = '''"""Classifies images with best.onnx. Needs numpy and onnxruntime only.

    python model.py IMAGES.npy    # uint8 array [N, channels, height, width], or [N, height, width] with one channel
"""

import json
import pathlib
import sys

import numpy
import onnxruntime


def load(path=pathlib.Path(__file__).with_name("best.onnx")):
    """Return an onnxruntime session for the model."""
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def prepare(session, images):
    """Return float32 network input for uint8 images [N, channels, height, width], as the model's metadata says."""
    rule = json.loads(session.get_modelmeta().custom_metadata_map.get("nasmesh.preprocessing", "{}"))
    x = numpy.asarray(images).astype("float32") / 255
    if rule.get("per_image"):
        floor = 1 / numpy.sqrt(numpy.prod(x.shape[1:]))
        axes = (1, 2, 3)
        x = (x - x.mean(axes, keepdims=True)) / numpy.maximum(x.std(axes, keepdims=True), floor)
    for key, apply in (("mean", numpy.subtract), ("std", numpy.divide)):
        if rule.get(key):
            x = apply(x, numpy.float32(rule[key]).reshape(1, -1, 1, 1))
    return x.astype("float32")


def classify(images, session=None):
    """Return (class, probability of each class) for uint8 images [N, channels, height, width]."""
    session = session or load()
    if numpy.ndim(images) == 3:
        images = numpy.asarray(images)[:, None]
    logits = session.run(None, {session.get_inputs()[0].name: prepare(session, images)})[0]
    odds = numpy.exp(logits - logits.max(axis=1, keepdims=True))
    return logits.argmax(axis=1), odds / odds.sum(axis=1, keepdims=True)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    classes, odds = classify(numpy.load(sys.argv[1], allow_pickle=False))
    for index, (label, row) in enumerate(zip(classes, odds)):
        print(f"image {index}: class {label} ({row[label]:.1%})")
'''


def model_py() -> str:
    """Return the stand-alone loader; it reads the preprocessing from the model it loads."""
    return _MODEL_PY


def snippet(facts: ModelFacts | None) -> str:
    """Return five lines of Python that load best.onnx and classify an array of images."""
    if facts is None or facts.per_image:
        dims = ", ".join(str(dim) for dim in facts.dims) if facts else "1, 28, 28"
        return (
            "import numpy\n"
            "import model  # model.py beside best.onnx\n"
            f'images = numpy.zeros((1, {dims}), "uint8")  # yours: bytes [N, channels, height, width]\n'
            "classes, probabilities = model.classify(images)\n"
            "print(classes)\n"
        )
    scaled = 'images.astype("float32") / 255'
    if facts.mean:
        scaled = f"({scaled} - {_constants(facts.mean)})"
    if facts.std:
        scaled = f"{scaled} / {_constants(facts.std)}"
    return (
        "import numpy, onnxruntime\n"
        'session = onnxruntime.InferenceSession("best.onnx", providers=["CPUExecutionProvider"])\n'
        f'images = numpy.zeros((1, {", ".join(str(dim) for dim in facts.dims)}), "uint8")'
        "  # yours: bytes [N, channels, height, width]\n"
        f"x = {scaled}\n"
        f'print(session.run(["{facts.output}"], {{"{facts.input}": x}})[0].argmax(axis=1))\n'
    )


def _constants(values: tuple[float, ...]) -> str:
    if len(values) == 1:
        return f"numpy.float32({values[0]!r})"
    return f"numpy.float32([{', '.join(repr(value) for value in values)}]).reshape(1, -1, 1, 1)"


def card(collected: Collected, verification: Verification) -> str:
    """Return card.md: what the model is, how it is loaded, how good it is, what is not known of it."""
    best, search = collected.best, collected.search
    rows = [
        f"| {item['metric']} | {item['split']} | {format_metric(str(item['metric']), float(str(item['value'])))} |"
        for item in measurements(best)
        if not str(item["metric"]).startswith(("class_", "train_"))
    ]
    return "\n".join(
        (
            f"# Model card: best network of {search.name}",
            "",
            f"An image classifier for {short(search.spec.data.dataset)}, found by "
            f"{short(search.spec.generator.generator)} and trained by NASMesh {collected.versions['nasmesh']}: "
            f"{best.network.parameters:,} parameters, {best.network.macs:,} multiply-accumulates an image.",
            "",
            "## Load it",
            "",
            "```python",
            snippet(verification.facts).rstrip(),
            "```",
            "",
            "`model.py` does the same with class probabilities: `python model.py IMAGES.npy`.",
            "",
            "## Scores",
            "",
            "| metric | split | value |",
            "| --- | --- | --- |",
            *rows,
            "",
            _score_note(collected),
            "",
            "## Checked",
            "",
            *(f"* {check}" for check in verification.checks),
            "",
            "## Limits",
            "",
            f"Trained on {search.spec.data.dataset} only (content SHA-256 {best.data_digest or 'not recorded'}); "
            "images from elsewhere, in other sizes or other lighting, were not tried.",
            "",
        )
    )


def _score_note(collected: Collected) -> str:
    if collected.test_accuracy is None:
        return (
            "The test split was not used: this network was scored on the validation split that the search decides by."
        )
    return "The test split was used once, by the final evaluation; the search saw train and validation only."
