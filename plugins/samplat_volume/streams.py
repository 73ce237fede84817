"""Files of one header and then all voxels, written slab by slab: memory does not grow with them."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from samplat import JobResult, check_file, narrowed, replacing
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
        """Refuse an output that cannot be written."""
        check_file(output)

    def export(self, result: JobResult, output: Path) -> None:
        """Write the labels of a job."""
        self.write(of_result(result), output)

    def write(self, volume: LabelVolume, output: Path) -> None:
        """Write labels.

        Raises:
            InputError: the format cannot hold them.
        """
        header = self.header(volume)
        with replacing(output) as written, written.open("wb") as file:
            with _gzip(file, self.compressed == "everything") as outer:
                outer.write(header)
                with _gzip(outer, self.compressed == "voxels") as inner:
                    _write_voxels(volume, inner)


@contextmanager
def _gzip(file: IO[bytes], active: bool) -> Iterator[IO[bytes]]:
    if not active:
        yield file
        return
    # no name and no date: equal labels give equal bytes
    with gzip.GzipFile(filename="", fileobj=file, mode="wb", compresslevel=4, mtime=0) as packed:
        yield packed  # type: ignore[misc]


def _write_voxels(volume: LabelVolume, file: IO[bytes]) -> None:
    dtype = volume.dtype
    for _, labels in volume.slabs():
        voxels = narrowed(labels, dtype).astype(dtype.newbyteorder("<"), copy=False)
        data = memoryview(voxels.reshape(-1)).cast("B")
        for start in range(0, len(data), PIECE):
            file.write(data[start : start + PIECE])
