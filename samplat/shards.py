"""Label shards: zarr v3, sharded, zstd + crc32c.

A shard is encoded in memory and written by `files.write_atomic`: zarr's own store renames without
fsync, and leaves temporary files behind when it is killed.
"""

from __future__ import annotations

import functools
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


def _memory_array(
    shape: tuple[int, ...], shard: tuple[int, ...], dtype: Any
) -> tuple[Any, dict[str, Any]]:
    import zarr
    from zarr.codecs import Crc32cCodec, ZstdCodec
    from zarr.storage import MemoryStore

    content: dict[str, Any] = {}
    array = zarr.create_array(
        MemoryStore(content),
        shape=shape,
        shards=shard,
        chunks=_chunk_shape(shard),
        dtype=np.dtype(dtype).name,
        compressors=[ZstdCodec(level=3), Crc32cCodec()],
        fill_value=HOLE,
        dimension_names=["z", "y", "x"],
        attributes={"hole": HOLE, "background": 0},
        # to look for chunks without a label takes longer than to write them
        config={"write_empty_chunks": True},
    )
    return array, content


def labels_header(grid: TileGrid, dtype: Any) -> bytes:
    """The metadata document `zarr.json` of the label array, `grid.lead` pixels before the image."""
    shape = tuple(n + a for n, a in zip(grid.shape, grid.lead, strict=True))
    _, content = _memory_array(shape, grid.tile_shape, dtype)
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
    array, content = _memory_array(labels.shape, shard, labels.dtype)
    array[...] = labels
    data: bytes = content["c/" + "/".join("0" * labels.ndim)].to_bytes()
    return data


def decode_shard(data: bytes, window: Window, shard: tuple[int, ...], dtype: Any) -> Labels:
    """The labels (z, y, x) of the file of one shard."""
    from zarr.core.buffer import cpu

    array, content = _memory_array(window.shape, shard, dtype)
    content["c/" + "/".join("0" * len(shard))] = cpu.Buffer.from_bytes(data)
    labels: Labels = np.asarray(array[...])
    return labels
