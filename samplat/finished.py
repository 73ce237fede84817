"""A finished job, from its directory alone: neither the image nor the model is opened."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

from samplat.errors import JobError
from samplat.job import JobResult, SegmentJob, warnings_of
from samplat.job_directory import RunRecord
from samplat.ledger import TileRecord
from samplat.nested_store import NestedStore
from samplat.object_prompts import PromptSpec
from samplat.pixels import ImageInfo, SourceSpec
from samplat.places import Place, place
from samplat.seams import SeamRules
from samplat.stacking import StackRules
from samplat.store import JobStore
from samplat.tiles import TileGrid, Window

REMEDY = "run its command again: it resumes, and then export"


@contextmanager
def open_result(job_dir: str | Place) -> Iterator[JobResult]:
    """The result of a job that has run, for exporters; its directory is leased meanwhile.

    Args:
        job_dir: its directory, or URL.

    Raises:
        JobError: there is no job, it is in use, not finished, or damaged.
    """
    store = JobStore(path=place(job_dir))
    run = store.read_run()
    with store.lease():
        yield _result(store, run)


def _result(store: JobStore, run: RunRecord) -> JobResult:
    job, info, grid = _restored(store, run)
    records = _records(store, len(grid))
    final = store.final_digest()
    if final is None:
        raise JobError(f"the job in {store.path} is not finished, no object has a name; {REMEDY}")
    _check_painted(store, grid, records, final)
    return JobResult(
        job=job,
        info=info,
        grid=grid,
        tiles=records,
        objects=store.read_table(),
        store=store,
        warnings=warnings_of(records),
        nested=_nested(store, final) if job.nested else None,
    )


def _nested(store: JobStore, final: str) -> Any:
    nested = NestedStore(path=store.path)
    if not nested.is_finished(final):
        raise JobError(f"the job in {store.path} is not finished, masks are not nested; {REMEDY}")
    return nested.read_table()


def _restored(store: JobStore, run: RunRecord) -> tuple[SegmentJob, ImageInfo, TileGrid]:
    recorded: Mapping[str, Any] = run.provenance.get("result", {})
    try:
        job = _known(SegmentJob, recorded["job"])
        job |= {
            "job_dir": str(store.path),
            "window": _window(job["window"]),
            "prompts": _prompts(job["prompts"]),
            "source": SourceSpec(**_known(SourceSpec, job["source"])),
            "stacking": _stacking(job.get("stacking")),
            "seams": SeamRules(**_known(SeamRules, job["seams"])),
        }
        info, grid = (_known(kind, recorded[kind.__name__]) for kind in (ImageInfo, TileGrid))
        grid["scene"] = _window(grid["scene"])
        return SegmentJob(**job), ImageInfo(**info), TileGrid(**grid)
    except (KeyError, TypeError) as error:
        raise JobError(
            f"{store.path} was written by another version of samplat, which did not record what "
            "an export needs; run its command again with the outputs that you want"
        ) from error


def _window(recorded: Mapping[str, Any] | None) -> Window | None:
    return None if recorded is None else Window(**_known(Window, recorded))


def _prompts(recorded: Mapping[str, Any] | None) -> PromptSpec | None:
    return None if recorded is None else PromptSpec(**_known(PromptSpec, recorded))


def _stacking(recorded: Mapping[str, Any] | None) -> StackRules | None:
    return None if recorded is None else StackRules(**_known(StackRules, recorded))


def _known(kind: type, recorded: Mapping[str, Any]) -> dict[str, Any]:
    """What a record says of the attributes that there are; JSON's lists are our tuples."""
    names = {f.name for f in fields(kind)}
    return {name: _tuples(value) for name, value in recorded.items() if name in names}


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _records(store: JobStore, count: int) -> tuple[TileRecord, ...]:
    records = tuple(store.tiles.read(index) for index in range(count))
    known = tuple(record for record in records if record is not None)
    if len(known) < count:
        raise JobError(
            f"the job in {store.path} is not finished: {len(known)} of {count} tiles are; {REMEDY}"
        )
    return known


def _check_painted(
    store: JobStore, grid: TileGrid, records: tuple[TileRecord, ...], final: str
) -> None:
    painted = [r.index for r in records if r.outcome != "quarantined"]
    missing = [i for i in painted if not store.is_marked_painted(i, final)]
    if missing:
        raise JobError(
            f"the job in {store.path} is not finished: the labels of {len(missing)} of "
            f"{len(grid)} tiles are missing; {REMEDY}"
        )
