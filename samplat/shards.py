"""Label shards: zarr v3, sharded, zstd + crc32c.

A shard is encoded here and written by `files.write_atomic`: zarr's own store renames without fsync,
leaves temporary files behind when it is killed, and takes three times as long. Zarr makes the
array's metadata and reads the shards; what it writes of the same labels is the same, byte by byte.
Format: zarr's specification, version 3, codec `sharding_indexed`, index at the end.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samplat.errors import JobError
from samplat.tiles import TileGrid, Window

HOLE = 2**32 - 1
"""Label of the pixels of a quarantined tile, and fill value of the label array: not background.

No object bears it, in arrays of uint64 ids neither.
"""

Labels = NDArray[np.uint32] | NDArray[np.uint64]


def smallest_dtype(largest: int) -> np.dtype[np.unsignedinteger]:
    """The smallest unsigned type that holds ids up to `largest` and, above them, a hole's value.

    Raises:
        JobError: there are more ids than files of labels and polygons hold: 32 bits.
    """
    kinds = (np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.uint32))
    if largest >= HOLE:
        raise JobError(
            f"{largest} objects are more than the {HOLE - 1} that files of them can number; "
            "read the labels of the job directory, or segment parts of the image"
        )
    return next(kind for kind in kinds if largest < np.iinfo(kind).max)


def narrowed(labels: Labels, dtype: np.dtype[np.unsignedinteger]) -> NDArray[np.unsignedinteger]:
    """Labels in a smaller type; the pixels of quarantined tiles get its largest value."""
    if dtype == labels.dtype:
        return labels
    return np.where(labels == HOLE, np.iinfo(dtype).max, labels).astype(dtype)


def _chunk_shape(shard: tuple[int, ...]) -> tuple[int, ...]:
    """The largest divisor up to 512 of each side, or the whole side when that is below 32."""
    divisors = (max(d for d in range(1, min(n, 512) + 1) if n % d == 0) for n in shard)
    return tuple(d if d >= 32 else n for d, n in zip(divisors, shard, strict=True))


MISSING = 2**64 - 1
"""Offset and length, in a shard's index, of a chunk that is beyond the array's edge."""
SUM = 4
"""Bytes of a checksum, behind what it is of."""
LEVEL = 3
"""Of zstd."""


def labels_header(grid: TileGrid, dtype: Any) -> bytes:
    """The metadata document `zarr.json` of the label array, `grid.lead` pixels before the image."""
    import zarr
    from zarr.codecs import Crc32cCodec, ZstdCodec
    from zarr.storage import MemoryStore

    content: dict[str, Any] = {}
    zarr.create_array(
        MemoryStore(content),
        shape=tuple(n + a for n, a in zip(grid.shape, grid.lead, strict=True)),
        shards=grid.tile_shape,
        chunks=_chunk_shape(grid.tile_shape),
        dtype=np.dtype(dtype).name,
        compressors=[ZstdCodec(level=LEVEL), Crc32cCodec()],
        fill_value=HOLE,
        dimension_names=["z", "y", "x"],
        attributes={"hole": HOLE, "background": 0},
    )
    header: bytes = content["zarr.json"].to_bytes()
    return header


def encode_shard(labels: Labels, shard: tuple[int, ...]) -> bytes:
    """The file of one shard; equal labels of one type give equal bytes.

    Args:
        labels: (z, y, x), smaller than a shard at the image's edge.
        shard: shape of a whole shard.
    """
    if not labels.any():
        return _background(labels.shape, shard, labels.dtype.name)
    return _encoded(labels, shard)


@functools.lru_cache(maxsize=8)
def _background(shape: tuple[int, ...], shard: tuple[int, ...], dtype: str) -> bytes:
    # most shards of a sparse image; they come in the shapes of whole ones and of three edges
    return _encoded(np.zeros(shape, dtype), shard)


def _encoded(labels: Labels, shard: tuple[int, ...]) -> bytes:
    from numcodecs import zstd

    chunk, little = _chunk_shape(shard), labels.dtype.newbyteorder("<")
    counts = tuple(n // c for n, c in zip(shard, chunk, strict=True))
    index = np.full((*counts, 2), MISSING, "<u8")
    pieces, end = [], 0
    for place in sorted(np.ndindex(counts), key=_interleaved):
        part = labels[_slices(place, chunk)]
        if part.size:
            block = np.full(chunk, HOLE, little) if part.shape != chunk else np.empty(chunk, little)
            block[tuple(slice(n) for n in part.shape)] = part
            pieces.append(_summed(zstd.compress(block, LEVEL)))
            index[place] = end, len(pieces[-1])
            end += len(pieces[-1])
    return b"".join([*pieces, _summed(index.tobytes())])


def _slices(place: tuple[int, ...], chunk: tuple[int, ...]) -> tuple[slice, ...]:
    """The part of a shard that is in one chunk."""
    return tuple(slice(p * c, (p + 1) * c) for p, c in zip(place, chunk, strict=True))


def _interleaved(place: tuple[int, ...]) -> int:
    """Place along the Morton curve, the order in which zarr writes chunks."""
    bits = max(place).bit_length()
    ordered = itertools.product(range(bits), enumerate(place))
    return sum(((p >> b) & 1) << (b * len(place) + axis) for b, (axis, p) in ordered)


def _summed(data: bytes) -> bytes:
    import google_crc32c

    return data + int(google_crc32c.value(data)).to_bytes(SUM, "little")


def _unsummed(data: bytes) -> bytes:
    if _summed(data[:-SUM]) != data:
        raise JobError("a shard of labels is damaged: a checksum does not match")
    return data[:-SUM]


def decode_shard(data: bytes, window: Window, shard: tuple[int, ...], dtype: Any) -> Labels:
    """The labels (z, y, x) of the file of one shard.

    Raises:
        JobError: it is damaged.
    """
    from numcodecs import zstd

    chunk, kind = _chunk_shape(shard), np.dtype(dtype)
    labels: Labels = np.full(window.shape, HOLE, kind)
    for place, start, length in _index(data, shard, chunk):
        part = labels[_slices(place, chunk)]
        if start != MISSING and part.size:
            block = zstd.decompress(_unsummed(data[start : start + length]))
            whole = np.frombuffer(block, kind.newbyteorder("<")).reshape(chunk)
            part[...] = whole[tuple(slice(n) for n in part.shape)]
    return labels


def _index(
    data: bytes, shard: tuple[int, ...], chunk: tuple[int, ...]
) -> Iterator[tuple[tuple[int, ...], int, int]]:
    """Where each chunk of a shard is: its place, and first byte and length in the file."""
    counts = tuple(n // c for n, c in zip(shard, chunk, strict=True))
    size = 16 * int(np.prod(counts)) + SUM
    index = np.frombuffer(_unsummed(data[-size:]), "<u8").reshape(-1, 2).tolist()
    for place, (start, length) in zip(np.ndindex(counts), index, strict=True):
        yield place, start, length
