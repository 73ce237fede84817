"""What a process needs for a job: an open image, and a segmenter that is ready.

Weights and open files are neither picklable nor cheap: each process makes them once per job.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Generic, Protocol, TypeVar

from samplat.answers import PromptedSegmenter
from samplat.files import canonical, sha256
from samplat.job import Plan, Segmenter, SegmentJob, Tools
from samplat.pixels import ImageSource
from samplat.stack_answers import StackSegmenter

KEPT = 2
"""The latest segmenters are kept for jobs to come, no more: jobs may differ in models."""

AnySegmenter = Segmenter | PromptedSegmenter | StackSegmenter


class Closable(Protocol):
    """Something that is open."""

    def close(self) -> None:
        """Close it."""
        ...


C = TypeVar("C", bound=Closable)


class Shared(Generic[C]):
    """Open things of this process, one per job, shared by its threads."""

    def __init__(self) -> None:
        self._made: dict[str, C] = {}
        self._lock = threading.Lock()

    def get(self, planned: Plan, make: Callable[[], C]) -> C:
        """The one of a job, made if there is none yet."""
        key = _key(planned)
        with self._lock:
            if key not in self._made:
                self._made[key] = make()
            return self._made[key]

    @contextmanager
    def closing(self, planned: Plan) -> Iterator[None]:
        """Close the one of a job afterwards, if it was made in this process."""
        try:
            yield
        finally:
            self.close(planned)

    def close(self, planned: Plan) -> None:
        """Close the one of a job, if it was made in this process."""
        with self._lock:
            made = self._made.pop(_key(planned), None)
        if made is not None:
            made.close()


def _key(planned: Plan) -> str:
    return sha256(canonical({"dir": planned.job.job_dir, "identity": planned.identity}))


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What a process needs to segment tiles of one job: an open image and a ready segmenter."""

    plan: Plan
    """The job."""
    source: ImageSource
    """Its image, open."""
    segmenter: AnySegmenter
    """Its segmenter, loaded: one that takes prompts where the job brings some."""

    def close(self) -> None:
        """Close the image."""
        self.source.close()


BENCHES = Shared[Bench]()


def shared_bench(planned: Plan, tools: Tools, segmenter: AnySegmenter | None = None) -> Bench:
    """This process's bench for a job; the segmenter is loaded unless it is given."""
    return BENCHES.get(planned, lambda: open_bench(planned, tools, segmenter))


def open_bench(planned: Plan, tools: Tools, segmenter: AnySegmenter | None = None) -> Bench:
    """Open the image of a job, and load its segmenter unless it is here already."""
    if segmenter is None:
        segmenter = SEGMENTERS.get(planned, tools)
    return Bench(plan=planned, source=tools.open_source(planned.job.source), segmenter=segmenter)


def load_segmenter(job: SegmentJob, tools: Tools) -> AnySegmenter:
    """The segmenter that a job names, ready for tiles."""
    factory = tools.segmenter(job.segmenter)
    if job.embeddings is not None and hasattr(factory, "with_embeddings"):  # `plan` refuses others
        factory = factory.with_embeddings(job.embeddings)
    return factory.create(job.model, **job.segmenter_options)


class Segmenters:
    """Segmenters of this process that several jobs use, while somebody wants them kept."""

    def __init__(self) -> None:
        self._made: dict[str, tuple[Tools, AnySegmenter]] = {}
        self._wanted = 0
        self._lock = threading.Lock()

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Jobs with equal segmenters share one meanwhile: a model is loaded once for all."""
        with self._lock:
            self._wanted += 1
        try:
            yield
        finally:
            with self._lock:
                self._wanted -= 1
                if not self._wanted:
                    self._made.clear()

    def get(self, planned: Plan, tools: Tools) -> AnySegmenter:
        """The segmenter of a job, loaded unless an equal one is kept."""
        with self._lock:
            if not self._wanted:
                return load_segmenter(planned.job, tools)
            key = segmenter_key(planned, tools)
            # with its tools, so that nothing else gets their number
            made = self._made.pop(key, None) or (tools, load_segmenter(planned.job, tools))
            self._made[key] = made
            while len(self._made) > KEPT:
                del self._made[next(iter(self._made))]
            return made[1]


def segmenter_key(planned: Plan, tools: Tools) -> str:
    """Equal for jobs whose segmenters are; as long as the tools are there."""
    job, identity = planned.job, planned.identity["segmenter"]
    told = {"identity": identity, "model": job.model, "embeddings": job.embeddings}
    return f"{id(tools)} {sha256(canonical(told))}"


SEGMENTERS = Segmenters()
keeping_segmenters = SEGMENTERS.kept


@dataclass(frozen=True, kw_only=True)
class BenchWork:
    """What all work has in common that needs an image and a segmenter, see `attempts.Work`."""

    infers: ClassVar[bool] = True

    plan: Plan
    """The job."""
    tools: Tools
    """What its names stand for."""

    def bench(self) -> Bench:
        """The image and the segmenter."""
        return shared_bench(self.plan, self.tools)

    def close(self) -> None:
        """Close the image, and let go of the segmenter."""
        BENCHES.close(self.plan)


def load_before_claiming(planned: Plan, tools: Tools, overwrite: bool) -> AnySegmenter | None:
    """The segmenter of a new job, while its directory is untouched: what fails must not claim it.

    None where the directory is claimed: by this job, with a segmenter that did load and that a
    finished job no longer needs; or by another one, which `JobStore.begin` refuses.
    """
    claimed = (planned.store.path / "run.json").exists()
    return SEGMENTERS.get(planned, tools) if overwrite or not claimed else None
