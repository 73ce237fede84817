"""Compressed volumes, once, as chunks that can be read in any direction.

::

    HOME/volumes/v1/3f0c…e1.zarr/     one volume; its name is the SHA-256 of what it was made from
    HOME/volumes/v1/3f0c…e1.lock      held while it is made
    HOME/volumes/v1/keys/9a41…07      the SHA-256 of a file that has not changed since it was hashed

Beside its chunks a volume has samples of its voxels, once somebody asked for them.

A volume appears under its name whole, is checked by crc32c whenever it is read, and is made again
from its file when it is damaged or somebody removed it. Any number of processes may share it.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import time
import uuid
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samplat import JobError, home, replacing
from samplat_volume.stacks import Stack, content_key, slabs

log = logging.getLogger(__name__)

CHUNK = (1, 16, 128, 128)
"""Channels and voxels (c, z, y, x): a compromise between the three planes.
The first mask waits for all chunks of one slice, mostly a slice across z."""
SLAB = 256 * 2**20
"""Bytes that are gathered before chunks are written."""
QUOTA = 50 * 2**30
"""Bytes of all volumes; those used least recently make room."""
TEMPORARY = ".samplat-tmp"
SETTLED = 2.0
"""Seconds after which a file's dates tell whether it was written to."""
UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)


class Ingested:
    """The chunks of a stack as an array (c, z, y, x), made where there are none.

    Raises:
        JobError: the disk is full or cannot be written.
        InputError: the file turns out to be damaged.
    """

    def __init__(self, stack: Stack) -> None:
        self._stack, self._path = stack, folder() / f"{stack.key()}.zarr"
        self.shape = stack.shape
        self._array = _open(stack, self._path)

    def __getitem__(self, index: Any) -> NDArray[Any]:
        try:
            return self._read(index)
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            log.warning("the ingested copy of %s is made again: %s", self._stack.name, error)
        _discard(self._path)
        self._array = _open(self._stack, self._path)
        try:
            return self._read(index)
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise JobError(f"{self._path} cannot be read: {error}; remove it") from error

    def _read(self, index: Any) -> NDArray[Any]:
        values = np.asarray(self._array[index])
        # afterwards: zarr reads a chunk that is missing as zeros
        if missing := [c for c in _chunks(self._array, index) if not (self._path / c).is_file()]:
            raise FileNotFoundError(f"{missing[0]} is missing")
        return values

    def remembered(self, name: str, compute: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        """An array that depends on the voxels alone, kept beside them under a name."""
        kept = self._path / f"{name}.npz"
        try:
            # numpy would leave a file open that is no zip
            with kept.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                found: NDArray[Any] = stored["array"]
        except UNREADABLE:
            found = compute()
            with contextlib.suppress(OSError, JobError), replacing(kept) as written:
                np.savez(written, array=found)
        return found


def _chunks(array: Any, index: Any) -> list[str]:
    """Files of the chunks that an index touches."""
    ranges = []
    for part, size, chunk in zip(index, array.shape, array.chunks, strict=True):
        places = range(*part.indices(size)) if isinstance(part, slice) else range(part, part + 1)
        ranges.append(sorted({place // chunk for place in places}))
    c, z, y, x = ranges
    return [f"c/{i}/{j}/{k}/{m}" for i in c for j in z for k in y for m in x]


def key_of_files(files: Sequence[Path], how: str) -> str:
    """Like `content_key`, of files that are not read again unless they may have changed."""
    facts = repr([how, *map(_facts, files)])
    kept = folder() / "keys" / hashlib.sha256(facts.encode()).hexdigest()
    with contextlib.suppress(OSError, ValueError):
        key, seal = kept.read_text().split()
        if seal == _seal(key, facts):
            return key
    key = content_key(files, how)
    # a file may be written to twice within one tick of the clock of its file system
    settled = time.time() - max(f.stat().st_ctime for f in files) > SETTLED
    if settled and facts == repr([how, *map(_facts, files)]):
        with contextlib.suppress(OSError, JobError):
            kept.parent.mkdir(parents=True, exist_ok=True)
            with replacing(kept) as written:
                written.write_text(f"{key} {_seal(key, facts)}\n")
    return key


def _facts(file: Path) -> tuple[str, int, int, int, int, int]:
    """What changes when somebody writes to a file: `ctime` cannot be set by hand."""
    s = file.stat()
    return str(file.resolve()), s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns


def _seal(key: str, facts: str) -> str:
    return hashlib.sha256(f"{key} {facts}".encode()).hexdigest()


def folder() -> Path:
    """Where ingested volumes are."""
    return home() / "volumes" / "v1"


def _open(stack: Stack, path: Path) -> Any:
    import zarr
    from filelock import FileLock

    if not path.is_dir():
        with _disk(stack):
            folder().mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_suffix(".lock")):
                if not path.is_dir():
                    _make(stack, path)
    with contextlib.suppress(OSError):
        os.utime(path)
    try:
        return zarr.open_array(str(path), mode="r")
    except (OSError, ValueError, KeyError, TypeError):
        _discard(path)
        raise JobError(f"{path} was damaged and is removed; run the same command again") from None


def _make(stack: Stack, path: Path) -> None:
    for orphan in folder().glob(f".{path.stem}.*{TEMPORARY}"):
        shutil.rmtree(orphan, ignore_errors=True)  # whoever made it is gone: we hold its lock
    _check_room(stack)
    temporary = folder() / f".{path.stem}.{uuid.uuid4().hex}{TEMPORARY}"
    try:
        _write(stack, temporary)
        _flush(temporary)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _trim(keep=path)


def _write(stack: Stack, path: Path) -> None:
    import zarr
    from zarr.codecs import Crc32cCodec, ZstdCodec

    depth = _depth(stack)
    array: Any = zarr.create_array(
        str(path),
        shape=stack.shape,
        chunks=tuple(map(min, (1, depth, *CHUNK[2:]), stack.shape)),
        dtype=stack.dtype.newbyteorder("="),
        compressors=[ZstdCodec(level=1), Crc32cCodec()],
        config={"write_empty_chunks": True},
        fill_value=0,
    )
    for channels, z, slab in slabs(stack, depth):
        array[channels, z : z + len(slab)] = slab.transpose(3, 0, 1, 2)


def _depth(stack: Stack) -> int:
    """Slices per chunk, so that those of whole planes can be gathered in memory."""
    plane = stack.bytes // (stack.shape[1] * (stack.shape[0] if stack.axes == "czyx" else 1))
    return max(1, min(CHUNK[1], SLAB // plane))


def _check_room(stack: Stack) -> None:
    free = shutil.disk_usage(folder()).free
    if free < stack.bytes:
        raise JobError(
            f"{stack.name} takes up to {stack.bytes} bytes in {folder()}, where {free} are free; "
            "make room, or set SAMPLAT_HOME to a directory on a larger disk"
        )


def _flush(path: Path) -> None:
    for file in [p for p in path.rglob("*") if p.is_file()]:
        with file.open("rb") as handle:
            os.fsync(handle.fileno())


def _discard(path: Path) -> None:
    """Remove a volume; it is gone at once for whoever opens it."""
    away = path.with_name(f".{path.stem}.{uuid.uuid4().hex}{TEMPORARY}")
    with contextlib.suppress(OSError):
        path.rename(away)
    shutil.rmtree(away, ignore_errors=True)


def _trim(keep: Path) -> None:
    sizes = {path: _size(path) for path in folder().glob("*.zarr")}
    total = sum(size for size, _ in sizes.values())
    for path in sorted(sizes, key=lambda p: sizes[p][1]):
        if total <= QUOTA:
            return
        if path != keep:
            _discard(path)
            total -= sizes[path][0]


def _size(path: Path) -> tuple[int, float]:
    """Bytes of a volume, and when it was used last."""
    try:
        return sum(f.stat().st_size for f in path.rglob("*") if f.is_file()), path.stat().st_mtime
    except OSError:  # another process removed it
        return 0, 0.0


@contextlib.contextmanager
def _disk(stack: Stack) -> Any:
    try:
        yield
    except OSError as error:
        raise JobError(
            f"cannot keep {stack.name} in {folder()}: {error.strerror or error}; make room, or set "
            "SAMPLAT_HOME to another directory"
        ) from error
