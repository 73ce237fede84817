"""One job, from an image to labels and a table of objects.

`pixels -> tiles -> embedding -> masks -> objects -> seams -> labels -> file`

Every stage reads what the one before it entered in the ledger, and skips what is there already: a
job that was killed anywhere resumes with the same command, and ends with the same labels. Each is
in a module of its own; here is their order.
"""

from __future__ import annotations

from samplat.answering import AnswerLedger, answer_prompts, report_answers
from samplat.executors import Distant, Executor, SerialExecutor
from samplat.job import (
    JobResult,
    Plan,
    SegmentJob,
    Tools,
    located,
    plan,
    provenance,
    warnings_of,
)
from samplat.labelling import paint_labels
from samplat.ledger import TileRecord
from samplat.matching import match_seams
from samplat.naming import Naming, name_objects
from samplat.nested import nest
from samplat.painting import SOURCES, survey_regions
from samplat.placing import place_answers
from samplat.progress import Progress, Silent
from samplat.prompt_report import prompt_warnings
from samplat.segmenting import segment_tiles
from samplat.stages import Stages
from samplat.workbench import BENCHES, load_before_claiming, shared_bench

SERIAL, SILENT = SerialExecutor(), Silent()


def run_job(
    job: SegmentJob,
    *,
    tools: Tools,
    executor: Executor = SERIAL,
    progress: Progress = SILENT,
    overwrite: bool = False,
) -> JobResult:
    """Run a job, or resume it when its directory holds the same one.

    Args:
        job: what to do.
        tools: what its names stand for; `samplat.plugins.registry()` is the one of all plugins.
        executor: runs the tiles.
        progress: told about the stages "tiles", "seams" and "labels".
        overwrite: discard another job that the directory holds.

    Raises:
        InputError: the image or a parameter is unusable.
        CheckpointError: the model cannot be loaded; the directory is as it was.
        JobError: the directory holds another job, is in use, or damaged; or every tile failed.
    """
    there = located(job) if isinstance(executor, Distant) else job
    return run_planned(
        plan(there, tools), tools=tools, executor=executor, progress=progress, overwrite=overwrite
    )


def run_planned(
    planned: Plan,
    *,
    tools: Tools,
    executor: Executor = SERIAL,
    progress: Progress = SILENT,
    overwrite: bool = False,
) -> JobResult:
    """Run a job of which the plan is made already; otherwise like `run_job`.

    Args:
        planned: the job; its paths are absolute if the executor is `Distant`.
        tools: as in `run_job`.
        executor: as in `run_job`.
        progress: as in `run_job`.
        overwrite: as in `run_job`.

    Raises:
        CheckpointError: as in `run_job`.
        JobError: as in `run_job`.
    """
    distant = executor if isinstance(executor, Distant) else None
    store = planned.store
    segmenter = load_before_claiming(planned, tools, overwrite)
    with store.lease() as lease, BENCHES.closing(planned), SOURCES.closing(planned):
        if distant is not None:
            distant.check(planned, tools)
        store.begin(planned.identity, provenance(planned), overwrite=overwrite)
        if segmenter is not None:
            shared_bench(planned, tools, segmenter)
        stages = Stages(executor=executor, progress=progress, lease=lease)
        return _run(planned, tools, stages)


def _run(planned: Plan, tools: Tools, stages: Stages) -> JobResult:
    records, seams, answers = _find_objects(planned, tools, stages)
    regions = survey_regions(planned, records, seams, tools, stages)
    naming = Naming(plan=planned, records=records, seams=seams, answers=answers, regions=regions)
    final = name_objects(naming, stages)
    paint_labels(planned, records, final, stages)
    nested = nest(planned, records, seams, final, stages) if planned.job.nested else None
    objects = planned.store.read_table()
    report = report_answers(planned, answers, objects)
    return JobResult(
        job=planned.job,
        info=planned.info,
        grid=planned.grid,
        tiles=records,
        objects=objects,
        store=planned.store,
        warnings=(*warnings_of(records), *prompt_warnings(report)),
        prompts=report,
        nested=nested,
    )


def _find_objects(
    planned: Plan, tools: Tools, stages: Stages
) -> tuple[tuple[TileRecord, ...], tuple[str, ...], AnswerLedger | None]:
    """Records of all tiles, digests of their seams, and of the answers if prompts were given."""
    if planned.prompts is None:
        records = segment_tiles(planned, tools, stages)
        return records, match_seams(planned, records, stages), None
    answers = answer_prompts(planned, planned.prompts, tools, stages)
    return place_answers(planned, answers, stages), (), answers
