"""Places of files: paths of this machine's file systems, and URLs of stores elsewhere.

A `RemotePath` does of what a `Path` does as much as a job directory needs: a file is read and
written whole, created unless it is there, listed, removed. Nothing is ever renamed, folders are
no more than the beginnings of names, and no date is looked at. What fails for a moment is tried
again; what fails for good is a `JobError`, so that a store that is lost is not taken for an empty
one. fsspec knows the stores, their credentials and how they are configured.
"""

from __future__ import annotations

import errno
import posixpath
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar
from urllib.parse import unquote, urlsplit

from samplat.errors import InputError, JobError

T = TypeVar("T")

PAUSES = (1.0, 2.0, 4.0, 8.0)
"""Seconds before each further try at a store that does not answer; its own client tries, too."""
AT_ONCE = 32
"""Files of a store that are looked at at once."""
CHUNK = 2**26
"""Bytes that are read at a time."""
PACKAGES = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
}
"""What a kind of URL needs."""
NO_USE = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, ImportError)
"""Failures that another try does not mend,"""
REFUSALS = ("NoCredentials", "PartialCredentials", "ParamValidation", "ProfileNotFound")
"""and names of those that clients of stores have of their own begin so."""


@dataclass(frozen=True, order=True)
class RemotePath:
    """The URL of a file or folder in a store that fsspec knows."""

    url: str
    """Such as `s3://bucket/folder/file`, without a slash at its end."""

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str | Path) -> RemotePath:
        return self.joinpath(name)

    def joinpath(self, *names: str | Path) -> RemotePath:
        """A place below this one."""
        return RemotePath("/".join([self.url, *(str(name).strip("/") for name in names)]))

    @property
    def name(self) -> str:
        """The last part."""
        return self.url.rpartition("/")[2]

    @property
    def parent(self) -> RemotePath:
        """The folder in which it is; of a bucket, itself."""
        scheme, _, rest = self.url.partition("://")
        above = posixpath.dirname(rest)
        return RemotePath(f"{scheme}://{above}") if above.strip("/") else self

    def with_name(self, name: str) -> RemotePath:
        """Its neighbour of another name."""
        return self.parent / name

    def absolute(self) -> RemotePath:
        """Itself: a URL is."""
        return self

    def resolve(self) -> RemotePath:
        """Itself: there are no links."""
        return self

    def read_bytes(self) -> bytes:
        """All of a file.

        Raises:
            FileNotFoundError: there is none.
            JobError: the store cannot be read.
        """
        return b"".join(self.chunks())

    def chunks(self) -> Iterator[bytes]:
        """A file, bit by bit; raises as `read_bytes` does."""
        start = 0
        while True:
            found = self._try("read", lambda fs, key, at=start: _read(fs, key, at))
            yield found
            start += len(found)
            if len(found) < CHUNK:
                return

    def write_bytes(self, data: bytes) -> None:
        """Write a file whole, over one that is there.

        Raises:
            JobError: it cannot be written.
        """
        self._try("write", lambda fs, key: fs.pipe_file(key, data))

    def create(self, data: bytes) -> bool:
        """Write a file unless there is one; whether it was written. Of several, one does.

        Args:
            data: unlike what anybody else would write.

        Raises:
            JobError: it cannot be written.
        """
        try:
            self._try("write", lambda fs, key: fs.pipe_file(key, data, mode="create"))
        except FileExistsError:
            # the answer to a first try may have been lost, and this be that to a second one
            return self.read_bytes() == data
        return True

    def upload(self, local: Path) -> None:
        """Write the content of a local file, or of all files of a local folder.

        Raises:
            JobError: it cannot be written.
        """
        for file in _in_order(local):
            place = self / file.relative_to(local).as_posix() if file != local else self
            place._try("write", lambda fs, key, at=file: fs.put_file(str(at), key))

    @contextmanager
    def fetched(self) -> Iterator[IO[bytes]]:
        """A local copy of a file, while the block runs; raises as `read_bytes` does."""
        with tempfile.NamedTemporaryFile(prefix="samplat-") as file:
            for chunk in self.chunks():
                file.write(chunk)
            file.seek(0)
            yield file

    def exists(self) -> bool:
        """Whether there is a file."""
        return bool(self._try("read", lambda fs, key: fs.isfile(key)))

    def is_dir(self) -> bool:
        """Whether there is anything below."""
        return next(self.iterdir(), None) is not None

    def is_file(self) -> bool:
        """Whether there is a file."""
        return self.exists()

    def iterdir(self) -> Iterator[RemotePath]:
        """What is directly below, files and folders, in order; nothing where there is no folder."""
        try:
            found = self._try("list", _names)
        except FileNotFoundError:
            return
        yield from (self / name for name in found)

    def files(self) -> list[tuple[RemotePath, int]]:
        """All files below, in order, and how many bytes each has."""
        found = self._try("list", lambda fs, key: (key, fs.find(key, detail=True)))
        start = len(found[0].rstrip("/"))
        return [(self / key[start:], int(told["size"])) for key, told in sorted(found[1].items())]

    def mkdir(self, *, parents: bool = False, exist_ok: bool = False) -> None:
        """Make a folder, in a store that has such; a bucket has not, and is not made."""
        if self.url.partition("://")[0] not in PACKAGES:
            self._try("write", lambda fs, key: fs.makedirs(key, exist_ok=True))

    def unlink(self, *, missing_ok: bool = False) -> None:
        """Remove a file.

        Raises:
            FileNotFoundError: there is none, and the store minds.
            JobError: it cannot be removed.
        """
        try:
            self._try("remove", lambda fs, key: fs.rm_file(key))
        except FileNotFoundError:
            if not missing_ok:
                raise

    def remove_tree(self) -> None:
        """Remove all that is below, if anything is.

        Raises:
            JobError: it cannot be removed.
        """
        with suppress(FileNotFoundError):
            self._try("remove", lambda fs, key: fs.rm(key, recursive=True))

    def check_writable(self) -> None:
        """Refuse, before any long work, a store that is not there or cannot be written.

        Raises:
            InputError: that, saying what to do.
        """
        try:
            probe = self.parent / f".{uuid.uuid4().hex}.samplat-tmp"
            probe.write_bytes(b"")
            probe.unlink(missing_ok=True)
        except JobError as error:
            raise InputError(str(error)) from error

    def _try(self, verb: str, work: Callable[..., T]) -> T:
        """Do something with the file system and the key; again if the store does not answer."""
        fs, key = _opened(self.url)
        for pause in (*PAUSES, None):
            try:
                return work(fs, key)
            except Exception as error:
                if _is_missing(error, verb):
                    said = "there is no such file"
                    raise FileNotFoundError(errno.ENOENT, said, str(self)) from error
                if isinstance(error, FileExistsError):
                    raise
                if pause is None or _is_final(error):
                    raise JobError(_told(self, verb, error)) from error
                time.sleep(pause)
        raise AssertionError


Place = Path | RemotePath
"""Where a file or folder is: the local ones are paths like any others."""


def place(text: str | Place) -> Place:
    """The place that a text names: a URL of a store, or a path, also as `file://`.

    Raises:
        InputError: a `file://` of another machine.
    """
    if isinstance(text, RemotePath | Path):
        return text
    if text.startswith("file://"):
        parts = urlsplit(text)
        if parts.netloc not in ("", "localhost"):
            raise InputError(f"expected file:///PATH of this machine, got {text!r}")
        return Path(unquote(parts.path))
    return RemotePath(text.rstrip("/")) if is_remote(text) else Path(text)


def looked_up(where: Place, look: Callable[[int], T], indices: Iterable[int]) -> Iterator[T]:
    """What a look at each index of something finds, in order.

    In a store many are looked at at once, since each answer takes a while to come.
    """
    if isinstance(where, Path):
        yield from map(look, indices)
        return
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="samplat-look") as pool:
        yield from pool.map(look, indices)


def is_there(path: Place) -> bool:
    """Whether there is a file or a folder; a store has folders only as long as they hold some."""
    return path.exists() or path.is_dir()


def is_remote(text: str) -> bool:
    """Whether a text is the URL of a store."""
    scheme, found, rest = text.partition("://")
    return bool(found) and scheme != "file" and scheme.isascii() and bool(rest)


def _opened(url: str) -> tuple[Any, str]:
    """The file system of a URL, and what it calls that.

    Raises:
        InputError: nothing that is installed knows such URLs.
    """
    from fsspec.core import url_to_fs

    scheme = url.partition("://")[0]
    try:
        fs, key = url_to_fs(url, use_listings_cache=False)
    except (ImportError, ValueError) as error:
        package = PACKAGES.get(scheme, f"the package of fsspec that knows {scheme}://")
        hint = "pip install 'samplat[remote]'" if package == "s3fs" else f"install {package}"
        raise InputError(f"cannot use {url}: {hint} ({error})") from error
    return fs, str(key)


def _names(fs: Any, key: str) -> list[str]:
    """What is directly below; of a file some stores list itself, of a folder, too."""
    found = {str(each).strip("/") for each in fs.ls(key, detail=False)} - {key.strip("/")}
    return sorted(each.rpartition("/")[2] for each in found)


def _read(fs: Any, key: str, start: int) -> bytes:
    try:
        found: bytes = fs.cat_file(key, start=start, end=start + CHUNK)
    except OSError as error:
        # there is nothing past the end, or in a file of no bytes
        if error.errno == errno.EINVAL and "range" in str(error).lower():
            return b""
        raise
    return found


def _in_order(local: Path) -> Sequence[Path]:
    """The files of a folder; those that say what the others are come last."""
    if not local.is_dir():
        return [local]
    found = [path for path in local.rglob("*") if path.is_file()]
    return sorted(found, key=lambda path: (path.suffix == ".json", -len(path.parts), path))


def _is_missing(error: Exception, verb: str) -> bool:
    """Whether a file is not there; writing finds that of a bucket, which is worse."""
    return isinstance(error, FileNotFoundError) and verb != "write"


def _is_final(error: Exception) -> bool:
    return isinstance(error, (*NO_USE, ValueError, TypeError, NotImplementedError)) or type(
        error
    ).__name__.startswith(REFUSALS)


def _told(where: RemotePath, verb: str, error: Exception) -> str:
    said = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, FileNotFoundError):
        return f"cannot {verb} {where}: {said}; make the bucket or container first"
    if isinstance(error, PermissionError) or type(error).__name__.startswith(REFUSALS):
        return f"cannot {verb} {where}: {said}; check the credentials and what they may do"
    return f"cannot {verb} {where}: {said}; mend that and run the same command again, it resumes"
