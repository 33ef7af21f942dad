"""Whether network, data and control parameters go together: what none of them can be refused for alone."""

from collections.abc import Iterator

import onnx

from nasmesh.data.info import REGRESSION, DatasetInfo
from nasmesh.data.training_fit import data_faults
from nasmesh.errors import FieldViolation, Invalid, Rejected
from nasmesh.model.initializers import data_inputs
from nasmesh.v1 import training_pb2 as pb
from train_svc import compute


def check_fits(model: onnx.ModelProto, info: DatasetInfo) -> None:
    """Raise Rejected (NETWORK_DATA_MISMATCH) where the network takes other samples or gives too many or few values."""
    (data_name,) = data_inputs(model)
    data = next(value for value in model.graph.input if value.name == data_name)
    takes, dims = _dims(data), info.sample_dims
    # 0 stands for a dimension that the object leaves open.
    if len(takes) != len(dims) or any(have not in (0, want) for have, want in zip(takes, dims, strict=True)):
        message = f"network: it takes samples of {list(takes)}, datasets/{info.name} has {list(dims)}"
        raise Rejected("NETWORK_DATA_MISMATCH", message, field="network")
    what = "targets" if info.task == REGRESSION else "classes"
    for output in model.graph.output:
        gives = _dims(output)
        if len(gives) != 1 or gives[0] not in (0, info.outputs):
            message = (
                f"network: output {output.name} gives {list(gives)}, datasets/{info.name} has {info.outputs} {what}"
            )
            raise Rejected("NETWORK_DATA_MISMATCH", message, field="network")


def _dims(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)[1:]


def check_config(config: pb.TrainConfig, info: DatasetInfo, field: str = "config") -> None:
    """Raise Invalid (TRAIN_CONFIG_INVALID) with every field that this data, or this server, has no use for."""
    faults = [
        FieldViolation(f"{field}.{name}", f"{field}.{name}: {what}")
        for name, what in (*data_faults(config, info), *_device_faults(config.compute))
    ]
    if faults:
        raise Invalid("TRAIN_CONFIG_INVALID", faults[0].description, field=faults[0].field, violations=faults)


def _device_faults(policy: pb.ComputePolicy) -> Iterator[tuple[str, str]]:
    if policy.precision == pb.PRECISION_FLOAT16 and compute.best_device().type != "cuda":
        yield "compute.precision", "FLOAT16 needs a GPU, and this server has none; use BFLOAT16 or AUTO"
