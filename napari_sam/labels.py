"""Labels on disk: a zarr array that follows the journal, and can be made of it again."""

from __future__ import annotations

import os
import shutil
from collections import OrderedDict, defaultdict
from collections.abc import Collection, Iterable, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_sam.blocks import Block
from napari_sam.lazy import Chunk, Chunked, chunks_of, shared
from samplat import InputError, JobError

REMEMBERED = 64
"""Chunks that are at hand in memory, of a MiB at most."""


def check_shape(shape: Sequence[int]) -> None:
    """Refuse what has no pixels to label.

    Raises:
        InputError: that.
    """
    if not prod(shape) or len(shape) < 2:
        raise InputError(f"expected an image of two or more axes with pixels, got {tuple(shape)}")


class DiskLabels(Chunked):
    """A zarr v3 array of uint32 labels with checksums, of any size: background takes no space.

    Args:
        path: of the array; made if there is none that fits.
        shape: extent of the image in pixels.
    """

    def __init__(self, path: Path, shape: Sequence[int]) -> None:
        check_shape(shape)
        super().__init__(shape, np.uint32)
        self.path = path
        self._array = self._open()
        self._stored = self._listed()
        # those that a full disk did not take
        self._behind: dict[Chunk, NDArray[np.uint32]] = {}
        self._recent: OrderedDict[Chunk, NDArray[np.uint32]] = OrderedDict()

    def _open(self) -> Any:
        import zarr
        from zarr.codecs import Crc32cCodec, ZstdCodec

        try:
            found = zarr.open_array(self.path, mode="r+")
            if found.shape == self.shape and found.chunks == chunks_of(self.shape):
                return found
        except (FileNotFoundError, ValueError, KeyError):
            pass  # there is none, or what describes it is damaged: the journal tells all of it
        return zarr.create_array(
            self.path,
            shape=self.shape,
            chunks=chunks_of(self.shape),
            dtype="uint32",
            fill_value=0,
            compressors=[ZstdCodec(level=1), Crc32cCodec()],
            overwrite=True,
        )

    def _listed(self) -> set[Chunk]:
        """The chunks that are files."""
        folder = self.path / "c"
        names = (file.relative_to(folder).parts for file in folder.rglob("*") if file.is_file())
        return {tuple(map(int, n)) for n in names if len(n) == self.ndim and all(map(_digits, n))}

    def held(self) -> Collection[Chunk]:
        """The chunks that are there."""
        return {*self._stored, *self._behind} if self._behind else self._stored

    def chunk(self, number: Chunk) -> NDArray[np.uint32]:
        """The labels of one of them.

        Raises:
            JobError: it is damaged.
        """
        if number in self._behind:
            return self._behind[number]
        if number not in self._recent:
            self._remember(number, self._read(number))
        self._recent.move_to_end(number)
        return self._recent[number]

    def _read(self, number: Chunk) -> NDArray[np.uint32]:
        try:
            return np.asarray(self._array[self.part_of(number)])
        except Exception as error:  # codecs raise what they like for damaged chunks
            raise JobError(
                f"{self.path} is damaged in chunk {number}: {error}; close the session and open "
                "it again, and the journal makes it again"
            ) from error

    def _remember(self, number: Chunk, labels: NDArray[np.uint32]) -> None:
        self._recent[number] = labels
        while len(self._recent) > REMEMBERED:
            self._recent.popitem(last=False)

    def write(self, block: Block) -> None:
        """Write a block, and what could not be written before.

        Raises:
            OSError: the disk is full or failing; it is written with the next block.
        """
        values = block.array()
        for number in self.touched(block.window):
            part = self.part_of(number)
            extent = [s.stop - s.start for s in part]
            known = number in self.held()
            labels = np.array(self.chunk(number)) if known else np.zeros(extent, np.uint32)
            to, source = shared(part, block.window)
            labels[to] = values[source]
            self._behind[number] = labels
        self._write_behind()

    def _write_behind(self) -> None:
        for number in sorted(self._behind):
            self._store(number, self._behind[number])
            del self._behind[number]

    def _store(self, number: Chunk, labels: NDArray[np.uint32]) -> None:
        self._array[self.part_of(number)] = labels
        if labels.any():
            self._stored.add(number)
            self._remember(number, labels)
        else:
            self._stored.discard(number)
            self._recent.pop(number, None)

    def copy(self, path: Path) -> None:
        """The same labels in another place of this disk, where they take no space again.

        Raises:
            OSError: the disk is full or failing, or has not taken all of them.
        """
        self._write_behind()
        # files of chunks are replaced, never changed: a second name keeps what they held
        shutil.copytree(self.path, path, copy_function=_link)

    def mend(self, pixels: Sequence[Block]) -> int:
        """Make every chunk what blocks, written one after the other, lead to.

        Returns:
            how many chunks were not.
        """
        written = self._by_chunk(pixels)
        wrong = 0
        for number in sorted({*written, *self._stored}):
            labels = self._replayed(number, [pixels[n] for n in written.get(number, ())])
            if not self._is(number, labels):
                self._store(number, labels)
                wrong += 1
        return wrong

    def _by_chunk(self, pixels: Iterable[Block]) -> dict[Chunk, list[int]]:
        found: dict[Chunk, list[int]] = defaultdict(list)
        for n, block in enumerate(pixels):
            for number in self.touched(block.window):
                found[number].append(n)
        return found

    def _replayed(self, number: Chunk, blocks: Iterable[Block]) -> NDArray[np.uint32]:
        part = self.part_of(number)
        labels = np.zeros([s.stop - s.start for s in part], np.uint32)
        for block in blocks:
            to, source = shared(part, block.window)
            labels[to] = block.part(source)
        return labels

    def _is(self, number: Chunk, labels: NDArray[np.uint32]) -> bool:
        try:
            found = self._read(number) if number in self._stored else np.zeros_like(labels)
        except JobError:
            return False
        return bool(np.array_equal(found, labels) and labels.any() == (number in self._stored))


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without second names
        shutil.copy2(source, target)


def _digits(name: str) -> bool:
    return name.isascii() and name.isdigit()
