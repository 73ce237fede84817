"""What a plugin may register. One shape: a typed `register` comes in, objects are handed over.

Nothing per tile passes through these hooks: they run once, and the objects do the work.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pluggy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import typer

    from samplat.checkpoints import ModelSpec
    from samplat.executors import ExecutorFactory
    from samplat.job import JobResult, SegmenterFactory
    from samplat.pixels import Rescaler, SourceFactory
    from samplat.prompters import Prompter
    from samplat.queues import QueueFactory

hookspec = pluggy.HookspecMarker("samplat")
hookimpl = pluggy.HookimplMarker("samplat")


class Exporter(Protocol):
    """Writes the result of a job to one file or directory; chosen by the output's suffix."""

    @property
    def name(self) -> str:
        """Unique name, such as "cog"."""
        ...

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Lower-case suffixes that it claims, each with its dot, such as (".tif", ".tiff")."""
        ...

    def check(self, output: Path) -> None:
        """Refuse, before any long work, an output that cannot be written.

        Raises:
            InputError: its directory is missing or not writable, or an extra is not installed.
        """
        ...

    def export(self, result: JobResult, output: Path) -> None:
        """Write under a temporary name beside `output`, then rename, replacing what was there."""
        ...

    # An exporter that needs a source of its own kind may have `check_source(spec)`, called before
    # any long work; it raises InputError for others.


class JobKind(Protocol):
    """What `samplat batch` has to know of a command that runs a job."""

    @property
    def name(self) -> str:
        """Unique name, such as "raster"."""
        ...

    @property
    def command(self) -> str:
        """The command that does the same for one input, such as "tile-segment"."""
        ...

    @property
    def suffix(self) -> str:
        """Of an output where none is asked for, such as ".tif"."""
        ...

    @property
    def prompts(self) -> tuple[str, ...]:
        """Lower-case suffixes of files that its --prompts takes; none without such an option."""
        ...

    def accepts(self, path: str) -> bool:
        """Whether a path may be an input of this kind; no error if it turns out not to be."""
        ...

    def inside(self, folder: Path) -> Sequence[tuple[str, str, Mapping[str, Any]]]:
        """The inputs that a folder holds, if it is none itself.

        Each is a path; a name, with / for folders below this one; and options that choose it.

        Raises:
            InputError: it is a folder of this kind, but damaged.
        """
        ...

    def arguments(self, image: str, outputs: Sequence[Path]) -> Sequence[str]:
        """How the command is told its input and outputs."""
        ...

    def order(self, *arguments: Any, **options: Any) -> Any:
        """What `samplat.carried_out` made the command of: returns a `JobOrder`."""
        ...


@hookspec
def register_models(register: Callable[[ModelSpec], None]) -> None:
    """Hand over models that `load_model` shall know by name."""


@hookspec
def register_sources(register: Callable[[SourceFactory], None]) -> None:
    """Hand over factories that can open images; the first that accepts a path opens it."""


@hookspec
def register_rescalers(register: Callable[[Rescaler], None]) -> None:
    """Hand over ways to turn stored values into uint8: a percentile stretch, a CT window."""


@hookspec
def register_prompters(register: Callable[[Prompter], None]) -> None:
    """Hand over finders of prompts: a vector file, a detector, words."""


@hookspec
def register_segmenters(register: Callable[[SegmenterFactory], None]) -> None:
    """Hand over ways to turn the pixels of a tile into masks."""


@hookspec
def register_exporters(register: Callable[[Exporter], None]) -> None:
    """Hand over writers of results, chosen by the output's suffix."""


@hookspec
def register_job_kinds(register: Callable[[JobKind], None]) -> None:
    """Hand over what can be an item of `samplat batch`: rasters, volumes."""


@hookspec
def register_executors(register: Callable[[ExecutorFactory], None]) -> None:
    """Hand over ways to run a job's tiles: threads, a Dask cluster."""


@hookspec
def register_queues(register: Callable[[QueueFactory], None]) -> None:
    """Hand over openers of folders with pictures that people annotate one after the other."""


@hookspec
def register_commands(app: typer.Typer) -> None:
    """Add commands to `samplat`; heavy libraries are imported inside the commands."""
