"""Files of one header and then all voxels, written slab by slab: memory does not grow with them."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from samplat import InputError, JobResult, check_file, narrowed, replacing
from samplat_volume.labels import LabelVolume, of_result

PIECE = 2**24
"""Bytes that are compressed at a time."""

Compressed = Literal["nothing", "voxels", "everything"]


@dataclass(frozen=True, kw_only=True)
class StreamWriter:
    """Writes ids in the smallest unsigned type that holds them, little endian, x fastest.

    0 is background. The largest value of the type marks voxels of tiles that failed; the header
    says so.
    """

    name: str
    """Unique name."""
    suffixes: tuple[str, ...]
    """Suffixes that it claims."""
    header: Callable[[LabelVolume], bytes]
    """What comes before the voxels."""
    compressed: Compressed = "nothing"
    """What goes through gzip."""

    def check(self, output: Path) -> None:
        """Refuse an output that cannot be written, or that others would misread.

        ITK looks for the voxels of `a.nii.gz` in a file `a.nii` beside it.
        """
        check_file(output)
        plain = output.with_name(output.name[: -len(".gz")])
        if output.name.lower().endswith(".nii.gz") and plain.exists():
            raise InputError(
                f"cannot write {output}: {plain.name} lies beside it, and ITK would read its "
                "voxels instead; remove it, or choose another name"
            )

    def export(self, result: JobResult, output: Path) -> None:
        """Write the labels of a job."""
        self.write(of_result(result), output)

    def write(self, volume: LabelVolume, output: Path) -> None:
        """Write labels.

        Raises:
            InputError: the format cannot hold them.
        """
        header = self.header(volume)
        with ExitStack() as stack:
            written = stack.enter_context(replacing(output))
            file: IO[bytes] = stack.enter_context(written.open("wb"))
            if self.compressed == "everything":
                file = stack.enter_context(_gzip(file))
            file.write(header)
            if self.compressed == "voxels":
                file = stack.enter_context(_gzip(file))
            _write_voxels(volume, file)


def _gzip(file: IO[bytes]) -> Any:
    # no name and no date: equal labels give equal bytes
    return gzip.GzipFile(filename="", fileobj=file, mode="wb", compresslevel=4, mtime=0)


def _write_voxels(volume: LabelVolume, file: IO[bytes]) -> None:
    dtype = volume.dtype
    for _, labels in volume.slabs():
        voxels = narrowed(labels, dtype).astype(dtype.newbyteorder("<"), copy=False)
        data = voxels.reshape(-1).view(np.uint8).data
        for start in range(0, len(data), PIECE):
            file.write(data[start : start + PIECE])
