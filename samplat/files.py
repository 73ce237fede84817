"""Files that are whole or absent, and JSON that notices when it was damaged.

Places are paths, or URLs of stores (`places`), which write files whole in ways of their own.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import shutil
import socket
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from samplat.errors import InputError, JobError
from samplat.places import Place, RemotePath

TEMPORARY = ".samplat-tmp"
"""Suffix of files that are being written; a killed process may leave some."""


def sha256(data: bytes) -> str:
    """Hexadecimal SHA-256."""
    return hashlib.sha256(data).hexdigest()


def check_writable(output: Place) -> None:
    """Refuse, before any long work, an output whose directory is missing or cannot be written.

    Raises:
        InputError: that, saying what to do.
    """
    if isinstance(output, RemotePath):
        output.check_writable()
        return
    folder = output.absolute().parent
    if not folder.is_dir():
        raise InputError(f"cannot write {output}: there is no directory {folder}; make it first")
    try:
        # permissions say nothing to root, nor about a full or read-only disk
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"cannot write {output}: {error.strerror}: {folder}; choose another directory"
        ) from None


def check_file(output: Place) -> None:
    """Like `check_writable`, for an output that is to be a file."""
    if isinstance(output, Path) and output.is_dir():
        raise InputError(f"cannot write {output}: it is a directory; choose another name")
    check_writable(output)


def write_atomic(path: Place, data: bytes) -> None:
    """Write a file so that it survives a crash whole, or as it was before.

    Raises:
        JobError: the disk is full, read-only or failing; nothing is left under the final name.
    """
    if isinstance(path, RemotePath):
        path.write_bytes(data)
        return
    with atomic_file(path) as file:
        file.write(data)


@contextmanager
def atomic_file(path: Place) -> Iterator[BinaryIO]:
    """A file to write to, bit by bit; it takes its name, whole, when the block succeeds.

    Its content is durable, its name is not before `sync_directory`: after a power cut the file may
    be missing, or be the one before.

    Raises:
        JobError: the disk is full, read-only or failing; nothing is left under the final name.
    """
    if isinstance(path, RemotePath):
        with tempfile.NamedTemporaryFile(prefix="samplat-") as local:
            yield cast("BinaryIO", local)
            local.flush()
            path.upload(Path(local.name))
        return
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{TEMPORARY}")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise JobError(
            f"cannot write {path}: {error.strerror or error}; "
            "mend that and run the same command again, it resumes"
        ) from error


def digest(path: Place) -> str | None:
    """SHA-256 of a file of any size; None where it cannot be read."""
    try:
        if isinstance(path, RemotePath):
            found = hashlib.sha256()
            for chunk in path.chunks():
                found.update(chunk)
            return found.hexdigest()
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


@contextmanager
def local_file(path: Place) -> Iterator[IO[bytes]]:
    """A file under a name of this machine, while the block runs: itself, or a copy.

    Raises:
        OSError: there is none, or it cannot be read.
    """
    with path.fetched() if isinstance(path, RemotePath) else path.open("rb") as file:
        yield file


def remove_tree(folder: Place) -> None:
    """Remove a folder and all that is in it, if it is there.

    Raises:
        OSError: something cannot be removed.
    """
    if isinstance(folder, RemotePath):
        folder.remove_tree()
        return
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder)


@contextmanager
def replacing(output: Path) -> Iterator[Path]:
    """A path to write a file or folder to; it becomes `output`, whole, when the block succeeds.

    What a killed process left of an earlier attempt is removed.

    Raises:
        JobError: the disk is full, or the file cannot be written or renamed.
    """
    _remove_abandoned(output)
    folder = output.with_name(f".{output.name}.{socket.gethostname()}-{os.getpid()}{TEMPORARY}")
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
    sync_directory(output.absolute().parent)


def _sync(path: Path) -> None:
    for child in sorted(path.rglob("*")) if path.is_dir() else ():
        _sync_handle(child)
    _sync_handle(path)


def _remove_abandoned(output: Path) -> None:
    prefix = f".{output.name}.{socket.gethostname()}-"
    for folder in output.absolute().parent.glob(f"{glob.escape(prefix)}*{TEMPORARY}"):
        pid = folder.name.removeprefix(prefix).removesuffix(TEMPORARY)
        if pid.isdigit() and (int(pid) == os.getpid() or not is_alive(int(pid))):
            shutil.rmtree(folder, ignore_errors=True)


def is_alive(pid: int) -> bool:
    """Whether there is a process of this number on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it is somebody else's
    return True


def sync_directory(path: Place) -> None:
    """Make the names in a directory durable; a rename alone is not. Stores have done so."""
    if isinstance(path, Path):
        _sync_handle(path)


def _sync_handle(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_orphans(path: Place) -> int:
    """Remove temporary files that killed processes left below a directory; returns how many.

    In a store there are none: nothing is renamed there.
    """
    if isinstance(path, RemotePath):
        return 0
    orphans = [p for p in path.rglob(f".*{TEMPORARY}") if p.is_file()]
    for orphan in orphans:
        orphan.unlink(missing_ok=True)
    return len(orphans)


def canonical(value: Mapping[str, Any]) -> bytes:
    """JSON with sorted keys: equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=_plain).encode()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"expected a JSON value, got {type(value).__name__}: {value!r}")


def write_sealed(path: Place, value: Mapping[str, Any]) -> str:
    """Write a JSON object together with the SHA-256 of its content, which is returned."""
    seal = sha256(canonical(value))
    write_atomic(path, sealed_bytes(value, seal))
    return seal


def sealed_bytes(value: Mapping[str, Any], seal: str) -> bytes:
    """What `write_sealed` writes of a value with this seal."""
    # a line each, for people; indented by the library, it would take several times as long
    lines = (
        f" {json.dumps(name)}: {json.dumps(each, default=_plain)}"
        for name, each in {**value, "seal": seal}.items()
    )
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def read_sealed(path: Place) -> dict[str, Any] | None:
    """The object that `write_sealed` wrote; None when the file is missing or damaged."""
    found = read_with_seal(path)
    return None if found is None else found[0]


def read_with_seal(path: Place) -> tuple[dict[str, Any], str] | None:
    """The same, and its seal: the digest that `write_sealed` returned."""
    try:
        return unsealed(path.read_bytes())
    except OSError:
        return None


def unsealed(data: bytes) -> tuple[dict[str, Any], str] | None:
    """The object in what `write_sealed` wrote, and its seal; None when that is damaged."""
    try:
        value = json.loads(data)
        seal = value.pop("seal")
    except (ValueError, KeyError, AttributeError, TypeError):
        return None
    return (value, seal) if seal == sha256(canonical(value)) else None
