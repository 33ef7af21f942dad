"""One shape rule per operator on the allow-list: windows, products, normalisation, elementwise."""

import numpy as np

from nasmesh.limits import ADMISSION_PAD
from nasmesh.model.geometry import Dims
from nasmesh.model.operations import MAX_KERNEL
from nasmesh.model.shape_rules_layout import LAYOUT_RULES
from nasmesh.model.site import ShapeRule, Site


def broadcast(site: Site, shapes: list[Dims]) -> Dims:
    """Return numpy's broadcast of some dims; refuses what does not fit."""
    rank = max(len(dims) for dims in shapes)
    result = [1] * rank
    for dims in shapes:
        for position, size in enumerate((1,) * (rank - len(dims)) + dims):
            if size != 1 and result[position] not in (1, size):
                raise site.fail(f"{' and '.join(map(str, shapes))} do not fit together")
            result[position] = max(result[position], size)
    return tuple(result)


def _same(site: Site) -> list[Dims]:
    return [site.dims(0)]


def _dropout(site: Site) -> list[Dims]:
    ratio = site.constants[1] if len(site.inputs) > 1 else None
    if ratio is not None and (ratio.ndim or ratio.dtype != np.float32 or not 0.0 <= float(ratio) < 1.0):
        raise site.fail("the ratio must be one number, 0 <= ratio < 1")
    mode = site.constants[2] if len(site.inputs) > 2 else None
    if mode is not None and (mode.ndim or mode.dtype != np.bool_):
        raise site.fail("the training mode must be one boolean")
    return [site.dims(0)]


def _clip(site: Site) -> list[Dims]:
    limits = [site.constants[position] for position in range(1, len(site.inputs)) if site.inputs[position] is not None]
    if any(limit is None or limit.ndim or limit.dtype != np.float32 for limit in limits):
        raise site.fail("the limits must be single numbers")
    return [site.dims(0)]


def _elementwise(site: Site) -> list[Dims]:
    return [broadcast(site, [site.dims(position) for position in range(len(site.inputs))])]


def _prelu(site: Site) -> list[Dims]:
    dims = site.dims(0)
    if broadcast(site, [dims, site.dims(1)]) != dims:
        raise site.fail("the slope is larger than the tensor")
    return [dims]


def _spatial(site: Site, least: int = 3) -> Dims:
    dims = site.dims(0)
    if len(dims) < least:
        raise site.fail(f"needs a tensor of rank {least} or more, got {dims}")
    return dims


def _window_dims(site: Site, sizes: Dims, kernel: list[int]) -> Dims:
    """Return the output sizes of a window over `sizes`."""
    rank = len(sizes)
    strides, dilations = site.ints("strides", [1] * rank), site.ints("dilations", [1] * rank)
    pads = site.ints("pads", [0] * 2 * rank)
    auto = site.attributes.get("auto_pad", "NOTSET")
    if auto != "NOTSET" and "pads" in site.attributes:
        raise site.fail("both auto_pad and pads are given")
    result = []
    for axis, size in enumerate(sizes):
        extent = (kernel[axis] - 1) * dilations[axis] + 1
        before, after = pads[axis], pads[axis + rank]
        if max(before, after) > max(ADMISSION_PAD, extent - 1):
            raise site.fail(f"padding {before}, {after} of a window of {extent}")
        if str(auto).startswith("SAME"):
            result.append(-(-size // strides[axis]))
            continue
        room = size + (before + after if auto == "NOTSET" else 0) - extent
        if room < 0:
            raise site.fail(f"a window of {extent} does not fit in {size} with padding {before}, {after}")
        count = room // strides[axis] + 1
        if site.integer("ceil_mode", 0) and room % strides[axis] and count * strides[axis] < size + before:
            count += 1  # the last window must start inside the tensor or its front padding
        result.append(count)
    return tuple(result)


def _conv(site: Site) -> list[Dims]:
    dims, weight = _spatial(site), site.dims(1)
    groups = site.integer("group", 1)
    if len(weight) != len(dims):
        raise site.fail(f"input {dims} and weight {weight} differ in rank")
    kernel = site.ints("kernel_shape", list(weight[2:]))
    if kernel != list(weight[2:]):
        raise site.fail(f"kernel_shape {kernel} is not that of the weight {weight}")
    if dims[1] != weight[1] * groups or weight[0] % groups:
        message = f"{dims[1]} input channels do not fit a weight {weight} with {groups} groups"
        raise site.fail(message)
    _check_bias(site, 2, weight[0])
    return [(dims[0], weight[0], *_window_dims(site, dims[2:], _checked_kernel(site, kernel)))]


def _checked_kernel(site: Site, kernel: list[int]) -> list[int]:
    if not all(1 <= size <= MAX_KERNEL for size in kernel):
        raise site.fail(f"kernel {kernel}; use 1 to {MAX_KERNEL}")
    return kernel


def _check_bias(site: Site, position: int, size: int) -> None:
    bias = site.optional(position)
    if bias is not None and bias != (size,):
        raise site.fail(f"the bias is {bias}, not ({size},)")


def _conv_transpose(site: Site) -> list[Dims]:
    dims, weight = _spatial(site), site.dims(1)
    groups, rank = site.integer("group", 1), len(dims) - 2
    if len(weight) != len(dims) or dims[1] != weight[0] or weight[0] % groups:
        raise site.fail(f"input {dims} does not fit a weight {weight} with {groups} groups")
    kernel = _checked_kernel(site, site.ints("kernel_shape", list(weight[2:])))
    if kernel != list(weight[2:]):
        raise site.fail(f"kernel_shape {kernel} is not that of the weight {weight}")
    if site.attributes.get("auto_pad", "NOTSET") != "NOTSET":
        raise site.fail("give explicit pads")
    _check_bias(site, 2, weight[1] * groups)
    strides, dilations = site.ints("strides", [1] * rank), site.ints("dilations", [1] * rank)
    pads, extra = site.ints("pads", [0] * 2 * rank), site.ints("output_padding", [0] * rank)
    sizes = []
    for axis, size in enumerate(dims[2:]):
        extent = (kernel[axis] - 1) * dilations[axis] + 1
        sizes.append(strides[axis] * (size - 1) + extra[axis] + extent - pads[axis] - pads[axis + rank])
        if sizes[-1] < 1 or extra[axis] >= max(strides[axis], dilations[axis]):
            raise site.fail("padding leaves nothing, or output_padding is not less than the stride")
    return [(dims[0], weight[1] * groups, *sizes)]


def _pool(site: Site) -> list[Dims]:
    dims = _spatial(site)
    if "kernel_shape" not in site.attributes:
        raise site.fail("kernel_shape is missing")
    kernel = site.ints("kernel_shape", [1] * (len(dims) - 2))
    pads = site.ints("pads", [0] * 2 * len(kernel))
    if any(pad >= size for pad, size in zip(pads, kernel * 2, strict=True)):
        raise site.fail("padding must be smaller than the kernel, or a window would see nothing else")
    return [(*dims[:2], *_window_dims(site, dims[2:], kernel))]


def _global_pool(site: Site) -> list[Dims]:
    dims = _spatial(site)
    return [(*dims[:2], *(1 for _ in dims[2:]))]


def _gemm(site: Site) -> list[Dims]:
    left, right = site.dims(0), site.dims(1)
    if len(left) != 2 or len(right) != 2:
        raise site.fail(f"{left} and {right} are not matrices")
    inner, outer = right if not site.integer("transB", 0) else right[::-1]
    if left[1] != inner:
        raise site.fail(f"{left[1]} columns meet a weight of {inner}")
    result = (left[0], outer)
    bias = site.optional(2)
    if bias is not None and bias not in ((outer,), (1, outer), (1,), ()):
        raise site.fail(f"the bias {bias} does not fit {result}")
    return [result]


def _matmul(site: Site) -> list[Dims]:
    left, right = site.dims(0), site.dims(1)
    if len(left) < 2 or len(right) < 2:
        raise site.fail("vectors are not supported; use matrices")
    if left[-1] != right[-2]:
        raise site.fail(f"{left} and {right} do not multiply")
    stack = broadcast(site, [left[:-2], right[:-2]])
    return [(*stack, left[-2], right[-1])]


def _channel_norm(site: Site) -> list[Dims]:
    """Batch, instance and group normalisation: every further input is one number per channel."""
    dims = _spatial(site, 2 if site.node.op_type == "BatchNormalization" else 3)
    for position in range(1, len(site.inputs)):
        grouped = site.node.op_type == "GroupNormalization" and site.opset < 21
        size = site.integer("num_groups", 1) if grouped else dims[1]
        if site.dims(position) != (size,):
            raise site.fail(f"input {position} is {site.dims(position)}, not ({size},)")
    if site.node.op_type == "GroupNormalization" and dims[1] % site.integer("num_groups", 1):
        raise site.fail(f"{dims[1]} channels do not split into groups")
    return [dims]


def _layer_norm(site: Site) -> list[Dims]:
    dims = site.dims(0)
    tail = dims[site.axis(len(dims), -1) :]
    for position in range(1, len(site.inputs)):
        given = site.optional(position)
        if given is not None and broadcast(site, [tail, given]) != tail:
            raise site.fail(f"input {position} is {given}, the normalised dims {tail}")
    return [dims]


def _along_axis(site: Site) -> list[Dims]:
    site.axis(len(site.dims(0)), -1)
    return [site.dims(0)]


def _image(site: Site) -> list[Dims]:
    dims = _spatial(site)
    if len(dims) != 4:
        raise site.fail(f"needs images, got {dims}; onnxruntime knows no other")
    if site.integer("size", 1) % 2 == 0:
        raise site.fail("an even size; onnxruntime needs an odd one")
    return [dims]


_SAME = (
    "Relu Sigmoid Tanh Softplus Softsign HardSwish Mish Identity Erf Exp Log Sqrt Neg Abs Reciprocal LeakyRelu "
    "Elu Celu Selu ThresholdedRelu HardSigmoid Gelu Swish"
)
SHAPE_RULES: dict[str, ShapeRule] = {
    **dict.fromkeys(_SAME.split(), _same),
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Pow", "Sum", "Mean", "Max", "Min"), _elementwise),
    **dict.fromkeys(("BatchNormalization", "InstanceNormalization", "GroupNormalization"), _channel_norm),
    **dict.fromkeys(("Softmax", "LogSoftmax"), _along_axis),
    **LAYOUT_RULES,
    "PRelu": _prelu,
    "Clip": _clip,
    "Dropout": _dropout,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "MaxPool": _pool,
    "AveragePool": _pool,
    "GlobalAveragePool": _global_pool,
    "GlobalMaxPool": _global_pool,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "LayerNormalization": _layer_norm,
    "LRN": _image,
}
