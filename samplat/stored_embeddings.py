"""One embedding as a file: a zarr v3 group in a zip, shuffled, compressed, with checksums.

Half precision keeps what the mask decoder sees. Features that were computed in bfloat16 are stored
as such, which loses nothing; others as float16 of eight bits. `int8` has one scale per channel.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from samplat.embedding import Embedding, EmbeddingKey
from samplat.errors import InputError

Storage = Literal["half", "int8", "full"]
"""How features are stored."""
FORMAT = 1
"""Version of what a file holds; files of another are not read."""
DROPPED = 2
"""Bits of a float16's ten that are rounded away: noise, which does not compress. One more than
bfloat16 has are left."""
LARGEST = 65000.0
"""What fits into a float16 after that."""
LEVEL = 3
"""Of zstd; higher ones gain under one percent."""
UNREADABLE = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zipfile.BadZipFile,
)
"""What decoding damaged bytes raises."""
EPOCH = (1980, 1, 1, 0, 0, 0)
"""Date of everything in the zip, so that equal embeddings are equal bytes."""


def check_storage(storage: str) -> None:
    """Refuse an unknown way to store features.

    Raises:
        InputError: that.
    """
    if storage not in get_args(Storage):
        raise InputError(f"storage must be one of {', '.join(get_args(Storage))}, got {storage!r}")


def encode_embedding(embedding: Embedding, storage: Storage) -> bytes:
    """The file of an embedding; equal ones give equal bytes."""
    import zarr
    from zarr.storage import MemoryStore

    facts = {
        "format": FORMAT,
        "key": asdict(embedding.key),
        "storage": storage,
        "input_size": list(embedding.input_size),
        "original_size": list(embedding.original_size),
        "features": len(embedding.features),
    }
    content: dict[str, Any] = {}
    group = zarr.create_group(MemoryStore(content), attributes={"samplat": facts})
    for i, feature in enumerate(embedding.features):
        _write_feature(group, f"feature{i}", feature, storage, embedding.key.precision)
    return _zipped({name: buffer.to_bytes() for name, buffer in content.items()})


def decode_embedding(data: bytes) -> tuple[Embedding, Storage]:
    """The embedding of a file, and how it was stored.

    Raises:
        one of `UNREADABLE`: the bytes are damaged, or of another format.
    """
    import zarr
    from zarr.core.buffer import default_buffer_prototype
    from zarr.storage import MemoryStore

    buffer = default_buffer_prototype().buffer
    content = {name: buffer.from_bytes(part) for name, part in _unzipped(data).items()}
    group = zarr.open_group(MemoryStore(content), mode="r")
    facts: Mapping[str, Any] = dict(group.attrs)["samplat"]  # type: ignore[assignment]
    if facts["format"] != FORMAT:
        raise ValueError(f"it has the format {facts['format']}, expected {FORMAT}")
    count = int(facts["features"])
    (rows, columns), (height, width) = facts["input_size"], facts["original_size"]
    embedding = Embedding(
        features=tuple(_read_feature(group, f"feature{i}") for i in range(count)),
        input_size=(int(rows), int(columns)),
        original_size=(int(height), int(width)),
        key=EmbeddingKey(**facts["key"]),
    )
    return embedding, facts["storage"]


def _zipped(parts: Mapping[str, bytes]) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(parts):
            archive.writestr(zipfile.ZipInfo(name, EPOCH), parts[name])
    return target.getvalue()


def _unzipped(data: bytes) -> dict[str, bytes]:
    """All parts; the zip's checksums are looked at."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _write_feature(
    group: Any, name: str, feature: Tensor, storage: Storage, precision: str
) -> None:
    from zarr.codecs import BloscCodec, Crc32cCodec

    values, encoding, scale = _packed(feature.detach().cpu(), storage, precision)
    shuffle: Any = "shuffle" if values.itemsize > 1 else "noshuffle"
    # One chunk for each image: an embedding is read whole or not at all.
    compressors = [BloscCodec(cname="zstd", clevel=LEVEL, shuffle=shuffle), Crc32cCodec()]
    attributes: dict[str, Any] = {"encoding": encoding}
    if scale is not None:
        attributes["scale"] = [float(s) for s in scale]
    array = group.create_array(
        name,
        shape=values.shape,
        chunks=values.shape,
        dtype=values.dtype,
        compressors=compressors,
        attributes=attributes,
    )
    array[...] = values


def _packed(
    feature: Tensor, storage: Storage, precision: str
) -> tuple[NDArray[Any], str, NDArray[np.float32] | None]:
    """Values to store, how they are encoded, and the scale of each channel of int8."""
    values = feature.float()
    if storage == "int8":
        scale = (values.abs().amax(dim=(0, 2, 3)) / 127).clamp_min(1e-12)
        levels = (values / scale[None, :, None, None]).round().to(torch.int8)
        return levels.numpy(), "int8", scale.numpy()
    if storage == "half" and precision == "bf16":
        return values.bfloat16().view(torch.int16).numpy(), "bfloat16", None
    largest = float(values.abs().max()) if values.numel() else 0.0
    if storage == "half" and largest < LARGEST:
        # Rounded to the nearest: halves are ordered like the integers of their bits.
        bits = values.half().view(torch.int16).int()
        kept = ((bits + (1 << DROPPED >> 1)) >> DROPPED) << DROPPED
        return kept.to(torch.int16).view(torch.float16).numpy(), "float16", None
    return values.numpy(), "float32", None


def _read_feature(group: Any, name: str) -> Tensor:
    array = group[name]
    values = torch.from_numpy(np.ascontiguousarray(array[...]))
    encoding = array.attrs["encoding"]
    if encoding == "bfloat16":
        return values.view(torch.bfloat16).float()
    if encoding == "int8":
        scale = torch.tensor(array.attrs["scale"], dtype=torch.float32)
        return values.float() * scale[None, :, None, None]
    if encoding not in ("float16", "float32"):
        raise ValueError(f"unknown encoding {encoding!r}")
    return values.float()
