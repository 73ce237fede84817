"""Labels on disk: a zarr array that follows the journal, and can be made of it again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_sam.blocks import Block, Window
from samplat import InputError

CHUNK = 512
"""Pixels of a chunk along the last two axes; 1 along the others."""
LARGEST = 4 * 2**30
"""Bytes that labels may take in memory."""


def empty_labels(shape: Sequence[int]) -> NDArray[np.uint32]:
    """Labels of an image without objects.

    Raises:
        InputError: no pixels, or more than fit into `LARGEST` bytes.
    """
    if not prod(shape) or len(shape) < 2:
        raise InputError(f"expected an image of two or more axes with pixels, got {tuple(shape)}")
    if (needed := 4 * prod(shape)) > LARGEST:
        raise InputError(
            f"labels of {tuple(shape)} pixels take {needed / 2**30:.1f} GiB of memory, more than "
            f"the {LARGEST / 2**30:.0f} there may be; open a part of the image"
        )
    return np.zeros(tuple(shape), np.uint32)


def painted_labels(shape: Sequence[int], pixels: Iterable[Block]) -> NDArray[np.uint32]:
    """Labels after blocks were written one after the other."""
    labels = empty_labels(shape)
    for block in pixels:
        labels[block.window] = block.array()
    return labels


class LabelStore:
    """A zarr v3 array of uint32 labels with checksums. Chunks of background alone are no files."""

    def __init__(self, path: Path, labels: NDArray[np.uint32]) -> None:
        self.path, self._labels = path, labels
        self._behind: set[tuple[int, ...]] = set()
        self._array = self._open()

    def _open(self) -> Any:
        import zarr
        from zarr.codecs import Crc32cCodec, ZstdCodec

        shape = self._labels.shape
        try:
            found = zarr.open_array(self.path, mode="r+")
            if found.shape == shape and found.chunks == chunks_of(shape):
                return found
        except (FileNotFoundError, ValueError, KeyError):
            pass  # there is none, or what describes it is damaged: the journal tells all of it
        return zarr.create_array(
            self.path,
            shape=shape,
            chunks=chunks_of(shape),
            dtype="uint32",
            fill_value=0,
            compressors=[ZstdCodec(level=1), Crc32cCodec()],
            overwrite=True,
        )

    def write(self, window: Window) -> None:
        """Bring the chunks of a window up to the labels in memory.

        Raises:
            OSError: the disk is full or failing; what is missing is written with the next window.
        """
        self._behind |= set(_touched(window, self._array.chunks))
        for chunk in sorted(self._behind):
            part = _part(chunk, self._array.chunks, self._array.shape)
            self._array[part] = self._labels[part]
            self._behind.discard(chunk)

    def mend(self) -> int:
        """Write every chunk that is not as the labels in memory; returns how many there were."""
        whole = tuple(slice(0, n) for n in self._array.shape)
        wrong = 0
        for chunk in _touched(whole, self._array.chunks):
            part = _part(chunk, self._array.chunks, self._array.shape)
            if not self._holds(part):
                self._array[part] = self._labels[part]
                wrong += 1
        return wrong

    def _holds(self, part: Window) -> bool:
        try:
            return bool(np.array_equal(self._array[part], self._labels[part]))
        except Exception:  # noqa: BLE001 codecs raise what they like for damaged chunks
            return False


def chunks_of(shape: Sequence[int]) -> tuple[int, ...]:
    """Extent of a chunk along each axis."""
    return (*[1] * (len(shape) - 2), *(min(CHUNK, n) for n in shape[-2:]))


def _touched(window: Window, chunks: Sequence[int]) -> Iterator[tuple[int, ...]]:
    return product(
        *(range(w.start // n, -(-w.stop // n)) for w, n in zip(window, chunks, strict=True))
    )


def _part(chunk: Sequence[int], chunks: Sequence[int], shape: Sequence[int]) -> Window:
    return tuple(
        slice(i * n, min((i + 1) * n, most))
        for i, n, most in zip(chunk, chunks, shape, strict=True)
    )
