"""Label shards: zarr v3, sharded, zstd + crc32c.

A shard is encoded in memory and written by `files.write_atomic`: zarr's own store renames without
fsync, and leaves temporary files behind when it is killed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from samplat.tiles import TileGrid, Window

HOLE = 2**32 - 1
"""Label of the pixels of a quarantined tile, and fill value of the label array: not background."""


def smallest_dtype(largest: int) -> np.dtype[np.unsignedinteger]:
    """The smallest unsigned type that holds ids up to `largest` and, above them, a hole's value."""
    kinds = (np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.uint32))
    return next(kind for kind in kinds if largest < np.iinfo(kind).max)


def narrowed(
    labels: NDArray[np.uint32], dtype: np.dtype[np.unsignedinteger]
) -> NDArray[np.unsignedinteger]:
    """Labels in a smaller type; the pixels of quarantined tiles get its largest value."""
    if dtype == labels.dtype:
        return labels
    return np.where(labels == HOLE, np.iinfo(dtype).max, labels).astype(dtype)


def _chunk_shape(shard: tuple[int, ...]) -> tuple[int, ...]:
    """The largest divisor up to 256 of each side, or the whole side when that is below 32."""
    divisors = (max(d for d in range(1, min(n, 256) + 1) if n % d == 0) for n in shard)
    return tuple(d if d >= 32 else n for d, n in zip(divisors, shard, strict=True))


def _memory_array(shape: tuple[int, ...], shard: tuple[int, ...]) -> tuple[Any, dict[str, Any]]:
    import zarr
    from zarr.codecs import Crc32cCodec, ZstdCodec
    from zarr.storage import MemoryStore

    content: dict[str, Any] = {}
    array = zarr.create_array(
        MemoryStore(content),
        shape=shape,
        shards=shard,
        chunks=_chunk_shape(shard),
        dtype="uint32",
        compressors=[ZstdCodec(level=3), Crc32cCodec()],
        fill_value=HOLE,
        dimension_names=["z", "y", "x"],
        attributes={"hole": HOLE, "background": 0},
    )
    return array, content


def labels_header(grid: TileGrid) -> bytes:
    """The metadata document `zarr.json` of the label array."""
    _, content = _memory_array(grid.shape, grid.tile_shape)
    header: bytes = content["zarr.json"].to_bytes()
    return header


def encode_shard(labels: NDArray[np.uint32], shard: tuple[int, ...]) -> bytes:
    """The file of one shard; equal labels give equal bytes.

    Args:
        labels: (z, y, x), smaller than a shard at the image's edge.
        shard: shape of a whole shard.
    """
    array, content = _memory_array(labels.shape, shard)
    array[...] = labels
    data: bytes = content["c/" + "/".join("0" * labels.ndim)].to_bytes()
    return data


def decode_shard(data: bytes, window: Window, shard: tuple[int, ...]) -> NDArray[np.uint32]:
    """The labels (z, y, x) of the file of one shard."""
    from zarr.core.buffer import cpu

    array, content = _memory_array(window.shape, shard)
    content["c/" + "/".join("0" * len(shard))] = cpu.Buffer.from_bytes(data)
    labels: NDArray[np.uint32] = np.asarray(array[...])
    return labels
