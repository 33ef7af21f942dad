"""Keys of the metadata that our ONNX objects carry, and how to read one."""

import json

import onnx

from nasmesh.model.reasons import Reason, rejected

ARCHITECTURE_KEY = "nasmesh.architecture"
PREPROCESSING_KEY = "nasmesh.preprocessing"
VERSION_KEY = "nasmesh.version"
# Names of values, as a JSON list: outputs behind the first that only training reads, and branches that it may drop. The
# second is empty where a network was to be marked and has no branches; it is absent where marks were not asked for.
AUXILIARY_KEY = "nasmesh.auxiliary_outputs"
DROP_PATH_KEY = "nasmesh.drop_path"
TRAINING_KEY = "nasmesh.training"  # scalars of a resumable training; only in checkpoints


def metadata_value(model: onnx.ModelProto, key: str) -> str | None:
    """Return a metadata value, or None where the model has no such key."""
    return next((prop.value for prop in model.metadata_props if prop.key == key), None)


def named_values(model: onnx.ModelProto, key: str) -> list[str]:
    """Return the names of values that a metadata entry lists; none where there is no entry.

    Raises Rejected (NAME_INVALID) where it is no JSON list of different names.
    """
    text = metadata_value(model, key)
    if text is None:
        return []
    try:
        names = json.loads(text)
    except (ValueError, RecursionError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
        raise rejected(Reason.NAME_INVALID, "it must be a JSON list of different names of values", where=key)
    return names
