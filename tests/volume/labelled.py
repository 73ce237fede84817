"""Labels in space made for the tests: grids of any spacing and direction, jobs, DICOM series."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from core.oracle import OracleFactory
from samplat import HOLE, ImageInfo, JobResult, SegmentJob, SourceSpec, Window, run_job
from samplat.pixels import IdentityRescaler, PercentileRescaler
from samplat.plugins import Registry
from samplat_volume.geometry import Geometry
from volume import scans

EMPTY = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate",
    "StudyTime", "AccessionNumber", "ReferringPhysicianName", "Manufacturer",
)  # fmt: skip
"""What a DICOM image has to have, if only without a value."""

OBLIQUE = Rotation.from_euler("xyz", [20, -35, 70], degrees=True).as_matrix()


def grid(
    shape: tuple[int, ...],
    spacing: tuple[float, float, float] = (2.5, 0.7, 0.8),
    origin: tuple[float, float, float] = (-101.25, 33.1, 7.75),
    direction: NDArray[np.float64] = OBLIQUE,
) -> Geometry:
    z, y, x = shape
    return Geometry(shape=(z, y, x), spacing=spacing, origin=origin, direction=direction)


@st.composite
def geometries(draw: st.DrawFn, largest: int = 7) -> Geometry:
    """Any grid: anisotropic, oblique, mirrored, far away."""
    side = st.integers(1, largest)
    millimetres = st.floats(-2, 1.5).map(lambda power: 10.0**power)
    turn = Rotation.from_rotvec(draw(st.tuples(*[st.floats(-3.2, 3.2)] * 3))).as_matrix()
    turn = draw(st.sampled_from([turn, np.eye(3), np.eye(3)[[2, 0, 1]]]))
    mirror = np.diag([1.0, 1.0, draw(st.sampled_from([1.0, -1.0]))])
    return Geometry(
        shape=draw(st.tuples(side, side, side)),
        spacing=draw(st.tuples(millimetres, millimetres, millimetres)),
        origin=draw(st.tuples(*[st.floats(-1000, 1000)] * 3)),
        direction=turn @ mirror,
    )


def some_labels(shape: tuple[int, ...], largest: int, seed: int = 0) -> NDArray[np.uint32]:
    """Noise of background, holes, and ids up to `largest`, which is there."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, largest, shape, np.uint32, endpoint=True)
    labels[rng.random(shape) < 0.3] = 0
    labels[rng.random(shape) < 0.1] = HOLE
    labels.flat[-1] = largest
    return labels


def balls(shape: tuple[int, int, int], count: int, seed: int = 0) -> NDArray[np.uint32]:
    """Random balls, some of them in front of others."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.uint32)
    places = np.indices(shape)
    for label in range(1, count + 1):
        centre = rng.uniform(0, shape)
        radius = rng.uniform(0.1, 0.25) * np.mean(shape)
        away = np.linalg.norm(places - centre[:, None, None, None], axis=0)
        labels[away <= radius] = label
    return labels


@dataclass
class Painted:
    """A volume whose colours are its labels (z, y, x)."""

    labels: NDArray[np.uint32]
    geometry: Geometry
    digest: str = "painted"

    @property
    def info(self) -> ImageInfo:
        affine = tuple(tuple(map(float, row)) for row in self.geometry.index_to_world)
        return ImageInfo(
            shape=self.geometry.shape,
            bands=3,
            dtype="uint8",
            spacing=self.geometry.spacing,
            index_to_world=affine,  # type: ignore[arg-type]
        )

    def read(self, window: Window) -> NDArray[Any]:
        part = self.labels[window.slices]
        return np.stack([(part >> shift) & 255 for shift in (0, 8, 16)], axis=-1).astype(np.uint8)

    def valid(self, window: Window) -> NDArray[np.bool_]:
        return np.ones(window.shape, bool)

    def thumbnail(self, max_size: int) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        whole = Window(start=(0, 0, 0), stop=self.info.shape)
        return self.read(whole), self.valid(whole)

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class PaintedFactory:
    """Opens the volumes in its memory."""

    memory: Mapping[str, Painted]
    name: str = "painted"

    def accepts(self, path: str) -> bool:
        return path in self.memory

    def open(self, path: str) -> Painted:
        return self.memory[path]


def tools_for(**volumes: Painted) -> Registry:
    tools = Registry()
    tools.add("sources", "test", PaintedFactory(memory=volumes))
    tools.add("segmenters", "test", OracleFactory())
    tools.add("rescalers", "test", IdentityRescaler())
    tools.add("rescalers", "test", PercentileRescaler())
    return tools


VOLUME = SourceSpec(path="volume", factory="painted")


def run_painted(
    tools: Registry,
    job_dir: Path,
    poison: int | None = None,
    source: SourceSpec = VOLUME,
    rescaler: str = "none",
) -> JobResult:
    """A job whose objects are the colours of a volume; tiles with the object `poison` fail."""
    job = SegmentJob(
        source=source,
        job_dir=str(job_dir),
        model=None,
        segmenter="oracle",
        segmenter_options={"poison": poison},
        rescaler=rescaler,
        tile_size=16,
        halo=8,
    )
    return run_job(job, tools=tools)


def write_series(
    folder: Path, geometry: Geometry, uid: str = "1.2.3.4", values: NDArray[Any] | None = None
) -> None:
    """A series with a patient, on any grid; the names of its files say nothing of their order."""
    pixels = np.zeros(geometry.shape) if values is None else values
    paths = scans.write_series(
        folder,
        pixels.astype(np.uint16),
        uid=uid,
        ImagePositionPatient=lambda z: _decimals(geometry.to_physical(np.array([[z, 0, 0]]))),
        ImageOrientationPatient=_decimals(geometry.direction[:, :2].T),
        PixelSpacing=list(geometry.spacing[1:]),
        SliceThickness=geometry.spacing[0],
        FrameOfReferenceUID="1.2.3.5",
        **dict.fromkeys(EMPTY, ""),
    )
    order = np.random.default_rng(0).permutation(len(paths))
    for path, number in zip(paths, order, strict=True):
        path.rename(folder / f"{uid}-{number}")


def _decimals(numbers: NDArray[np.float64]) -> list[str]:
    return [f"{number:.12g}" for number in np.ravel(numbers)]
