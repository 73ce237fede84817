"""Objects of a volume file, from prompts to files: everything is checked before a model is loaded.

::

    volume, grey values, plane ──▶ prompts by object and slice ──▶ model
    for each object: remembered? or follow it, apart from those that are finished ──▶ remember it
    labels, confidences ──▶ files
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from samplat import (
    Exporter,
    InputError,
    Progress,
    SourceSpec,
    Stretch,
    load_model,
    registry,
    smallest_dtype,
)
from samplat_volume.confidences import check_confidences, confidence_rows, write_confidences
from samplat_volume.followed import Followed, Memory, PlaneOpinion
from samplat_volume.intensity import WindowRescaler
from samplat_volume.labels import LabelVolume, of_array
from samplat_volume.mark_files import file_marks
from samplat_volume.marks import ByObject, Mark, box_marks, check_shown, gathered, point_mark
from samplat_volume.planes import INDEX_PLANES, Plane, plane_of
from samplat_volume.projection import Kind, Projection
from samplat_volume.propagation import Settings, propagate
from samplat_volume.slices import Mask, SlicePrompt, reordered
from samplat_volume.source import VolumeSource
from samplat_volume.space import Frame
from samplat_volume.triplanar import Planes, triplanar
from samplat_volume.views import SourceArray, SourcePlanes
from samplat_volume.walks import SliceResult
from samplat_volume.writing import Writer, writer_for

if TYPE_CHECKING:
    from samplat import Model

LOOK = 3
"""Slices of an object that are named as those to look at."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a run is to do."""

    source: SourceSpec
    """The volume."""
    outputs: Sequence[Path]
    """Files of labels or measurements."""
    space: Frame | None
    """What coordinates are in."""
    points: Sequence[tuple[Sequence[float], bool]]
    """x, y, z, and whether the object is there."""
    boxes: Sequence[Sequence[float]]
    """x0, y0, z0, x1, y1, z1."""
    number: int
    """The object that they are about."""
    prompts: Path | None
    """File of prompts of any objects."""
    drawn: bool
    """If it is a label image: whether its masks are taken as they are."""
    chosen: str
    """Likewise: from which slices."""
    plane: str | None
    """Across which slices follow each other; None: where voxels are thickest."""
    triplanar: bool
    """Whether all three axes are looked along."""
    carry: tuple[Kind, ...]
    """How the next slice is asked."""
    window: str | None
    """Of CT."""
    percentiles: tuple[float, float] | None
    """Of the volume, if there is no window."""
    model: str
    """Name or path."""
    confidence: Path | None
    """File of confidences."""
    job_dir: Path
    """Where finished objects are kept."""


@dataclass(frozen=True, kw_only=True)
class ObjectTold:
    """What a person is told of an object."""

    number: int
    """Its number, also in the labels."""
    slices: tuple[int, int]
    """The first and last that it is in, across the plane of its prompts."""
    millilitres: float
    """Its volume."""
    doubtful: tuple[tuple[int, float], ...]
    """Slices to look at and their confidence, least confident first."""
    opinions: tuple[tuple[str, float, float], ...]
    """Plane, Dice with the consensus, mean confidence; empty if one axis was looked along."""
    reused: bool
    """Whether it is that of an earlier run."""


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a run did."""

    objects: tuple[ObjectTold, ...]
    """Those that were followed."""
    failed: Mapping[int, str]
    """Why others were not, by number."""
    plane: str
    """"z (axial)"."""
    encoded: int
    """Slices that the model encoded."""
    files: tuple[Path, ...]
    """What was written."""


def follow(asked: Asked, *, progress: Progress, overwrite: bool = False) -> Told:
    """Do it.

    Raises:
        InputError: the volume, a prompt or an output is unusable.
        JobError: the job directory holds another run's objects, or the disk is full.
    """
    writers = _writers(asked)
    source = VolumeSource(asked.source.path, **asked.source.options)
    try:
        scene = _scene(asked, source)
        run = _Run(asked=asked, scene=scene, model=_loaded(asked.model), overwrite=overwrite)
        run.follow_all(progress)
        return run.written(writers, progress)
    finally:
        source.close()


def _writers(asked: Asked) -> dict[Path, Writer]:
    """The writers of the outputs; refuses what cannot be written."""
    found: dict[Path, Writer] = {}
    for output in asked.outputs:
        if output in found:
            raise InputError(f"{output} is given twice; each output needs its own name")
        if output.resolve() in (Path(asked.source.path).resolve(), _resolved(asked.prompts)):
            raise InputError(f"{output} is the volume or the prompts; choose another output")
        found[output] = writer_for(output)
        found[output].check(output)
        check_source(found[output], asked.source)
    if asked.confidence is not None:
        check_confidences(asked.confidence)
    return found


def _resolved(path: Path | None) -> Path | None:
    return None if path is None else path.resolve()


def check_source(writer: Exporter, source: SourceSpec) -> None:
    """Let a writer refuse, before any work, a volume of which it cannot write labels."""
    if hasattr(writer, "check_source"):
        writer.check_source(source)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A volume with all that is needed to ask a model about it."""

    source: VolumeSource
    """Opened."""
    plane: Plane
    """Its slices."""
    stretch: Stretch
    """What its values look like."""
    prompts: ByObject
    """What is to be followed."""


def _scene(asked: Asked, source: VolumeSource) -> Scene:
    """Refuses prompts that cannot be."""
    plane = plane_of(source.geometry, asked.plane or thickest(source))
    prompts = gathered(_marks(asked, plane), plane)
    stretch = _stretch(asked, source)
    check_shown(prompts, plane, source, stretch)
    return Scene(source=source, plane=plane, stretch=stretch, prompts=prompts)


def thickest(source: VolumeSource) -> str:
    """The axis along which voxels are longest; z unless another one's are longer."""
    return INDEX_PLANES[int(np.argmax(np.round(source.geometry.spacing, 6)))]


def _marks(asked: Asked, plane: Plane) -> list[Mark]:
    marks: list[Mark] = []
    if asked.prompts is not None:
        marks += file_marks(
            asked.prompts, plane, asked.space, drawn=asked.drawn, chosen=asked.chosen
        )
    if asked.space is not None:
        for box in asked.boxes:
            marks += box_marks(plane, asked.number, box, asked.space, "--box")
        marks += [
            point_mark(plane, asked.number, point, asked.space, "--point", positive=positive)
            for point, positive in asked.points
        ]
    return marks


def _stretch(asked: Asked, source: VolumeSource) -> Stretch:
    if asked.window is not None:
        return WindowRescaler().fit(source, window=asked.window)
    assert asked.percentiles is not None  # noqa: S101 the command gives one of the two
    low, high = asked.percentiles
    return registry().rescaler("percentile").fit(source, low=low, high=high)


def _loaded(name: str) -> Model:
    return load_model(name, models=registry().models())


def model_planes(scene: Scene, model: Model) -> Planes:
    """The volume, as the model is asked about it."""
    return SourcePlanes(scene.source, scene.source.geometry, scene.stretch, model)


@dataclass(kw_only=True)
class _Steps:
    """How many slices of an object are done; nobody knows beforehand where it ends."""

    progress: Progress
    most: int
    """Slices that there are."""
    seen: set[int] = field(default_factory=set)

    def told(self, index: int, result: SliceResult) -> None:
        """Another slice."""
        if index not in self.seen:
            self.seen.add(index)
            self.progress.advance("slices")

    def finish(self) -> None:
        """The object has ended: the others are none of its."""
        self.progress.advance("slices", self.most - len(self.seen))


class _Run:
    """Objects one after the other; what is finished belongs to nobody else."""

    def __init__(self, *, asked: Asked, scene: Scene, model: Model, overwrite: bool) -> None:
        self._asked, self._scene, self._model = asked, scene, model
        self._planes = model_planes(scene, model)
        geometry, plane = scene.source.geometry, scene.plane
        self._settings = Settings(
            steps=reordered(geometry.spacing, plane.axis), projection=Projection(kinds=asked.carry)
        )
        self._memory = Memory(asked.job_dir, self._identity(), overwrite=overwrite)
        self._labels = np.zeros(geometry.shape, smallest_dtype(max(scene.prompts)))
        self._done: dict[int, Followed] = {}
        self._reused: set[int] = set()
        self._failed: dict[int, str] = {}

    def _identity(self) -> dict[str, Any]:
        return {
            "image": self._scene.source.digest,
            "model": self._model.weights_sha256,
            "precision": self._model.precision,
            "grey values": [list(self._scene.stretch.low), list(self._scene.stretch.high)],
            "plane": self._scene.plane.axis,
            "triplanar": self._asked.triplanar,
            "carry": list(self._asked.carry),
            "settings": json_values(self._settings),
        }

    def follow_all(self, progress: Progress) -> None:
        """Every object, by number; one of which nothing is found does not stop the others."""
        count = len(self._scene.prompts)
        progress.start("objects", count)
        progress.start("slices", count * self._scene.plane.count)
        for number, prompts in self._scene.prompts.items():
            steps = _Steps(progress=progress, most=self._scene.plane.count)
            try:
                self._follow(number, prompts, steps)
            except InputError as error:
                self._failed[number] = f"object {number}: {error}"
                progress.message(self._failed[number])
            steps.finish()
            progress.advance("objects")
        progress.finish("slices")
        progress.finish("objects")

    def _follow(self, number: int, prompts: Mapping[int, SlicePrompt], steps: _Steps) -> None:
        before = self._memory.get(number, self._settings)
        if before is not None and before.still_holds(prompts, self._taken):
            found = before.followed
            self._reused.add(number)
        else:
            earlier = before.followed if before and before.helps(self._taken) else None
            found = self._followed(prompts, earlier, steps)
            self._memory.put(number, found, self._taken)
        self._done[number] = found
        for k, mask in found.masks(self._scene.plane.axis):
            self._scene.plane.place(self._labels, k)[mask] = number

    def _followed(
        self, prompts: Mapping[int, SlicePrompt], earlier: Followed | None, steps: _Steps
    ) -> Followed:
        axis = self._scene.plane.axis
        if not self._asked.triplanar:
            return Followed(
                first=propagate(
                    self._planes.segmenter(axis),
                    prompts,
                    settings=self._settings,
                    pixels=self._planes.reader(axis),
                    taken=self._taken,
                    earlier=None if earlier is None else earlier.first,
                    on_slice=steps.told,
                )
            )
        seen = triplanar(
            self._planes,
            axis,
            prompts,
            spacing=self._scene.source.geometry.spacing,
            projection=self._settings.projection,
            taken=self._labels > 0,
        )
        if not seen.mask.any():
            raise InputError("its three planes agree on no voxel; leave out --triplanar")
        opinions = [
            PlaneOpinion(axis=p.axis, confidences=p.confidences, dice=p.dice) for p in seen.planes
        ]
        return Followed(first=seen.first, consensus=seen.mask, opinions=tuple(opinions))

    def _taken(self, k: int) -> Mask:
        """(H, W) of a slice. True: it belongs to an object that is finished."""
        held: Mask = self._scene.plane.place(self._labels, k) > 0
        return held

    def written(self, writers: Mapping[Path, Writer], progress: Progress) -> Told:
        """Write what was found; nothing where there is nothing."""
        files: list[Path] = []
        if self._done:
            progress.start("export", len(writers))
            volume = self._volume()
            for output, writer in writers.items():
                writer.write(volume, output)
                files.append(output)
                progress.advance("export")
            progress.finish("export")
            if self._asked.confidence is not None:
                rows = confidence_rows(self._done, self._scene.plane)
                write_confidences(self._asked.confidence, rows)
                files.append(self._asked.confidence)
        return Told(
            objects=tuple(self._told(number) for number in self._done),
            failed=self._failed,
            plane=str(self._scene.plane),
            encoded=sum(getattr(self._planes.segmenter(a), "encoded", 0) for a in range(3)),
            files=tuple(files),
        )

    def _volume(self) -> LabelVolume:
        image = SourceArray(self._scene.source)
        geometry = self._scene.source.geometry
        volume = of_array(self._labels, geometry, image=image, made_by=self._model.name)
        return replace(volume, source=self._asked.source)

    def _told(self, number: int) -> ObjectTold:
        found, plane = self._done[number], self._scene.plane
        sizes = {k: int(np.count_nonzero(mask)) for k, mask in found.masks(plane.axis)}
        first = found.first
        return ObjectTold(
            number=number,
            slices=(min(sizes, default=-1), max(sizes, default=-1)),
            millilitres=sum(sizes.values()) * plane.geometry.voxel_volume / 1000,
            doubtful=tuple((k, first.slices[k].confidence) for k in first.doubtful(LOOK)),
            opinions=tuple(
                (str(plane_of(plane.geometry, INDEX_PLANES[o.axis])), o.dice, o.confidence)
                for o in found.opinions
            ),
            reused=number in self._reused,
        )


def json_values(settings: Settings) -> Any:
    """Settings as JSON has them after a round trip."""
    return json.loads(json.dumps(asdict(settings)))
