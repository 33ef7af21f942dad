"""Images in files, whatever their form: the headers are looked at first, the pixels are read one batch at a time."""

import functools
import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from nasmesh.data.adding.options import Options
from nasmesh.data.adding.reader import BadFiles, Batch
from nasmesh.errors import Invalid

# Only raster formats: some of the others run programs.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm", ".pnm"}
)
# What systems leave in folders; everything else that is no image is said to be bad.
LITTER = frozenset({"thumbs.db", "desktop.ini"})
_BATCH = 128
_ROTATED = frozenset({5, 6, 7, 8})  # EXIF orientations with height and width exchanged
_ORIENTATION = 0x0112
_PIXELS = 1 << 28
_GREY = {"1": "grey", "L": "grey", "I;16": "deep", "I;16B": "deep", "I;16L": "deep", "I;16N": "deep"}
_COLOUR = {"RGB": "rgb", "P": "rgb", "YCbCr": "rgb", "HSV": "rgb", "LAB": "rgb"}
_ODD = {"LA": "transparent", "La": "transparent", "RGBA": "transparent", "RGBa": "transparent", "PA": "transparent"}
_MODES = {**_GREY, **_COLOUR, **_ODD, "CMYK": "cmyk"}
_FAULTS = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError, OverflowError, MemoryError)


class Entry(NamedTuple):
    """One image file with what is known of it. `answer`: a label, or targets."""

    path: Path
    name: str
    answer: Any
    group: int = 0
    is_test: bool = False


class ImageFiles:
    """Image files that become samples of one size and mode."""

    def __init__(self, entries: Sequence[Entry], options: Options, bad: BadFiles, *, grouped: bool = False) -> None:
        """Look at every header.

        Raises Invalid (DATASET_SIZES_MIXED, DATASET_MODES_MIXED, DATASET_FILES_CORRUPT, DATASET_EMPTY).
        """
        self._bad = bad
        self._grouped = grouped
        kept: list[Entry] = []
        looks: list[tuple[tuple[int, int], str]] = []
        with _pool() as pool:
            seen = pool.map(functools.partial(_look, options=options), entries)
            for entry, look in zip(entries, seen, strict=True):
                if isinstance(look, str):
                    bad.add(entry.name, look)
                else:
                    kept.append(entry)
                    looks.append(look)
        if not kept:
            bad.raise_any()
            raise Invalid("DATASET_EMPTY", "path: there is no image in it", field="path")
        self._size = options.size or _one_size(kept, looks)
        self._mode = options.mode or _one_mode(kept, looks)
        # Samples of the data set's own test split come last.
        self._entries = [entry for entry in kept if not entry.is_test] + [entry for entry in kept if entry.is_test]
        self._resize = options.size is not None
        self._stamps = {entry.path: _stamp(entry.path) for entry in kept}

    @property
    def dims(self) -> tuple[int, ...]:
        """Dimensions of a sample."""
        return (1 if self._mode == "grey" else 3, *self._size)

    def batches(self, dtype: "np.dtype[Any]") -> Iterator[Batch]:
        """Yield the samples, answers as `dtype`; what cannot be read is noted as bad."""
        with _pool() as pool:
            for is_test in (False, True):
                part = [entry for entry in self._entries if entry.is_test is is_test]
                for first in range(0, len(part), _BATCH):
                    entries = part[first : first + _BATCH]
                    found = self._batch(entries, list(pool.map(self._read, entries)), dtype)
                    if found is not None:
                        yield found

    def _batch(
        self, entries: Sequence[Entry], read: Sequence[NDArray[np.uint8] | str], dtype: "np.dtype[Any]"
    ) -> Batch | None:
        good: list[tuple[NDArray[np.uint8], Entry]] = []
        for entry, pixels in zip(entries, read, strict=True):
            if isinstance(pixels, str):
                self._bad.add(entry.name, pixels)
            else:
                good.append((pixels, entry))
        if not good:
            return None
        return Batch(
            np.stack([pixels for pixels, _ in good]),
            np.asarray([entry.answer for _, entry in good], dtype=dtype),
            np.asarray([entry.group for _, entry in good], dtype=np.int64) if self._grouped else None,
            good[0][1].is_test,
        )

    def _read(self, entry: Entry) -> NDArray[np.uint8] | str:
        """Return the pixels of an image, or why there are none."""
        try:
            if _stamp(entry.path) != self._stamps[entry.path]:
                raise Invalid(
                    "DATASET_CHANGED",
                    f"path: {entry.name} was changed while the data set was being read; add it again",
                    field="path",
                )
            with Image.open(entry.path, formats=FORMATS) as opened:
                image = _upright(opened)
                pixels = self._pixels(image)
        except _FAULTS as error:
            return _why(error)
        return pixels

    def _pixels(self, image: Image.Image) -> NDArray[np.uint8]:
        if _MODES[image.mode] == "deep":  # 16 bits to 8; Pillow's own conversion would clip
            image = Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
        image = image.convert("L" if self._mode == "grey" else "RGB")
        height, width = self._size
        if self._resize and image.size != (width, height):
            image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
        values = np.asarray(image, dtype=np.uint8)
        return values[None] if values.ndim == 2 else np.ascontiguousarray(values.transpose(2, 0, 1))


def _pool() -> ThreadPoolExecutor:
    """Return threads that read files: decoders leave the interpreter to others meanwhile."""
    return ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1), thread_name_prefix="images")


def _look(entry: Entry, options: Options) -> tuple[tuple[int, int], str] | str:
    """Return (height, width) and the kind of mode from a file's header, or why it is bad."""
    try:
        if not stat.S_ISREG(os.stat(entry.path).st_mode):  # a pipe would be waited for
            raise ValueError("is no file")
        with Image.open(entry.path, formats=FORMATS) as image:
            width, height = image.size
            if getattr(image, "n_frames", 1) > 1:
                raise ValueError(f"has {getattr(image, 'n_frames', 1)} frames")
            if image.mode not in _MODES:
                raise ValueError(f"has pixels of mode {image.mode}")
            if width * height > _PIXELS:
                raise ValueError(f"has {width}x{height} pixels")
            rotated = image.getexif().get(_ORIENTATION) in _ROTATED
            mode = _MODES[image.mode]
            if mode == "deep" and not options.mode:
                mode = "grey of 16 bits"
    except _FAULTS as error:
        return _why(error)
    return ((width, height) if rotated else (height, width)), mode


def _why(error: BaseException) -> str:
    if isinstance(error, FileNotFoundError):
        return "is not there"
    return str(error).split(":")[0].split("'/")[0].strip()[:160] or type(error).__name__


def _stamp(path: Path) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_size, found.st_mtime_ns


def _upright(image: Image.Image) -> Image.Image:
    return ImageOps.exif_transpose(image) if image.getexif().get(_ORIENTATION, 1) != 1 else image


def _one_size(entries: Sequence[Entry], looks: Sequence[tuple[tuple[int, int], str]]) -> tuple[int, int]:
    sizes = Counter(size for size, _ in looks)
    if len(sizes) == 1:
        return looks[0][0]
    common = sizes.most_common(1)[0][0]
    other = next(entry.name for entry, (size, _) in zip(entries, looks, strict=True) if size != common)
    shown = ", ".join(f"{count} of {height}x{width}" for (height, width), count in sizes.most_common(4))
    raise Invalid(
        "DATASET_SIZES_MIXED",
        f"path: images have {len(sizes)} sizes ({shown}; {other}); say to which they shall be scaled and cropped:"
        f" --size {common[0]}x{common[1]}",
        field="size",
    )


def _one_mode(entries: Sequence[Entry], looks: Sequence[tuple[tuple[int, int], str]]) -> str:
    modes = Counter(mode for _, mode in looks)
    if len(modes) == 1 and looks[0][1] in ("grey", "rgb"):
        return looks[0][1]
    common = modes.most_common(1)[0][0]
    other = next(
        (entry.name for entry, (_, mode) in zip(entries, looks, strict=True) if mode != common), entries[0].name
    )
    shown = ", ".join(f"{count} {mode}" for mode, count in modes.most_common(4))
    raise Invalid(
        "DATASET_MODES_MIXED",
        f"path: images are {shown} ({other}); say what they shall become: --mode grey or --mode rgb",
        field="mode",
    )
