"""Files from the network that are whole and verified, or absent."""

from __future__ import annotations

import hashlib
import logging
import os
import uuid
from pathlib import Path
from urllib.parse import urlsplit

from samplat.errors import CheckpointError
from samplat.files import TEMPORARY, sync_directory

log = logging.getLogger(__name__)

CHUNK = 1 << 20
"""Bytes taken from the network at a time."""
TIMEOUT = 30.0
"""Seconds without a byte after which a server counts as gone."""


def home() -> Path:
    """Where downloads and copies live: `$SAMPLAT_HOME`, else the user's cache directory."""
    if chosen := os.environ.get("SAMPLAT_HOME"):
        return Path(chosen).expanduser()
    import platformdirs

    return platformdirs.user_cache_path("samplat", appauthor=False)


def is_offline() -> bool:
    """Whether `$SAMPLAT_OFFLINE` forbids the network."""
    return os.environ.get("SAMPLAT_OFFLINE", "").lower() not in ("", "0", "false", "no")


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(
    url: str, target: Path, *, sha256: str | None = None, size: int | None = None, offline: bool
) -> Path:
    """Bring a file to `target`, unless it is there; it appears there only when it is verified.

    Args:
        url: http or https.
        target: the final name; its directory is made.
        sha256: hexadecimal SHA-256 or a prefix of it; None: nothing to verify against.
        size: expected bytes, if known.
        offline: forbid the network, as `$SAMPLAT_OFFLINE` does.

    Raises:
        CheckpointError: offline, not reachable, cut off, of another size or checksum, or not
            writable; nothing is left under the final name.
    """
    if target.is_file():
        return target
    if offline or is_offline():
        raise CheckpointError(
            f"{target.name} is not on this machine and downloads are switched off; "
            f"fetch {url} elsewhere and place it as {target}"
        )
    if urlsplit(url).scheme not in ("http", "https"):
        raise CheckpointError(f"expected an http or https address to download from, got {url}")
    try:
        _fetch_locked(url, target, sha256, size)
    except OSError as error:  # requests' errors are among them
        raise CheckpointError(
            f"cannot download {url}: {_one_line(error)}; try again, or place it by hand as {target}"
        ) from error
    return target


def check_digest(digest: str, expected: str | None) -> None:
    """Compare a SHA-256 with the expected one, or the beginning of it.

    Raises:
        CheckpointError: they differ.
    """
    if expected is not None and not digest.startswith(expected.lower()):
        raise CheckpointError(f"expected a SHA-256 of {expected}, got {digest[: len(expected)]}")


def _fetch_locked(url: str, target: Path, sha256: str | None, size: int | None) -> None:
    from filelock import FileLock

    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(f".{target.name}.lock")):
        if target.is_file():  # another process was faster
            return
        for orphan in target.parent.glob(f".{target.name}.*{TEMPORARY}"):
            orphan.unlink(missing_ok=True)
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}{TEMPORARY}")
        try:
            _fetch_to(temporary, url, sha256, size)
            temporary.replace(target)
            sync_directory(target.parent)
        finally:
            temporary.unlink(missing_ok=True)


def _fetch_to(temporary: Path, url: str, sha256: str | None, size: int | None) -> None:
    from pooch import HTTPDownloader

    with temporary.open("wb") as file:
        HTTPDownloader(chunk_size=CHUNK, timeout=TIMEOUT)(url, file, None)
        file.flush()
        os.fsync(file.fileno())
    digest = file_sha256(temporary)
    try:
        _check_size(temporary.stat().st_size, size)
        check_digest(digest, sha256)
    except CheckpointError as error:
        raise CheckpointError(
            f"the download of {url} is cut off or altered: {error}; nothing was kept, try again"
        ) from None
    if sha256 is None:
        log.warning("%s has no published SHA-256 to verify it by; this file's is %s", url, digest)


def _check_size(found: int, expected: int | None) -> None:
    if expected is not None and found != expected:
        raise CheckpointError(f"expected {expected} bytes, got {found}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
