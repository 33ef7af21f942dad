"""RandAugment's operations against Pillow's, which the paper used."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from train_svc.rand_augment import OPERATIONS, apply_operations

NUMBERS = {name: number for number, (name, _) in enumerate(OPERATIONS)}
DRAW = np.random.default_rng(7)
SMOOTH = np.clip(
    np.add.outer(np.arange(24) * 5, np.arange(20) * 4)[None, :, :, None] + DRAW.integers(0, 60, (6, 24, 20, 3)), 20, 230
).astype(np.uint8)
IMAGES = torch.from_numpy(SMOOTH.transpose(0, 3, 1, 2).copy())


def _ours(name, magnitude, signs=1):
    count = len(IMAGES)
    operations = torch.full((count,), NUMBERS[name])
    return apply_operations(IMAGES, operations, torch.full((count,), signs), magnitude).permute(0, 2, 3, 1).numpy()


def _theirs(change):
    return np.stack([np.asarray(change(Image.fromarray(image))) for image in SMOOTH])


EXACT = {
    "equalize": ImageOps.equalize,
    "solarize": lambda image: ImageOps.solarize(image, threshold=127.5),
    "posterize": lambda image: ImageOps.posterize(image, 6),
}


@pytest.mark.parametrize("name", EXACT)
def test_operation_when_applied_then_is_pillows(name):
    np.testing.assert_array_equal(_ours(name, 15), _theirs(EXACT[name]))


ROUNDED = {
    "autocontrast": ImageOps.autocontrast,
    "brightness": lambda image: ImageEnhance.Brightness(image).enhance(1.45),
    "color": lambda image: ImageEnhance.Color(image).enhance(1.45),
    "contrast": lambda image: ImageEnhance.Contrast(image).enhance(1.45),
    "sharpness": lambda image: ImageEnhance.Sharpness(image).enhance(1.45),
}


@pytest.mark.parametrize("name", ROUNDED)
def test_operation_when_it_rounds_then_is_pillows_but_for_that(name):
    difference = _ours(name, 15).astype(int) - _theirs(ROUNDED[name]).astype(int)
    assert np.abs(difference).max() <= 2
    assert np.abs(_ours(name, 15).astype(int) - SMOOTH).max() > 2


def _affine(*matrix):
    return lambda image: image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST)


@pytest.mark.parametrize(
    ("name", "signs", "change"),
    [
        ("translate_x", 1, _affine(1, 0, 4, 0, 1, 0)),
        ("translate_y", -1, _affine(1, 0, 0, 0, 1, -5)),
        ("shear_x", 1, _affine(1, 0.15, -0.15 * 12, 0, 1, 0)),
        ("shear_y", 1, _affine(1, 0, 0, 0.15, 1, -0.15 * 10)),
        ("rotate", -1, lambda image: image.rotate(-15, Image.Resampling.NEAREST)),
    ],
)
def test_geometry_when_applied_then_takes_pillows_pixels(name, signs, change):
    same = (_ours(name, 15, signs) == _theirs(change)).mean()
    assert same > 0.97, f"{same:.3f} of the pixels agree; ties between two pixels may not"


def test_layer_when_nothing_is_strong_then_only_histograms_change():
    for name in NUMBERS:
        if name not in ("autocontrast", "equalize", "solarize"):
            np.testing.assert_array_equal(_ours(name, 0), SMOOTH, err_msg=name)


def test_layer_when_each_image_has_its_operation_then_is_that_of_a_batch_of_its_own():
    operations = torch.arange(6) + 5
    together = apply_operations(IMAGES, operations, torch.ones(6), 20)
    for row, number in enumerate(operations.tolist()):
        alone = apply_operations(IMAGES[row : row + 1], torch.tensor([number]), torch.ones(1), 20)
        assert torch.equal(together[row], alone[0]), OPERATIONS[number][0]


def test_layer_when_images_are_grey_then_keeps_their_form():
    grey = IMAGES[:, :1]
    for number in range(len(OPERATIONS)):
        out = apply_operations(grey, torch.full((6,), number), torch.ones(6), 9)
        assert (out.shape, out.dtype) == (grey.shape, torch.uint8)
