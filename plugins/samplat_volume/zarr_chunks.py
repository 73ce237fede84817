"""Chunks of a zarr: a missing or damaged one is an error with its name, never silent zeros.

zarr reads a chunk that is not there as its fill value, and some writers leave such chunks out. That
cannot be told from a copy that was interrupted, so somebody has to say which it is.
"""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samplat import InputError

METADATA = ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata")


def open_group(path: str, *, strict: bool) -> Any:
    """The group at a directory or URL.

    Args:
        path: of the group.
        strict: reading a chunk that is not there raises FileNotFoundError.

    Raises:
        InputError: there is none that can be read.
    """
    import zarr

    if "://" not in path and not Path(path).is_dir():
        raise InputError(f"there is no directory {path}; expected an OME-Zarr image")
    try:
        group = zarr.open_group(path, mode="r")
        checked = _checked(group.store, strict=strict)
        return zarr.open_group(checked, path=group.path, mode="r")
    except Exception as error:  # stores raise what they like
        raise InputError(
            f"{path} is no zarr group that can be read ({type(error).__name__}: "
            f"{' '.join(str(error).split())}); expected an OME-Zarr image"
        ) from error


def _checked(store: Any, *, strict: bool) -> Any:
    from zarr.storage import WrapperStore

    class Checked(WrapperStore[Any]):
        """Raises where zarr would go on with other voxels."""

        blosc: set[str]
        """Arrays of which a chunk says how long it is, which blosc itself does not look at."""

        async def get(self, key: str, *args: Any, **kwargs: Any) -> Any:
            found = await self._store.get(key, *args, **kwargs)
            if key.rpartition("/")[2] in METADATA:
                return found
            if found is None and strict:
                raise FileNotFoundError(key)
            if found is not None and any(key.startswith(f"{path}/") for path in self.blosc):
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


def check_chunks(array: Any, path: str) -> None:
    """Refuse an array of a local group of which a chunk is missing; of a URL it shows in reading.

    Raises:
        InputError: it is, with the first one's name.
    """
    if "://" in path:
        return
    folder = Path(path) / array.path
    there = {f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file()}
    names = _names(array)  # lazily: a header may claim any number
    if missing := next((name for name in names if name not in there), None):
        count = math.prod(_counts(array)) - len(there - set(METADATA))
        raise InputError(_told(f"{folder}/{missing}", count, array))


def _names(array: Any) -> Iterator[str]:
    """Names of the files of an array, in order."""
    counts = _counts(array)
    for number in range(math.prod(counts)):
        place = []
        for count in reversed(counts):
            number, index = divmod(number, count)
            place.append(index)
        yield array.metadata.encode_chunk_key(tuple(reversed(place)))


def _told(name: str, count: int, array: Any) -> str:
    more = f", as {count - 1} other chunks are" if count > 1 else ""
    fill = array.fill_value
    return (
        f"{name} is missing{more}: copy the image again; or, if its writer leaves out chunks of "
        f"nothing but {fill}, take them as that with allow_gaps"
    )


def _sides(array: Any) -> tuple[int, ...]:
    """Extent of what one file holds."""
    return tuple(array.shards or array.chunks)


def _counts(array: Any) -> list[int]:
    return [-(-n // side) for n, side in zip(array.shape, _sides(array), strict=True)]


@dataclass(frozen=True, kw_only=True)
class ReadChunks:
    """A zarr array whose faults come as one-line errors that name the chunk."""

    array: Any
    """The array; of a strict store, so that missing chunks raise."""
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
            except FileNotFoundError:
                return _told(f"{self.path}/{name}", 1, self.array)
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
