"""Outputs appear whole or not at all: written in a hidden folder beside, then renamed."""

from __future__ import annotations

import glob
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from samplat import HOLE, JobError, JobResult

SUFFIX = ".samplat-tmp"


@contextmanager
def replacing(output: Path) -> Iterator[Path]:
    """A path to write to, in a folder of its own; it becomes `output` when the block succeeds.

    What a killed process left of an earlier attempt is removed.

    Raises:
        JobError: the disk is full, or the file cannot be written or renamed.
    """
    _remove_orphans(output)
    folder = output.with_name(f".{output.name}.{socket.gethostname()}-{os.getpid()}{SUFFIX}")
    try:
        folder.mkdir()
        written = folder / output.name
        yield written
        _sync(written)
        _put(written, output, folder)
    except OSError as error:
        reason = error.strerror or " ".join(str(error.__cause__ or error).split())
        raise JobError(
            f"cannot write {output}: {reason}; mend that and run the same command again"
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _put(written: Path, output: Path, folder: Path) -> None:
    if output.is_dir():
        # a directory cannot be renamed over another one
        output.rename(folder / "replaced")
    written.replace(output)
    _sync_one(output.absolute().parent)


def _sync(path: Path) -> None:
    for child in sorted(path.rglob("*")) if path.is_dir() else ():
        _sync_one(child)
    _sync_one(path)


def _sync_one(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove_orphans(output: Path) -> None:
    prefix = f".{output.name}.{socket.gethostname()}-"
    for folder in output.absolute().parent.glob(f"{glob.escape(prefix)}*{SUFFIX}"):
        pid = folder.name.removeprefix(prefix).removesuffix(SUFFIX)
        if pid.isdigit() and not _is_alive(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return pid != os.getpid()


def label_dtype(result: JobResult) -> np.dtype[np.unsignedinteger]:
    """The smallest unsigned type that holds all ids and, above them, a value for holes."""
    largest = int(np.max(result.objects["id"].to_numpy(), initial=0))
    kinds = (np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.uint32))
    return next(kind for kind in kinds if largest < np.iinfo(kind).max)


def narrowed(
    labels: NDArray[np.uint32], dtype: np.dtype[np.unsignedinteger]
) -> NDArray[np.unsignedinteger]:
    """Labels in a smaller type; the pixels of quarantined tiles get its largest value."""
    return np.where(labels == HOLE, np.iinfo(dtype).max, labels).astype(dtype)
