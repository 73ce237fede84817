"""Outputs at URLs: written to this machine whole, then sent to their store."""

from __future__ import annotations

import functools
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from samplat.places import Place, RemotePath

if TYPE_CHECKING:
    from samplat.hookspecs import Exporter
    from samplat.job import JobResult


class Staging:
    """A folder of this machine, in which files lie to each other as their URLs do."""

    @functools.cached_property
    def _folder(self) -> Path:
        made = Path(tempfile.mkdtemp(prefix="samplat-"))
        weakref.finalize(self, shutil.rmtree, made, ignore_errors=True)
        return made

    def of(self, output: Place) -> Path:
        """Where an output is written first: local ones where they are to be."""
        if isinstance(output, Path):
            return output
        parts = [quote(part, safe=" ") for part in output.url.replace("://", "/").split("/")]
        local = self._folder.joinpath(*parts)
        local.parent.mkdir(parents=True, exist_ok=True)
        return local


@dataclass(frozen=True, kw_only=True)
class Uploaded:
    """An exporter whose output goes to a URL."""

    exporter: Exporter
    """Writes it."""
    staging: Staging
    """There, first."""

    def __getattr__(self, name: str) -> Any:
        """What else exporters may have, such as `check_image`: that of the exporter."""
        if name.startswith("__") or name in ("exporter", "staging"):
            raise AttributeError(name)  # while it is unpickled there is none
        return getattr(self.exporter, name)

    def check(self, output: RemotePath) -> None:
        """Refuse, before any long work, what cannot be written, here or there."""
        self.exporter.check(self.staging.of(output))
        output.check_writable()

    def export(self, result: JobResult, output: RemotePath) -> None:
        """Write it, send it, and forget it here."""
        local = self.staging.of(output)
        self.exporter.export(result, local)
        if local.is_dir():
            output.remove_tree()
        output.upload(local)
        if local.is_dir():
            shutil.rmtree(local)
        else:
            local.unlink()


def lie_together(outputs: Sequence[Place]) -> bool:
    """Whether one may be named relative to another: all are local, or in one bucket."""
    return len({_root(output) for output in outputs}) == 1


def _root(output: Place) -> str:
    return "/".join(output.url.split("/")[:3]) if isinstance(output, RemotePath) else ""
