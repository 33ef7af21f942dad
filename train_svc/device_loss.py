"""A GPU that stops answering: told apart from a fault of the network or of our own."""

import contextlib
from collections.abc import Iterator

import torch

from nasmesh.errors import Unavailable
from nasmesh.jobs.failures import DEVICE_LOST

# What CUDA says (cudaGetErrorString) where the device or its context is gone, and no call can succeed any more.
_SIGNS = (
    "unspecified launch failure",
    "device-side assert",
    "illegal memory access",
    "uncorrectable ECC error",
    "hardware stack error",
    "illegal instruction",
    "misaligned address",
    "launch timed out",
    "no CUDA-capable device",
    "device is busy or unavailable",
    "devices unavailable",
    "invalid device context",
    "CUDA-capable device(s) is/are busy",
    "nvlink",
    "unknown error",
)


@contextlib.contextmanager
def told_apart() -> Iterator[None]:
    """Turn what torch raises inside for a lost device into Unavailable (DEVICE_LOST); the rest passes."""
    try:
        yield
    except (torch.AcceleratorError, RuntimeError) as error:
        text = (str(error).strip().splitlines() or [""])[0]
        if not is_loss(error):
            raise
        message = f"the device was lost: {text[:300]}; the training goes on from its last checkpoint in a new process"
        raise Unavailable(DEVICE_LOST, message) from error


def is_loss(error: BaseException) -> bool:
    """Say whether an exception means that the device answers no more; memory that ran out does not."""
    if isinstance(error, torch.OutOfMemoryError):
        return False
    text = str(error)
    about_device = isinstance(error, torch.AcceleratorError) or "CUDA error" in text or "NCCL" in text
    return about_device and "out of memory" not in text and any(sign in text for sign in _SIGNS)
