"""What commands that run a job share: outputs, checks before work, progress, and the summary.

Such a command is a function that only understands its arguments and returns a `JobOrder`. What
`carried_out` makes of it is the command; `samplat batch` takes the orders of many.
"""

from __future__ import annotations

import functools
import inspect
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, ParamSpec, cast

import typer

if TYPE_CHECKING:
    from samplat.executors import Executor, ExecutorFactory
    from samplat.hookspecs import Exporter
    from samplat.job import JobResult, Plan, SegmentJob
    from samplat.pixels import ImageInfo
    from samplat.places import Place
    from samplat.plugins import Registry
    from samplat.progress import Progress
    from samplat.rehearsal import Rehearsal

P = ParamSpec("P")

ExecutorName = Annotated[
    str | None,
    typer.Option(
        "--executor",
        help="overlapping (reads and writes meanwhile), serial, threads, or dask (processes, or "
        "a cluster); overlapping unless --workers or --scheduler-address is given.",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", min=1, help="Threads, or processes of dask; one for each core."),
]
SchedulerAddress = Annotated[
    str | None,
    typer.Option(
        "--scheduler-address", help="Of a Dask cluster, such as tcp://10.0.0.5:8786; implies dask."
    ),
]


class UsageProblem(typer.BadParameter):
    """Arguments that cannot be meant; a command that raises it ends with status 2."""

    def format_message(self) -> str:
        """What is wrong."""
        return self.message

    def show(self, file: Any = None) -> None:
        """Say it on a line, without a lesson in how to call the command."""
        typer.echo(f"error: {self.message}", err=file is None, file=file)


def usage_error(message: str) -> NoReturn:
    """End with status 2."""
    raise UsageProblem(message)


@dataclass(frozen=True, kw_only=True)
class ExecutorChoice:
    """Who runs the tiles, as it was asked for on the command line."""

    factory: ExecutorFactory
    """Makes the executor."""
    options: Mapping[str, Any]
    """It is told."""

    @contextmanager
    def running(self) -> Iterator[Executor]:
        """The executor, for a while.

        Raises:
            InputError: it cannot be had.
        """
        from samplat.executors import closing

        with closing(self.factory.create(**self.options)) as executor:
            yield executor


def chosen_executor(
    tools: Registry,
    name: str | None,
    *,
    workers: int | None = None,
    scheduler_address: str | None = None,
) -> ExecutorChoice:
    """The executor that options name, or a usage error.

    Args:
        tools: the registry.
        name: of the executor; None for the one that the other options mean.
        workers: how many.
        scheduler_address: of a cluster.
    """
    given = {"workers": workers, "scheduler_address": scheduler_address}
    options = {option: value for option, value in given.items() if value is not None}
    meant = "dask" if "scheduler_address" in options else "threads" if options else "overlapping"
    name, known = name or meant, tools.names("executors")
    if name not in known:
        more = "" if "dask" in known else "; dask needs: pip install 'samplat[dask]'"
        usage_error(f"--executor must be one of {', '.join(known)}; got {name!r}{more}")
    factory = tools.executor(name)
    takes = inspect.signature(factory.create).parameters
    for option in options:
        if option not in takes:
            usage_error(f"--executor {name} takes no --{option.replace('_', '-')}; leave it out")
    return ExecutorChoice(factory=factory, options=options)


def exporters_for(
    tools: Registry, outputs: Sequence[Place], *, image: str | None, **options: Any
) -> dict[Place, Exporter]:
    """The exporter of each output, told the options of the command; or a usage error.

    Args:
        tools: the registry.
        outputs: files to write; those at URLs are written here first, and then sent.
        image: what is segmented, which no output may replace.
        options: what `with_options` of exporters is given, besides `outputs`.
    """
    from samplat.errors import InputError
    from samplat.places import RemotePath
    from samplat.uploads import Staging, Uploaded, lie_together

    found: dict[Place, Exporter] = {}
    staging = Staging()
    written = tuple(map(staging.of, outputs))
    for output in outputs:
        if output in found:
            usage_error(f"{output} is given twice; each output needs its own name")
        if image and _is_same(output, image):
            usage_error(f"{output} is the input; choose another output")
        try:
            exporter = tools.exporter_for(output)
        except InputError as error:
            usage_error(str(error))
        if hasattr(exporter, "with_options"):
            exporter = exporter.with_options(outputs=written, **options)
        if getattr(exporter, "describes", False) and not lie_together(outputs):
            usage_error(f"{output} names the other outputs; write all of them to the same place")
        if isinstance(output, RemotePath):
            exporter = cast("Exporter", Uploaded(exporter=exporter, staging=staging))
        found[output] = exporter
    # what describes other outputs comes after them
    return dict(sorted(found.items(), key=lambda item: getattr(item[1], "describes", False)))


def _is_same(output: Place, image: str) -> bool:
    if isinstance(output, Path):
        return output.exists() and Path(image).exists() and output.samefile(image)
    return str(output) == image


def check_image(exporters: Mapping[Place, Exporter], info: ImageInfo) -> None:
    """Refuse an image that a format cannot describe, as exporters with `check_image` know it.

    Raises:
        InputError: that.
    """
    for exporter in exporters.values():
        if hasattr(exporter, "check_image"):
            exporter.check_image(info)


def check_output(exporter: Exporter, output: Place) -> None:
    """Refuse, before any long work, an output that cannot be written.

    Raises:
        InputError: that.
    """
    exporter.check(cast("Path", output))  # one at a URL is `Uploaded`


def write_outputs(
    result: JobResult, exporters: Mapping[Place, Exporter], progress: Progress
) -> None:
    """Write all outputs, one after the other."""
    check_image(exporters, result.info)
    progress.start("export", len(exporters))
    for output, exporter in exporters.items():
        exporter.export(result, cast("Path", output))  # as in `check_output`
        progress.advance("export")
    progress.finish("export")


def default_job_dir(output: Place) -> Place:
    """`out.tif` keeps its state in `out.tif.samplat-job`."""
    return output.with_name(output.name + ".samplat-job")


def fitting_tiles(seen: int, tile_size: int | None, halo: int | None) -> tuple[int, int]:
    """Tile size and halo with which a tile and its halo fill what the model sees.

    Args:
        seen: side of the window that the model sees without shrinking it, in pixels of the image.
        tile_size: as given, or None to be chosen.
        halo: as given, or None for an eighth of `seen`.
    """
    chosen = max(1, seen // 8) if halo is None else halo
    return tile_size or max(1, seen // 4, seen - 2 * chosen), chosen


@dataclass(kw_only=True)
class JobCommand:
    """One use of a command that runs a job, after its arguments were understood."""

    job: SegmentJob
    """The job."""
    tools: Registry
    """What its names stand for."""
    exporters: Mapping[Place, Exporter]
    """Who writes which output."""
    log_json: bool
    """Progress and summary as lines of JSON."""
    described: Callable[[Plan], Sequence[str]]
    """Lines on the image and its tiles, for people who ask what would be done."""
    warned: Callable[[Plan], Sequence[str]] = lambda planned: ()
    """What a person should know of the image before any work."""
    began: float = field(default_factory=time.monotonic)
    """When, on the monotonic clock."""

    def __post_init__(self) -> None:
        from samplat.progress import choose_progress

        self.progress: Progress = choose_progress(sys.stderr, log_json=self.log_json)

    def check(self) -> Plan:
        """Refuse what cannot work: outputs first, they are the cheaper ones."""
        from samplat.job import plan

        for output, exporter in self.exporters.items():
            check_output(exporter, output)
            if hasattr(exporter, "check_source"):
                exporter.check_source(self.job.source)
        planned = plan(self.job, self.tools)
        check_image(self.exporters, planned.info)
        for warning in self.warned(planned):
            self.progress.message(f"warning: {warning}")
        return planned

    def describe(self, planned: Plan) -> None:
        """Say what would be done and what it would take, by one tile; a run does not ask first."""
        from samplat.rehearsal import rehearse

        rehearsed = rehearse(planned, self.tools)
        lines = (
            *self.described(planned),
            *_asked(planned),
            f"job directory: {self.job.job_dir}",
            *(f"would write {path} ({each.name})" for path, each in self.exporters.items()),
        )
        typer.echo("\n".join(lines))
        typer.echo(_projected(rehearsed, planned))

    def carry_out(self, chosen: ExecutorChoice, *, overwrite: bool) -> None:
        """Run the job, write the outputs, say what was done."""
        from samplat.pipeline import run_job

        with chosen.running() as executor:
            result = run_job(
                self.job,
                tools=self.tools,
                executor=executor,
                progress=self.progress,
                overwrite=overwrite,
            )
        write_outputs(result, self.exporters, self.progress)
        for warning in result.warnings:
            self.progress.message(f"warning: {warning}")
        self._summarise(result)
        if not result.complete:
            raise typer.Exit(3)

    def _summarise(self, result: JobResult) -> None:
        facts: dict[str, Any] = {
            "objects": result.objects.num_rows,
            **({} if result.nested is None else {"masks": result.nested.num_rows}),
            "tiles": len(result.tiles),
            "skipped": len(result.skipped),
            "quarantined": [tile.index for tile in result.quarantined],
            **_fates(result),
            "seconds": round(time.monotonic() - self.began, 2),
            "files": [str(output) for output in self.exporters],
            "job_dir": self.job.job_dir,
        }
        line = json.dumps({"event": "summary", **facts}) if self.log_json else _summary(facts)
        typer.echo(line)


@dataclass(frozen=True, kw_only=True)
class JobOrder:
    """What a command that runs a job was asked for: its arguments, understood and checked.

    Nothing of the image was looked at: that it is missing or damaged is found out by `make`.
    """

    make: Callable[[], JobCommand]
    """Opens the image as far as the job depends on it. Raises InputError if that cannot be."""
    exporters: Mapping[Place, Exporter]
    """Who writes which output."""
    chosen: ExecutorChoice
    """Who is to run the tiles."""
    overwrite: bool = False
    """True: discard another job in the job directory."""
    dry_run: bool = False
    """True: only say what would be done."""

    def carry_out(self) -> None:
        """Do it, or say what would be done."""
        run = self.make()
        planned = run.check()
        if self.dry_run:
            run.describe(planned)
        else:
            run.carry_out(self.chosen, overwrite=self.overwrite)


def carried_out(ordered: Callable[P, JobOrder]) -> Callable[P, None]:
    """The command that carries out what a function with its arguments understands.

    Args:
        ordered: with the signature and the docstring of the command.
    """

    @functools.wraps(ordered)
    def command(*arguments: P.args, **options: P.kwargs) -> None:
        ordered(*arguments, **options).carry_out()

    return command


def _fates(result: JobResult) -> dict[str, Any]:
    """What became of the prompts, if there were any: how many of each fate."""
    if result.prompts is None:
        return {}
    counts = Counter(result.prompts["fate"].to_pylist())
    return {"prompts": dict(sorted(counts.items())), "report": str(result.store.report_path)}


def _asked(planned: Plan) -> list[str]:
    if planned.prompts is None or planned.sight is None:
        return []
    wide = sum(unit.factor > 1 for unit in planned.units)
    seen = "seen smaller" if planned.job.stacking is None else "wider"
    told = Counter(planned.prompts.features["fate"].to_pylist())
    fates = ", ".join(f"{count} {fate}" for fate, count in sorted(told.items()))
    return [
        f"prompts: {planned.prompts.features.num_rows} ({fates}) of {len(planned.prompts)} objects",
        f"windows: {len(planned.units)} of {planned.sight.side} pixels, {wide} {seen}",
    ]


def _projected(one: Rehearsal | None, planned: Plan) -> str:
    if one is None:
        return "no tile has data"
    what, count = ("window", len(planned.units)) if planned.units else ("tile", len(planned.grid))
    minutes, gib = one.seconds * count / 60, one.peak_bytes / 2**30
    return (
        f"one {what}: {one.seconds:.1f} s, {one.objects} objects\n"
        f"all of them: about {minutes:.1f} min, {gib:.2f} GiB of memory at most"
    )


def _summary(facts: Mapping[str, Any]) -> str:
    left = [f"{facts['skipped']} skipped"] if facts["skipped"] else []
    left += [f"{len(facts['quarantined'])} failed"] if facts["quarantined"] else []
    tiles = f"{facts['tiles']} tiles" + (f" ({', '.join(left)})" if left else "")
    head = f"{facts['objects']} objects, {tiles}, {facts['seconds']:.1f} s"
    if "masks" in facts:
        head = f"{facts['masks']} masks, {head}"
    lines = [head, *(f"wrote {name}" for name in facts["files"])]
    if "prompts" in facts:
        fates = ", ".join(f"{count} {fate}" for fate, count in facts["prompts"].items())
        lines.append(f"prompts: {fates}; see {facts['report']}")
    return "\n".join(lines)
