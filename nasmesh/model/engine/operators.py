"""The operator table: every ONNX operator that a network may use, and how it becomes PyTorch."""

from nasmesh.model.engine import convolution, elementwise, normalisation, pooling, reduction, reshaping
from nasmesh.model.engine.build import Builder

BUILDERS: dict[str, Builder] = {
    **convolution.BUILDERS,
    **elementwise.BUILDERS,
    **normalisation.BUILDERS,
    **pooling.BUILDERS,
    **reduction.BUILDERS,
    **reshaping.BUILDERS,
}
