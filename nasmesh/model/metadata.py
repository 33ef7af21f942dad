"""Keys of the metadata that our ONNX objects carry, and how to read one."""

import onnx

ARCHITECTURE_KEY = "nasmesh.architecture"
PREPROCESSING_KEY = "nasmesh.preprocessing"
VERSION_KEY = "nasmesh.version"
TRAINING_KEY = "nasmesh.training"  # scalars of a resumable training; only in checkpoints


def metadata_value(model: onnx.ModelProto, key: str) -> str | None:
    """Return a metadata value, or None where the model has no such key."""
    return next((prop.value for prop in model.metadata_props if prop.key == key), None)
