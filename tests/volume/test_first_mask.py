"""What happens before a person sees the first mask, and what a correction costs, with the model."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

import samplat
from samplat import Window
from samplat_volume import ingest
from samplat_volume.geometry import Geometry
from samplat_volume.intensity import WindowRescaler
from samplat_volume.model_slices import ModelSlices
from samplat_volume.planes import plane_of
from samplat_volume.propagation import Settings, correct, propagate
from samplat_volume.slices import SlicePrompt
from samplat_volume.source import VolumeSource
from samplat_volume.views import RECENT, SourceArray, SourcePlanes, SourceStack

SHAPE = (400, 512, 512)
BOX = (190, 200, 310, 300)


@pytest.fixture(scope="module")
def model() -> samplat.Model:
    return samplat.load_model("samplat-tiny")


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of that size which is empty but for 16 slices in its middle."""
    folder = tmp_path_factory.mktemp("scan")
    y, x = np.ogrid[:512, :512]
    organ = ((y - 250) / 48) ** 2 + ((x - 250) / 58) ** 2 < 1
    image = sitk.Image(512, 512, 400, sitk.sitkInt16)
    image.SetSpacing((0.8, 0.8, 1.0))
    path = folder / "scan.nii"
    sitk.WriteImage(image, str(path))
    noise = np.random.default_rng(0).normal(0, 10, (512, 512))
    stored = np.memmap(path, "<i2", "r+", offset=352, shape=SHAPE)
    stored[192:208] = (np.where(organ, 130, 30) + noise).astype(np.int16)
    stored.flush()
    return path


class Watched(VolumeSource):
    """Knows which voxels were read one by one, thumbnails excepted."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.windows: list[Window] = []

    def read(self, window: Window) -> Any:
        self.windows.append(window)
        return super().read(window)


def first(path: Path, model: samplat.Model) -> tuple[Watched, ModelSlices, Any]:
    """Open a volume and stop at the first mask."""
    source = Watched(str(path))
    stretch = WindowRescaler().fit(source, window="soft-tissue")
    stack = SourceStack(source, plane_of(source.geometry, "axial"), stretch)
    slices = ModelSlices(model, stack)
    found = propagate(
        slices,
        {200: SlicePrompt(box=BOX)},
        settings=Settings(steps=stack.steps),
        pixels=stack,
        on_slice=lambda index, result: False,
    )
    return source, slices, found


def test_one_slice_is_read_and_encoded_before_the_first_mask(
    scan: Path, model: samplat.Model
) -> None:
    source, slices, found = first(scan, model)
    assert slices.encoded == 1
    assert list(found.slices) == [200]
    assert found.slices[200].mask.sum() == pytest.approx(np.pi * 48 * 58, rel=0.05)
    middle = Window(start=(200, 0, 0), stop=(201, 512, 512))
    assert set(source.windows) == {middle}
    assert len(source.windows) == 1


@pytest.mark.slow
def test_of_a_compressed_volume_too_once_it_is_ingested(
    scan: Path, model: samplat.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAMPLAT_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(ingest, "SETTLED", -1.0)
    path = tmp_path / "scan.nii.gz"
    with scan.open("rb") as plain, gzip.open(path, "wb", compresslevel=1) as packed:
        shutil.copyfileobj(plain, packed)
    first(path, model)
    chunks: list[Any] = []
    read = ingest.Ingested._read
    monkeypatch.setattr(
        ingest.Ingested, "_read", lambda self, index: chunks.append(index) or read(self, index)
    )
    monkeypatch.setattr(ingest, "_write", None)
    monkeypatch.setattr(ingest, "content_key", None)
    _, slices, found = first(path, model)
    assert slices.encoded == 1
    assert len(chunks) == 1  # nor are others read to choose grey values
    assert found.slices[200].mask.any()


def small_scan(tmp_path: Path) -> VolumeSource:
    z, y, x = np.indices((12, 64, 72))
    organ = (4 * (z - 6)) ** 2 + (y - 30) ** 2 + (x - 34) ** 2 < 17**2
    noise = np.random.default_rng(1).normal(0, 8, organ.shape)
    image = sitk.GetImageFromArray((np.where(organ, 130, 20) + noise).astype(np.int16))
    image.SetSpacing((1.0, 1.0, 4.0))
    sitk.WriteImage(image, str(tmp_path / "scan.nii"))
    return VolumeSource(str(tmp_path / "scan.nii"))


def test_a_correction_encodes_only_what_it_touches_and_all_is_the_same_each_time(
    tmp_path: Path, model: samplat.Model
) -> None:
    source = small_scan(tmp_path)
    geometry = source.geometry
    stretch = WindowRescaler().fit(source, window="soft-tissue")

    def planes() -> tuple[Any, Any, Settings]:
        made = SourcePlanes(source, geometry, stretch, model)
        return made.segmenter(0), made.reader(0), Settings(steps=made.reader(0).steps)

    box, other = SlicePrompt(box=(17, 13, 52, 48)), SlicePrompt(box=(20, 16, 49, 45))
    slices, stack, settings = planes()
    found = propagate(slices, {6: box}, settings=settings, pixels=stack)
    assert min(found.slices) < 4
    assert max(found.slices) > 8

    slices, stack, _ = planes()
    stopped = correct(slices, found, 9, SlicePrompt(points=[(34, 30)], labels=[0]), pixels=stack)
    assert slices.encoded == 0
    assert max(stopped.slices) == 8

    slices, stack, _ = planes()
    corrected = correct(slices, found, 8, other, pixels=stack)
    below = [k for k in found.slices if k < 6]
    assert 1 <= slices.encoded <= len(range(7, 12))  # what lies beyond the first prompt
    assert all(corrected.slices[k] is found.slices[k] for k in below)

    slices, stack, settings = planes()
    fresh = propagate(slices, {6: box, 8: other}, settings=settings, pixels=stack)
    assert np.array_equal(fresh.mask(), corrected.mask())
    np.testing.assert_array_equal(fresh.confidences(), corrected.confidences())


def test_slices_and_arrays_of_a_source_are_its_voxels(tmp_path: Path) -> None:
    source = small_scan(tmp_path)
    stretch = samplat.registry().rescaler("percentile").fit(source, low=0, high=100)
    whole = source.read(Window(start=(0, 0, 0), stop=source.info.shape))
    for name, axis in (("z", 0), ("y", 1), ("x", 2)):
        stack = SourceStack(source, plane_of(source.geometry, name), stretch)
        shown = stretch(whole, np.ones(whole.shape[:3], bool))[..., 0]
        order = [*range(stack.shape[0]), *range(RECENT + 2)]  # forgotten ones are read again
        assert all(np.array_equal(stack(k), np.moveaxis(shown, axis, 0)[k]) for k in order)
        assert stack.steps[0] == Geometry.of_info(source.info).spacing[axis]
    array = SourceArray(source)
    assert array.shape == (12, 64, 72, 1)
    assert np.array_equal(array[2:5, 3:9, 0:7], whole[2:5, 3:9, 0:7])


def test_a_draft_is_told_before_the_mask_and_changes_nothing(
    tmp_path: Path, model: samplat.Model
) -> None:
    source = small_scan(tmp_path)
    stretch = WindowRescaler().fit(source, window="soft-tissue")
    prompts = {6: SlicePrompt(box=(17, 13, 52, 48))}

    def run(**hearing: Any) -> Any:
        made = SourcePlanes(source, source.geometry, stretch, model)
        stack = made.reader(0)
        settings = Settings(steps=stack.steps)
        return propagate(made.segmenter(0), prompts, settings=settings, pixels=stack, **hearing)

    heard: list[tuple[str, int, Any]] = []
    found = run(
        on_draft=lambda k, result: heard.append(("draft", k, result)),
        on_slice=lambda k, result: heard.append(("slice", k, result)),
    )
    assert [(name, k) for name, k, _ in heard[:2]] == [("draft", 6), ("slice", 6)]
    assert [name for name, _, _ in heard].count("draft") == 1
    draft, mask = heard[0][2].mask, heard[1][2].mask
    assert (draft & mask).sum() / (draft | mask).sum() > 0.8
    assert np.array_equal(found.mask(), run().mask())
    ended = run(on_draft=lambda k, result: False)
    assert ended.cancelled
    assert not ended.slices
