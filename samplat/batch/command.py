"""The command `batch`. Heavy libraries are imported when it runs, not here."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from samplat.errors import InputError
from samplat.job_command import (
    ExecutorName,
    SchedulerAddress,
    Workers,
    chosen_executor,
    usage_error,
)
from samplat.places import Place, is_there, place

if TYPE_CHECKING:
    from samplat.batch.items import Item
    from samplat.batch.ledger import BatchLedger, ItemRecord
    from samplat.batch.running import Task

STATE = "samplat-batch"


def batch(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="INPUT",
            help="Files, globs in quotes, folders of DICOM series, OME-Zarr plates, URLs.",
        ),
    ] = None,
    output_dir: Annotated[
        str,
        typer.Option(
            "--output-dir", "-o", help="Folder of all outputs, made if missing; or its URL."
        ),
    ] = "segmented",
    manifest: Annotated[
        Path | None,
        typer.Option(
            help="CSV, JSON or Parquet with a row for each item: input, and if need be name, "
            "output, kind, prompts, and any other option of the item's own command."
        ),
    ] = None,
    kind: Annotated[
        str | None, typer.Option(help="What inputs are, raster or volume; as they look.")
    ] = None,
    to: Annotated[
        list[str] | None,
        typer.Option(
            "--to",
            "-t",
            help="Suffix of outputs, .tif .gpkg .nii.gz ...; repeatable, for each kind.",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            "-s",
            metavar="NAME=VALUE",
            help="An option of the items' own commands, such as tile-size=512, or "
            "volume.plane=axial for those of one kind; repeatable.",
        ),
    ] = None,
    keep_folders: Annotated[
        bool,
        typer.Option("--keep-folders", help="Outputs in folders like those that inputs are in."),
    ] = False,
    executor: ExecutorName = None,
    workers: Workers = None,
    scheduler_address: SchedulerAddress = None,
    at_once: Annotated[
        int | None,
        typer.Option(min=1, help="Items that are open at once; as many as keep workers busy."),
    ] = None,
    retry_failed: Annotated[
        bool,
        typer.Option("--retry-failed", help="Try again what failed, when the reason is mended."),
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Do items anew whose input or options changed since they were done."
        ),
    ] = False,
    job_dir: Annotated[
        str | None,
        typer.Option(
            help=f"Where the batch keeps its state, or its URL; {STATE} in the output folder."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, and say what would be done.")
    ] = False,
    offline: Annotated[
        bool, typer.Option("--offline", help="Never download, as with SAMPLAT_OFFLINE=1.")
    ] = False,
    log_json: Annotated[
        bool, typer.Option("--log-json", help="Progress and summary as lines of JSON.")
    ] = False,
) -> None:
    """Segment many rasters and volumes: each as by its own command, all by the same workers.

    Run the same command again to resume. Ends with 0 all done, 1 nothing done, 2 wrong usage, and
    nothing begun; 3 some items failed, or have holes, and are named.
    """
    from samplat.batch.items import Asking, check_options, check_outputs, understood
    from samplat.batch.ledger import BatchLedger
    from samplat.batch.manifest import read_manifest
    from samplat.job_directory import JobDirectory
    from samplat.plugins import registry

    if offline:
        os.environ["SAMPLAT_OFFLINE"] = "1"
    began, tools = time.monotonic(), registry()
    chosen = chosen_executor(tools, executor, workers=workers, scheduler_address=scheduler_address)
    folder = place(output_dir)
    state = (place(job_dir) if job_dir else folder / STATE).absolute()
    try:
        asking = Asking(
            tools=tools,
            folder=folder.absolute(),
            state=state,
            kind=kind,
            suffixes=tuple(to or ()),
            options=_settings(settings or ()),
            keep_folders=keep_folders,
        )
        check_options(asking)
        items = understood(asking, inputs or (), read_manifest(manifest) if manifest else None)
        ledger = BatchLedger(folder=state / "items")
        tasks = _to_do(ledger, items, retry_failed=retry_failed, overwrite=overwrite)
        if dry_run:
            _describe(items, tasks)
            return
        folder.mkdir(parents=True, exist_ok=True)
        check_outputs([task.item for task in tasks])
    except InputError as error:
        usage_error(str(error))
    except OSError as error:
        usage_error(f"cannot write to {output_dir}: {error.strerror}; choose another folder")
    with JobDirectory(path=state).lease():
        if tasks:
            from samplat.batch.running import Batch
            from samplat.progress import choose_progress

            with chosen.running() as running:
                Batch(
                    tools=tools,
                    ledger=ledger,
                    executor=running,
                    progress=choose_progress(sys.stderr, log_json=log_json),
                    at_once=at_once,
                ).run(tasks)
        records = [record for item in items if (record := ledger.read(item)) is not None]
        _summarise(folder, records, time.monotonic() - began, log_json=log_json)
    if status := _status(records):
        raise typer.Exit(status)


def _settings(given: Sequence[str]) -> dict[str, str]:
    found = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise InputError(f"--set takes NAME=VALUE, such as tile-size=512; got {text!r}")
        found[name.strip().removeprefix("--").replace("-", "_")] = value
    return found


def _to_do(
    ledger: BatchLedger, items: Sequence[Item], *, retry_failed: bool, overwrite: bool
) -> list[Task]:
    """What is to be worked on: not what is done, nor what failed, unless it is to be retried.

    Raises:
        InputError: an item was done as another one, and is not to be done anew.
    """
    from samplat.batch.ledger import facts_of, request_in, request_of
    from samplat.batch.running import Task

    found = []
    for item in items:
        record = ledger.read(item)
        if record is None:
            found.append(Task(item=item, anew=overwrite))
            continue
        was, wanted = request_in(record), request_of(item)
        changed = [n for n in sorted({*was, *wanted}) if was.get(n) != wanted.get(n)]
        elsewhere = "outputs" in changed  # which takes no new job
        changed = [name for name in changed if name != "outputs"]
        if facts_of(item) != record.facts:
            changed.append("the file itself")
        if record.outcome != "failed" and changed and not overwrite:
            raise InputError(
                f"{item.name} was done already, and since then changed in {', '.join(changed)}; "
                "--overwrite does such items anew, another --output-dir keeps them"
            )
        retried = retry_failed and record.outcome != "done"
        missing = record.outcome == "done" and not all(map(is_there, item.outputs))
        moved = elsewhere and record.outcome != "failed"
        if retried or missing or moved or (changed and overwrite):
            found.append(Task(item=item, anew=bool(changed)))
    return found


def _describe(items: Sequence[Item], tasks: Sequence[Task]) -> None:
    for task in tasks:
        item = task.item
        options = "".join(f" {name}={value}" for name, value in item.options.items())
        typer.echo(f"{item.name}: {item.kind} {item.input}{options}")
        for output, exporter in item.order.exporters.items():
            typer.echo(f"  would write {output} ({exporter.name})")
    typer.echo(f"{len(tasks)} of {len(items)} items to do")


def _summarise(
    folder: Place, records: Sequence[ItemRecord], seconds: float, *, log_json: bool
) -> None:
    from samplat.batch.summary import counts, show, write_summaries

    table, document = write_summaries(folder, records, seconds)
    if log_json:
        facts = {**counts(records), "seconds": round(seconds, 2)}
        files = [str(table), str(document)]
        typer.echo(json.dumps({"event": "summary", **facts, "files": files}))
        return
    show(records, seconds)
    typer.echo(f"wrote {table} and {document}")
    if any(record.outcome != "done" for record in records):
        typer.echo("mend what failed, and run the same command with --retry-failed")


def _status(records: Sequence[ItemRecord]) -> int:
    outcomes = {record.outcome for record in records}
    if outcomes <= {"done"}:
        return 0
    return 1 if outcomes == {"failed"} else 3
