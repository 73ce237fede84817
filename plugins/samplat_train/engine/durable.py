"""Files that survive a crash: replaced whole, or appended to line by line."""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from pathlib import Path

from samplat import SamplatError


def replace_file(path: Path, data: bytes) -> None:
    """Write a file so that a crash leaves the old one or the new one.

    Raises:
        SamplatError: the disk is full, read-only or failing; the old file is as it was.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_directory(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise _cannot_write(path, error) from error


def append_lines(path: Path, lines: Sequence[bytes]) -> None:
    """Append whole lines and flush them to the disk; a half line of an earlier crash goes first.

    Args:
        path: the file; made if it is missing.
        lines: each without a line break.

    Raises:
        SamplatError: the disk is full, read-only or failing; what was recorded before is kept,
            and nothing of these lines.
    """
    data = b"".join(line + b"\n" for line in lines)
    try:
        fresh = not path.exists()
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _append(handle, data)
        finally:
            os.close(handle)
        if fresh:
            _sync_directory(path.parent)
    except OSError as error:
        raise _cannot_write(path, error) from error


def whole_lines(data: bytes) -> tuple[list[bytes], int]:
    """The lines that end with a line break, and how many bytes after the last one are dropped."""
    end = data.rfind(b"\n") + 1
    return data[:end].split(b"\n")[:-1], len(data) - end


def _append(handle: int, data: bytes) -> None:
    start = _end_of_whole_lines(handle)
    os.ftruncate(handle, start)
    try:
        written = 0
        while written < len(data):
            written += os.pwrite(handle, data[written:], start + written)
        os.fsync(handle)
    except OSError:
        # A line of which the caller heard that it failed must not come back on the next reading.
        os.ftruncate(handle, start)
        raise


def _end_of_whole_lines(handle: int) -> int:
    size = os.fstat(handle).st_size
    if size == 0 or os.pread(handle, 1, size - 1) == b"\n":
        return size
    return os.pread(handle, size, 0).rfind(b"\n") + 1


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _cannot_write(path: Path, error: OSError) -> SamplatError:
    return SamplatError(
        f"cannot write {path}: {error.strerror or error}; "
        "what was recorded before is kept: mend that and go on"
    )
