"""What a tile paints, before objects have their final names, and the regions of that.

Regions are surveyed between the seams and the names, by tile, and only for jobs that fill holes or
drop islands. What is found is entered in the ledger, with the digest of the objects and seams that
it was found in.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from samplat.attempts import ATTEMPTS
from samplat.claims import NO_CLAIMS, Claims
from samplat.errors import JobError
from samplat.files import canonical, sha256
from samplat.job import Plan, SegmentJob, Tools, tile_pixel_areas
from samplat.ledger import TileRecord
from samplat.matching import seams_digest
from samplat.pixels import ImageSource, read_valid
from samplat.regions import BACKGROUND, Regions, find_regions
from samplat.stages import Stages
from samplat.tiles import Window
from samplat.workbench import Shared

SOURCES = Shared[ImageSource]()
"""Images of this process, open without a model."""


def survey_regions(
    planned: Plan,
    records: Sequence[TileRecord],
    seams: Sequence[str],
    tools: Tools,
    stages: Stages,
) -> dict[int, str]:
    """Digests of the regions of tiles with objects; none where holes and islands do not matter."""
    if not is_mended(planned.job):
        return {}

    def digest(index: int) -> str | None:
        inputs = survey_inputs(records[index], seams[index] if seams else None)
        return planned.store.regions_digest(index, inputs)

    done = [r.index for r in records if r.outcome == "done"]
    areas = tuple(tile_pixel_areas(planned.job.pixel_areas, planned.grid).tolist())
    task = SurveyTask(plan=planned, tools=tools, pixel_areas=areas)
    return stages.make("regions", task, done, digest, planned.store.path)


def is_mended(job: SegmentJob) -> bool:
    """Whether a job fills holes or drops islands."""
    return job.fill_holes > 0 or job.drop_islands > 0


@dataclass(frozen=True, kw_only=True)
class Painting:
    """What a tile paints."""

    labels: NDArray[np.uint32]
    """(z, y, x) over its write window: index into `ids` + 1, or 0."""
    ids: NDArray[np.uint64]
    """(N,) provisional ids of its objects, and of those that it claims."""


def painting_of(planned: Plan, record: TileRecord) -> Painting:
    """What a finished tile paints."""
    tile = planned.grid[record.index]
    objects, claims = planned.store.read_objects(tile, record), _claims(planned, record.index)
    labels = objects.labels(tile.write)
    if claims.rles:
        claimed = claims.labels(tile.write)
        np.copyto(labels, claimed + np.uint32(len(objects)), where=claimed > 0)
    return Painting(labels=labels, ids=np.concatenate([objects.ids, claims.ids]))


def _claims(planned: Plan, index: int) -> Claims:
    # the stage before left the seams of what the ledger holds now; with prompts there are none
    return NO_CLAIMS if planned.prompts is not None else planned.store.read_seams(index, None)[1]


def survey_inputs(record: TileRecord, seams: str | None) -> str:
    """Digest of what a tile's regions are found in."""
    return sha256(canonical({"objects": record.objects_sha256, "seams": seams}))


@dataclass(frozen=True, kw_only=True)
class SurveyTask:
    """Finds the regions of what a tile paints, and enters them in the ledger."""

    stage: ClassVar[str] = "regions"
    plan: Plan
    tools: Tools
    pixel_areas: tuple[float, ...]
    """Area of a pixel of each tile."""

    def __call__(self, index: int) -> str:
        """Digest of the regions."""
        record = self.plan.store.tiles.known(index)
        painting = painting_of(self.plan, record)
        holes = self.plan.job.fill_holes > 0
        regions, image = find_regions(painting.labels[0], painting.ids, background=holes)
        if holes:
            regions = self._opened(index, regions, image)
        inputs = survey_inputs(record, seams_digest(self.plan, index))
        return self.plan.store.write_regions(index, regions, inputs)

    def close(self) -> None:
        """Close the image, if it was looked at."""
        SOURCES.close(self.plan)

    def _opened(self, index: int, regions: Regions, image: NDArray[np.int32]) -> Regions:
        """Regions, with those that cannot be a part of a hole marked."""
        opened = _at_the_edge(self.plan, index, regions)
        sizes = regions.areas * self.pixel_areas[index]
        maybe = (regions.owners == BACKGROUND) & ~opened & (sizes < self.plan.job.fill_holes)
        if maybe.any():
            # a patch is a hole as a whole or, if any of it is invalid, nowhere
            boxes = regions.boxes[maybe]
            (top, left), (bottom, right) = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
            invalid = ~self._valid(index, (top, left), (bottom, right))
            touched = np.unique(image[top:bottom, left:right][invalid])
            opened[touched[touched > 0] - 1] = True
        return replace(regions, open=opened)

    def _valid(
        self, index: int, start: tuple[int, int], stop: tuple[int, int]
    ) -> NDArray[np.bool_]:
        corner = self.plan.grid[index].write.start
        part = Window(start=(0, *map(int, start)), stop=(1, *map(int, stop)))
        window = part.shifted(corner).shifted(self.plan.window.start)
        open_source = functools.partial(self.tools.open_source, self.plan.job.source)
        for attempt in range(1, ATTEMPTS + 1):
            try:
                valid = read_valid(SOURCES.get(self.plan, open_source), window)[1]
            except Exception as failure:
                if attempt == ATTEMPTS:
                    raise JobError(
                        f"the image cannot be read again, to see which pixels of tile {index} are "
                        f"valid: {failure}; mend that and run the same command again, it resumes"
                    ) from failure
            else:
                return valid[0]  # type: ignore[no-any-return]
        raise AssertionError("there is a last attempt")


def _at_the_edge(planned: Plan, index: int, regions: Regions) -> NDArray[np.bool_]:
    """(R,) True: the region touches the image's edge."""
    write, opened = planned.grid[index].write, np.zeros(len(regions) + 1, bool)
    _, height, width = planned.grid.shape
    for edge, place, end in (
        (regions.top, write.start[1], 0),
        (regions.left, write.start[2], 0),
        (regions.bottom, write.stop[1], height),
        (regions.right, write.stop[2], width),
    ):
        opened[edge] |= place == end
    return opened[1:]
