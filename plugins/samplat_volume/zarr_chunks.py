"""Chunks of a zarr: of missing ones one is warned, a damaged one is an error with its name.

zarr reads a chunk that is not there as its fill value, and most writers leave such chunks out. That
cannot be told from a copy that was interrupted, so a person has to hear of it.
"""

from __future__ import annotations

import itertools
import logging
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samplat import InputError

log = logging.getLogger(__name__)

METADATA = ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata")


def open_group(path: str) -> Any:
    """The group at a directory or URL.

    Args:
        path: of the group.

    Raises:
        InputError: there is none that can be read.
    """
    import zarr

    if "://" not in path and not Path(path).is_dir():
        raise InputError(f"there is no directory {path}; expected an OME-Zarr image")
    try:
        group = zarr.open_group(path, mode="r")
        checked = _checked(group.store)
        return zarr.open_group(checked, path=group.path, mode="r")
    except Exception as error:  # stores raise what they like
        raise InputError(
            f"{path} is no zarr group that can be read ({type(error).__name__}: "
            f"{' '.join(str(error).split())}); expected an OME-Zarr image"
        ) from error


def _checked(store: Any) -> Any:
    from zarr.storage import WrapperStore

    class Checked(WrapperStore[Any]):
        """Raises where blosc would go on with other voxels."""

        blosc: set[str]
        """Arrays of which a chunk says how long it is, which blosc itself does not look at."""

        async def get(self, key: str, *args: Any, **kwargs: Any) -> Any:
            found = await self._store.get(key, *args, **kwargs)
            if (
                found is not None
                and key.rpartition("/")[2] not in METADATA
                and any(key.startswith(f"{path}/") for path in self.blosc)
            ):
                _check_blosc(found.to_bytes())
            return found

    checked = Checked(store)
    checked.blosc = set()
    return checked


def _check_blosc(chunk: bytes) -> None:
    """Its header of 16 bytes ends with the bytes of the chunk; of a cut one blosc makes voxels."""
    told = struct.unpack_from("<I", chunk, 12)[0] if len(chunk) >= 16 else 16
    if len(chunk) < told:
        raise ValueError(f"cut off, {len(chunk)} of {told} bytes are there")


def open_array(group: Any, name: str, path: str) -> Any:
    """An array of a group from `open_group`.

    Raises:
        InputError: there is none.
    """
    try:
        array = group[name]
        compressors = array.compressors
    except Exception as error:
        raise InputError(f"{path} names a dataset {name}, which cannot be opened") from error
    if any(type(c).__name__ in ("Blosc", "BloscCodec") for c in compressors) and not array.shards:
        group.store.blosc.add(array.path)
    return array


def note_missing(array: Any, path: str) -> None:
    """Warn of chunks that a local array lacks, with how many and the first one's name.

    Raises:
        InputError: it has none at all.
    """
    if "://" in path:
        return
    folder = Path(path) / array.path
    there = {f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file()}
    names = _names(array)  # lazily: a header may claim any number
    missing = next((name for name in names if name not in there), None)
    if missing is None:
        return
    count, have = math.prod(_counts(array)), len(there - set(METADATA))
    if not have:
        raise InputError(f"{folder} has none of its {count} chunks; copy the image again")
    log.warning(
        "%s/%s is missing, and %d of %d chunks are, which count as %s: right if they were left out "
        "as empty, but if the image is a copy that was interrupted, copy it again",
        *(folder, missing, count - have, count, array.fill_value),
    )


def _names(array: Any) -> Iterator[str]:
    """Names of the files of an array, in order."""
    counts = _counts(array)
    for number in range(math.prod(counts)):
        place = []
        for count in reversed(counts):
            number, index = divmod(number, count)
            place.append(index)
        yield array.metadata.encode_chunk_key(tuple(reversed(place)))


def _sides(array: Any) -> tuple[int, ...]:
    """Extent of what one file holds."""
    return tuple(array.shards or array.chunks)


def _counts(array: Any) -> list[int]:
    return [-(-n // side) for n, side in zip(array.shape, _sides(array), strict=True)]


@dataclass(frozen=True, kw_only=True)
class ReadChunks:
    """A zarr array whose faults come as one-line errors that name the chunk."""

    array: Any
    """The array."""
    path: str
    """Of the image, for messages."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Extent along its axes."""
        return tuple(self.array.shape)

    def __getitem__(self, index: Any) -> NDArray[Any]:
        """A part, by basic indexing with steps >= 1."""
        try:
            return np.asarray(self.array[index])
        except Exception as error:  # stores and codecs raise what they like
            raise InputError(self._fault(index, error)) from error

    def _fault(self, index: Any, error: Exception) -> str:
        for name, part in self._chunks(index):
            try:
                self.array[part]
            except Exception as found:  # noqa: BLE001 as above
                return (
                    f"{self.path}/{name} cannot be read: {_one_line(found)}; it is damaged or out "
                    "of reach: copy it again"
                )
        return f"{self.path}/{self.array.path} cannot be read at {index}: {_one_line(error)}"

    def _chunks(self, index: Any) -> Iterator[tuple[str, tuple[slice, ...]]]:
        """Names and places of the files that a part is in."""
        sides, ranges = _sides(self.array), []
        for part, size, side in zip(index, self.shape, sides, strict=True):
            places = (
                range(*part.indices(size)) if isinstance(part, slice) else range(part, part + 1)
            )
            ranges.append(sorted({place // side for place in places}))
        for place in itertools.product(*ranges):
            starts = [i * side for i, side in zip(place, sides, strict=True)]
            ends = zip(starts, sides, self.shape, strict=True)
            name = f"{self.array.path}/{self.array.metadata.encode_chunk_key(place)}"
            yield name.lstrip("/"), tuple(slice(a, min(a + s, n)) for a, s, n in ends)


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
