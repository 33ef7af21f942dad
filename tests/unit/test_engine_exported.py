"""Networks that people wrote in PyTorch and exported: imported, trained, written back, served by onnxruntime."""

import io
import sys
import warnings

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from nasmesh.model.engine.checkpoint import write_back
from nasmesh.model.engine.convert import to_module
from nasmesh.model.engine.operators import BUILDERS
from nasmesh.model.engine.shape_check import meta_check
from nasmesh.model.imported import import_onnx
from nasmesh.model.operators import OPERATORS
from tests.builders.training import batch, serve, train

torch.set_num_threads(1)


class _Basic(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride > 1:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        return functional.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet18(nn.Module):
    """ResNet-18 (He et al. 2016) at an eighth of its width."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu, self.maxpool = nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
        stages, inputs = [], width
        for outputs, stride in ((width, 1), (2 * width, 2), (4 * width, 2), (8 * width, 2)):
            stages.append(nn.Sequential(_Basic(inputs, outputs, stride), _Basic(outputs, outputs, 1)))
            inputs = outputs
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(inputs, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


class _Inverted(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        layers = [_relu6(inputs, wide, 1, 1, 1)] if expansion > 1 else []
        layers += [
            _relu6(wide, wide, 3, stride, wide),
            nn.Conv2d(wide, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        ]
        self.conv = nn.Sequential(*layers)
        self.joins = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.joins else self.conv(x)


def _relu6(inputs: int, outputs: int, kernel: int, stride: int, groups: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU6(inplace=True))


class MobileNetV2(nn.Module):
    """MobileNetV2 (Sandler et al. 2018), narrow, with its dropout and ReLU6."""

    def __init__(self) -> None:
        super().__init__()
        plan = ((1, 8, 1, 1), (6, 12, 2, 2), (6, 16, 2, 2), (6, 24, 1, 1))
        layers: list[nn.Module] = [_relu6(3, 8, 3, 2, 1)]
        inputs = 8
        for expansion, outputs, repeats, stride in plan:
            for number in range(repeats):
                layers.append(_Inverted(inputs, outputs, stride if number == 0 else 1, expansion))
                inputs = outputs
        self.features = nn.Sequential(*layers, _relu6(inputs, 64, 1, 1, 1))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(64, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean([2, 3]))


def _export(module: nn.Module, *, opset: int) -> bytes:
    """Export in training form, nothing folded."""
    target = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (torch.randn(2, 3, 32, 32),),
            target,
            dynamo=False,
            training=torch.onnx.TrainingMode.TRAINING,
            do_constant_folding=False,
            opset_version=opset,
            input_names=["image"],
            output_names=["scores"],
            dynamic_axes={"image": {0: "batch"}, "scores": {0: "batch"}},
        )
    return target.getvalue()


@pytest.mark.parametrize(("author", "opset"), [(ResNet18, 13), (ResNet18, 17), (MobileNetV2, 17)])
def test_exported_network_when_imported_then_trains_and_goes_back(author, opset):
    torch.manual_seed(0)
    original = author()
    names = {name for name in original.state_dict() if not name.endswith("num_batches_tracked")}
    content = _export(original, opset=opset)
    model = import_onnx(content)
    assert meta_check(model) == (10,)
    module = to_module(model, seed=None)
    assert set(module.state_dict()) == names

    x, _ = batch((3, 32, 32), seed=1)
    with torch.no_grad():
        original.load_state_dict(module.state_dict(), strict=False)
        difference = float((module.eval()(x) - original.eval()(x)).abs().max())
    assert difference <= 1e-5

    optimizer = torch.optim.SGD(module.parameters(), lr=0.02, momentum=0.9)
    losses = train(module, optimizer, lambda _: batch((3, 32, 32), seed=2, size=16), range(8))
    assert losses[-1] < 0.8 * losses[0]

    trained = write_back(model, module.state_dict())
    onnx.checker.check_model(trained, full_check=True)
    with torch.no_grad():
        expected = module.eval()(x).numpy()
    served = float(np.abs(serve(trained, x) - expected).max())
    text = f"{author.__name__} opset {opset}: loss {losses[0]:.3f} to {losses[-1]:.3f}; "
    sys.stdout.write(f"\n{text}onnxruntime max abs diff {served:.3g}, original {difference:.3g}\n")
    assert served <= 1e-5 * max(1.0, float(np.abs(expected).max()))


def test_operators_when_admitted_then_the_engine_has_them():
    assert set(OPERATORS) - {"Constant"} <= set(BUILDERS)
