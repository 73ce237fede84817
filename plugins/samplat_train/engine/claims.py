"""Who works on which picture: claims that two annotators cannot both hold, and that go stale."""

from __future__ import annotations

import getpass
import json
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from filelock import FileLock

from samplat import SamplatError
from samplat_train.engine.durable import replace_file


def default_annotator() -> str:
    """user@host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "someone"
    return f"{user}@{socket.gethostname()}"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One picture, held by one annotator in one process."""

    annotator: str
    """Whose it is, for people."""
    token: str
    """Names the desk that made it; another desk of the same person is another token."""
    host: str = field(default_factory=socket.gethostname)
    """Machine of the process."""
    pid: int = field(default_factory=os.getpid)
    """The process."""
    expires: float
    """Seconds since 1970 after which it is stale."""

    def stale(self, now: float) -> bool:
        """True: it ran out, or its process on this machine is gone."""
        return now >= self.expires or (self.host == socket.gethostname() and not _alive(self.pid))


class ClaimDesk:
    """Hands out the pictures of one project to one annotator.

    Args:
        folder: the project.
        annotator: who claims.
        lease_seconds: how long a claim holds without being renewed.
        clock: seconds since 1970; all annotators must agree on it.
    """

    def __init__(
        self,
        folder: Path,
        annotator: str,
        lease_seconds: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.folder, self.annotator, self.lease_seconds = (
            folder / "claims",
            annotator,
            lease_seconds,
        )
        self.clock = clock
        self.token = uuid.uuid4().hex
        self._lock = FileLock(folder / ".lock")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else claims, releases or records meanwhile; ends with the process."""
        with self._lock:
            yield

    def holder(self, index: int) -> Claim | None:
        """Who holds a picture; None when nobody does, or the claim went stale."""
        try:
            claim = Claim(**json.loads(self._path(index).read_bytes()))
        except (OSError, ValueError, TypeError):
            # A claim is replaced whole, so a damaged one was not written by an annotator at work.
            return None
        return None if claim.stale(self.clock()) else claim

    def take(self, index: int) -> bool:
        """Claim a picture, or renew the claim; False when somebody else holds it."""
        with self.locked():
            holder = self.holder(index)
            if holder and holder.token != self.token:
                return False
            expires = self.clock() + self.lease_seconds
            claim = Claim(annotator=self.annotator, token=self.token, expires=expires)
            replace_file(self._path(index), json.dumps(asdict(claim)).encode())
            return True

    def renew(self, index: int) -> None:
        """Go on holding a picture.

        Raises:
            SamplatError: the claim is no longer this annotator's.
        """
        with self.locked():
            claim = self._own(index)
            renewed = replace(claim, expires=self.clock() + self.lease_seconds)
            replace_file(self._path(index), json.dumps(asdict(renewed)).encode())

    def release(self, index: int) -> None:
        """Give a picture back; nothing happens when it is not held."""
        with self.locked():
            holder = self.holder(index)
            if holder and holder.token == self.token:
                self._path(index).unlink(missing_ok=True)

    def _own(self, index: int) -> Claim:
        """The claim, even if it just ran out, as long as nobody else took the picture."""
        try:
            claim = Claim(**json.loads(self._path(index).read_bytes()))
        except (OSError, ValueError, TypeError):
            claim = None
        if claim is None or claim.token != self.token:
            owner = claim.annotator if claim else "nobody"
            raise SamplatError(
                f"picture {index} is no longer claimed by {self.annotator} but by {owner}: the "
                f"claim ran out after {self.lease_seconds:g} s; what was recorded is kept, "
                "take another picture"
            )
        return claim

    def _path(self, index: int) -> Path:
        return self.folder / f"{index:06}.json"


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
