"""Kernels wider than their input are computed by the part that reaches it."""

import pytest
import torch
from torch import nn

from nasmesh.model.engine.convolution import reaching_conv


@pytest.mark.parametrize("kernel", [(5, 5), (7, 7), (7, 3)])
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (2, 9), (3, 1), (8, 8)])
@pytest.mark.parametrize("groups", [1, 6])
def test_conv_when_the_kernel_exceeds_the_input_then_outputs_and_gradients_are_the_full_ones(
    kernel: tuple[int, int], size: tuple[int, int], groups: int
) -> None:
    torch.manual_seed(3)
    padding = (kernel[0] // 2, kernel[1] // 2)
    full = nn.Conv2d(6, 6, kernel, padding=padding, groups=groups)
    x = torch.randn(4, 6, *size, requires_grad=True)
    y = torch.randn(4, 6, *size)
    expected = torch.autograd.grad((full(x) * y).sum(), [x, full.weight, full.bias])
    output = reaching_conv(x, full.weight, full.bias, padding, groups)
    found = torch.autograd.grad((output * y).sum(), [x, full.weight, full.bias])
    torch.testing.assert_close(output, full(x), atol=1e-5, rtol=1e-5)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
