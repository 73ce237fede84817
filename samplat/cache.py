"""Embeddings that are computed once: a folder that programs share, and memory on top of it.

::

    CACHE/v1/3f/3f0c…e1.zarr.zip    one embedding; its name is the SHA-256 of what it depends on
    CACHE/v1/.lock                  held while old entries are removed

An entry appears under its name whole. One that cannot be read, or that holds something else, is a
miss: it is reported, computed again and replaced. The time of a file is that of its last use.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from samplat.checkpoints import Model
from samplat.downloads import home
from samplat.embedding import Embedding, EmbeddingKey
from samplat.errors import InputError, JobError
from samplat.files import canonical, remove_orphans, write_atomic
from samplat.pixels import as_uint8
from samplat.places import Place, RemotePath, is_there, place
from samplat.prediction import embed, embedding_key
from samplat.stored_embeddings import (
    UNREADABLE,
    Storage,
    check_storage,
    decode_embedding,
    encode_embedding,
)

log = logging.getLogger(__name__)

VERSION = "v1"
"""Folder of the entries; those of other versions are neither read nor removed."""
SUFFIX = ".zarr.zip"
QUOTA = 20 * 2**30
"""Bytes on disk, if nothing else is asked for."""
MEMORY = 512 * 2**20
"""Bytes in memory likewise."""
KEEP = 0.9
"""Share of the quota that is left when entries have to go, so that not each new one searches."""


@dataclass(frozen=True, kw_only=True)
class CacheInfo:
    """What a cache holds."""

    path: Place
    """Its folder, or URL."""
    entries: int
    """Embeddings."""
    bytes: int
    """Their size on disk."""
    quota: int
    """Bytes it may have."""
    foreign: tuple[str, ...]
    """Folders of other versions beside it."""


class EmbeddingCache:
    """Embeddings on disk and in memory. Any number of processes and threads may share a folder.

    Args:
        path: the folder, or its URL in a store; None: `embeddings` in `$SAMPLAT_HOME` or the
            user's cache directory.
        quota: bytes on disk; the entries used least recently make room. 0 keeps nothing there. In a
            store nothing is removed but by `clear`, or by rules of its own.
        storage: "half" (what the decoder sees in bf16, float16 else), "int8" (less, and less
            exact), or "full".
        memory: bytes kept in this process as well.

    Raises:
        InputError: an unknown storage, or a negative quota.
    """

    def __init__(
        self,
        path: Place | str | None = None,
        *,
        quota: int = QUOTA,
        storage: Storage = "half",
        memory: int = MEMORY,
    ) -> None:
        check_storage(storage)
        if quota < 0 or memory < 0:
            raise InputError(f"quota and memory must be >= 0 bytes, got {quota} and {memory}")
        found = place(path) if path else home() / "embeddings"
        self.path: Place = found.expanduser() if isinstance(found, Path) else found
        self.quota, self.storage = quota, storage
        self._recent = _Recent(memory)
        self._written = quota  # as if full: the first entry looks how much there is
        self._warned = False

    def embed(self, model: Model, image: NDArray[Any]) -> Embedding:
        """Like `samplat.embed`, computed once for each image, model and precision."""
        pixels = as_uint8(image)
        return self.get_or_compute(embedding_key(model, pixels), lambda: embed(model, pixels))

    def get_or_compute(self, key: EmbeddingKey, compute: Callable[[], Embedding]) -> Embedding:
        """The embedding of a key; computed and kept where there is none."""
        found = self.get(key)
        if found is None:
            found = compute()
            self.put(found)
        return found

    def get(self, key: EmbeddingKey) -> Embedding | None:
        """The embedding of a key, from memory or disk; None where there is none to be had."""
        if (recent := self._recent.get(key)) is not None:
            return recent
        if not self.quota:
            return None  # and nothing that others left there counts
        path = self.file_of(key)
        try:
            found, storage = decode_embedding(path.read_bytes())
        except FileNotFoundError:
            return None
        except JobError as error:  # a store that does not answer costs the cache, not the work
            self._report(error)
            return None
        except (OSError, *UNREADABLE) as error:
            log.warning("%s is damaged and will be computed again: %s", path, error)
            return None
        if (found.key, storage) != (key, self.storage):
            log.warning("%s holds another embedding; it will be computed again", path)
            return None
        if isinstance(path, Path):
            with contextlib.suppress(OSError):
                os.utime(path)
        self._recent.put(found)
        return found

    def put(self, embedding: Embedding) -> None:
        """Keep an embedding. A disk that is full or read-only is reported once, and no error."""
        self._recent.put(embedding)
        if not self.quota:
            return
        path = self.file_of(embedding.key)
        data = encode_embedding(embedding, self.storage)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, data)
        except (OSError, JobError) as error:
            self._report(error)
            return
        self._written += len(data)
        if isinstance(self.path, RemotePath):
            return
        if self._written > self.quota:
            self._written = self.trim()

    def _report(self, error: Exception) -> None:
        if not self._warned:
            log.warning("embeddings are not kept on disk, %s: %s", self.path, error)
        self._warned = True

    def file_of(self, key: EmbeddingKey) -> Place:
        """Where the embedding of a key is, or would be."""
        digest = _digest(key, self.storage)
        return self.path / VERSION / digest[:2] / f"{digest}{SUFFIX}"

    def trim(self) -> int:
        """Remove the entries used least recently until the quota is kept; returns the bytes left.

        One process does it at a time; another one that wants to at that moment need not.
        """
        from filelock import FileLock, Timeout

        if isinstance(self.path, RemotePath):
            return sum(entry.size for entry in self._entries())
        try:
            with FileLock(self.path / VERSION / ".lock", timeout=0):
                return self._trim()
        except (Timeout, OSError):
            return int(KEEP * self.quota)

    def _trim(self) -> int:
        entries = sorted(self._entries(), key=lambda entry: entry.used)
        total = sum(entry.size for entry in entries)
        if total <= self.quota:
            return total
        for entry in entries:
            if total <= KEEP * self.quota:
                break
            with contextlib.suppress(OSError):
                entry.path.unlink()
                total -= entry.size
        return total

    def _entries(self) -> Iterator[_Entry]:
        if isinstance(self.path, RemotePath):
            for file, size in (self.path / VERSION).files():
                if file.name.endswith(SUFFIX):
                    yield _Entry(file, size, 0.0)
            return
        for path in (self.path / VERSION).glob(f"??/*{SUFFIX}"):
            with contextlib.suppress(OSError):  # another process removed it
                stat = path.stat()
                yield _Entry(path, stat.st_size, stat.st_mtime)

    def info(self) -> CacheInfo:
        """What there is on disk."""
        entries = list(self._entries())
        beside = self.path.iterdir() if is_there(self.path) else ()
        folders = [p for p in beside if p.name[:1] == "v" and p.name != VERSION and p.is_dir()]
        return CacheInfo(
            path=self.path,
            entries=len(entries),
            bytes=sum(entry.size for entry in entries),
            quota=self.quota,
            foreign=tuple(sorted(p.name for p in folders)),
        )

    def clear(self) -> int:
        """Remove all entries of this version, in memory too; returns how many were on disk."""
        self._recent.clear()
        removed = 0
        for entry in list(self._entries()):
            with contextlib.suppress(OSError):
                entry.path.unlink()
                removed += 1
        if (self.path / VERSION).is_dir():
            remove_orphans(self.path / VERSION)
        self._written = self.quota
        return removed

    def verify(self) -> list[Place]:
        """Read every entry, and remove those that are damaged; returns them."""
        damaged = [entry.path for entry in self._entries() if not _is_sound(entry.path)]
        for path in damaged:
            with contextlib.suppress(OSError):
                path.unlink()
        return damaged


@dataclass(frozen=True)
class _Entry:
    path: Place
    size: int
    used: float


class _Recent:
    """The embeddings used last, as many as fit into `capacity` bytes; for any threads."""

    def __init__(self, capacity: int) -> None:
        self._capacity, self._bytes = capacity, 0
        self._kept: OrderedDict[EmbeddingKey, Embedding] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: EmbeddingKey) -> Embedding | None:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def put(self, embedding: Embedding) -> None:
        size = _bytes_of(embedding)
        with self._lock:
            if size > self._capacity:
                return
            if (old := self._kept.pop(embedding.key, None)) is not None:
                self._bytes -= _bytes_of(old)
            self._kept[embedding.key] = embedding
            self._bytes += size
            while self._bytes > self._capacity:
                _, oldest = self._kept.popitem(last=False)
                self._bytes -= _bytes_of(oldest)

    def clear(self) -> None:
        with self._lock:
            self._kept.clear()
            self._bytes = 0


def _digest(key: EmbeddingKey, storage: Storage) -> str:
    return hashlib.sha256(canonical({**asdict(key), "storage": storage})).hexdigest()


def _bytes_of(embedding: Embedding) -> int:
    return sum(feature.numel() * feature.element_size() for feature in embedding.features)


def _is_sound(path: Place) -> bool:
    """Whether a file can be read and is what its name says."""
    try:
        embedding, storage = decode_embedding(path.read_bytes())
    except FileNotFoundError:
        return True  # another process removed it
    except (OSError, *UNREADABLE):
        return False
    return path.name == f"{_digest(embedding.key, storage)}{SUFFIX}"
