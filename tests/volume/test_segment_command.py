"""`samplat volume-segment`, with the threshold that needs no model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

from core.volumes import ellipsoids
from samplat import open_result
from samplat_volume import segment_command
from samplat_volume.geometry import Geometry
from volume.labelled import grid, write_series
from volume.scans import image_of, oblique

Cli = Callable[..., tuple[int, str, str]]
SHAPE = (18, 40, 34)
SPACING = (2.5, 0.75, 0.5)
QUICK = ("--segmenter", "threshold", "--window", "400,80")


@pytest.fixture
def samplat(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Runs the command line here: exit status, stdout, stderr."""
    from samplat import cli

    monkeypatch.delenv("SAMPLAT_DEBUG", raising=False)

    def run(*arguments: Any) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    return run


@pytest.fixture(scope="module")
def truth() -> NDArray[np.int64]:
    return ellipsoids(np.random.default_rng(4), SHAPE, 12, apart=True)


def values_of(truth: NDArray[np.int64]) -> NDArray[np.int16]:
    rng = np.random.default_rng(0)
    return (np.where(truth > 0, 180, -30) + rng.normal(0, 8, truth.shape)).astype(np.int16)


@pytest.fixture
def scan(truth: NDArray[np.int64], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    sitk.WriteImage(image_of(values_of(truth), oblique()), "scan.nii")
    return "scan.nii"


def read(path: str) -> NDArray[Any]:
    return np.asarray(sitk.GetArrayFromImage(sitk.ReadImage(path)))


def same(found: NDArray[Any], truth: NDArray[np.int64]) -> bool:
    components = ndimage.label(truth)[0]
    pairs = np.unique(np.stack([found.ravel(), components.ravel()]), axis=1)
    return bool(pairs.shape[1] == len(np.unique(found)) == components.max() + 1)


@pytest.mark.parametrize("plane", ["z", "coronal", "x"])
def test_all_writers_say_the_same_whatever_the_plane_and_the_tiles(
    plane: str, samplat: Cli, scan: str, truth: NDArray[np.int64]
) -> None:
    names = ["a.nii.gz", "b.nrrd", "c.mha", "d.csv", "e.ome.zarr"]
    outs = [part for name in names for part in ("--out", name)]
    tiles = ("--tile", 20, "--halo", 12, "--z-block", 5)
    code, told, err = samplat("volume-segment", scan, *outs, *QUICK, "--plane", plane, *tiles)
    assert code == 0, err
    assert told.splitlines()[1:] == [f"wrote {name}" for name in names]
    labels = read("a.nii.gz")
    assert same(labels, truth)
    assert np.array_equal(read("b.nrrd"), labels)
    assert np.array_equal(read("c.mha"), labels)
    before, after = (Geometry.of_image(sitk.ReadImage(p)) for p in (scan, "c.mha"))
    assert np.allclose(before.index_to_world, after.index_to_world, atol=1e-6)
    rows = Path("d.csv").read_text().splitlines()
    assert len(rows) == 1 + labels.max()
    assert told.startswith(f"{labels.max()} objects, ")


def test_a_dry_run_describes_and_writes_nothing(samplat: Cli, scan: str) -> None:
    code, told, _ = samplat(
        "volume-segment", scan, "-o", "a.nii.gz", *QUICK, "--gap", "6", "--z-block", 4, "--dry-run"
    )
    assert code == 0
    assert "volume: 18 x 40 x 34 voxels (z, y, x) of int16" in told
    assert "slices: 18 across z (" in told
    assert "2.5 mm thick" in told
    assert "tiles: 5 of 4 x 40 x 34 + 4, 0, 0 voxels" in told  # two slices of 2.5 mm, and two more
    assert "would write a.nii.gz (nifti-gz)" in told
    assert "one tile: " in told
    assert sorted(p.name for p in Path().iterdir()) == ["scan.nii"]


def test_the_thickest_voxels_decide_the_plane(samplat: Cli, tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(np.zeros((5, 6, 7), np.uint8) + np.uint8(9))
    image.SetSpacing((0.5, 3.0, 0.5))
    sitk.WriteImage(image, str(tmp_path / "a.nrrd"))
    given = ("volume-segment", tmp_path / "a.nrrd", "-o", tmp_path / "b.mha", "--dry-run")
    assert "slices: 6 across y (coronal)" in samplat(*given, "--segmenter", "threshold")[1]
    told = samplat(*given, "--segmenter", "threshold", "--spacing", "1,1,4")[1]
    assert "slices: 7 across x (sagittal)" in told


def test_sizes_are_cubic_and_plain_millimetres(
    samplat: Cli, scan: str, truth: NDArray[np.int64]
) -> None:
    components, count = ndimage.label(truth)
    sizes = np.bincount(components.ravel())[1:] * np.prod(SPACING)
    limit = float(np.median(sizes)) + 1e-3
    samplat("volume-segment", scan, "-o", "a.mha", *QUICK, "--min-volume", limit)
    assert read("a.mha").max() == (sizes > limit).sum()
    samplat("volume-segment", scan, "-o", "b.mha", *QUICK, "--max-volume", limit)
    assert read("b.mha").max() == (sizes < limit).sum()
    thick = [(p[0].stop - p[0].start) * SPACING[0] for p in ndimage.find_objects(components)]
    wide = [(p[2].stop - p[2].start) * SPACING[2] for p in ndimage.find_objects(components)]
    high = [(p[1].stop - p[1].start) * SPACING[1] for p in ndimage.find_objects(components)]
    extent = np.min([thick, wide, high], axis=0)
    limit = float(np.sort(extent)[count // 2]) - 1e-3
    samplat("volume-segment", scan, "-o", "c.mha", *QUICK, "--min-extent", limit)
    assert read("c.mha").max() == (extent >= limit).sum()
    assert 0 < (extent >= limit).sum() < count


def test_a_slice_without_the_object_is_bridged_if_that_is_allowed(
    samplat: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    values = np.full((7, 20, 17), -30, np.int16)
    values[1:6, 5:12, 4:11] = 180
    values[3] = -30
    sitk.WriteImage(image_of(values), "scan.nii")
    for gap, objects in ((None, 1), (2.5, 1), (2.4, 2), (0, 2)):
        name = f"{gap}.mha"
        given = () if gap is None else ("--gap", gap)
        assert samplat("volume-segment", "scan.nii", "-o", name, *QUICK, *given)[0] == 0
        labels = read(name)
        assert labels.max() == objects
        assert (labels[3] > 0).sum() == (49 if objects == 1 else 0)


def test_it_resumes_and_refuses_another_job(samplat: Cli, scan: str) -> None:
    given = ("volume-segment", scan, "-o", "a.nrrd", *QUICK, "--z-block", 4)
    assert samplat(*given, "--log-json")[0] == 0
    job, first = Path("a.nrrd.samplat-job"), Path("a.nrrd").read_bytes()
    tiles = {p.name: p.stat().st_mtime_ns for p in (job / "tiles").iterdir()}
    (job / "objects" / "000002.arrow").unlink()
    code, told, _ = samplat(*given, "-o", "b.csv", "--log-json")
    assert code == 0
    assert json.loads(told)["files"] == ["a.nrrd", "b.csv"]
    again = {p.name: p.stat().st_mtime_ns for p in (job / "tiles").iterdir()}
    assert [n for n in tiles if tiles[n] != again[n]] == ["000002.json"]
    assert Path("a.nrrd").read_bytes() == first
    code, _, err = samplat(*given, "--gap", "9")
    assert (code, "holds another job: stacking.gap is 2.5 there, 9" in err) == (1, True)
    with open_result(job) as result:
        assert result.job.stacking is not None
        assert result.job.stacking.block == 4


def test_dicom_goes_in_and_out_and_nothing_else_may_become_dicom(
    samplat: Cli, scan: str, truth: NDArray[np.int64], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_series(Path("series"), grid(SHAPE), values=values_of(truth) + 60)
    given = ("-o", "a.dcm", "-o", "a.mha", "--segmenter", "threshold", "--window", "400,140")
    code, _, err = samplat("volume-segment", "series", *given)
    assert code == 0, err
    import pydicom

    assert len(pydicom.dcmread("a.dcm").SegmentSequence) == read("a.mha").max()
    monkeypatch.setattr("samplat.job.plan", lambda *_: pytest.fail("work was begun"))
    code, _, err = samplat("volume-segment", scan, "-o", "b.dcm", *QUICK)
    assert (code, "is no DICOM series" in err) == (1, True)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (("--window", "brain", "--percentiles", "1,99"), "both choose grey values"),
        (("--percentiles", "99,1"), "two of 0 to 100 in order"),
        (("--percentiles", "a,b"), "takes 2 numbers"),
        (("--spacing", "1,2"), "takes 3 numbers"),
        (("--channel", "red"), "takes whole numbers"),
        (("--segmenter", "prompted"), "--segmenter must be one of automatic, threshold"),
        (("--executor", "many"), "--executor must be one of"),
        (("--overlaps", "none"), "--overlaps must be one of best, small, large"),
        (("--plane", "upside"), "--plane must be one of z, y, x, axial"),
        (("-o", "a.xyz"), "a.xyz"),
    ],
)
def test_wrong_usage_ends_with_2(
    wrong: tuple[str, ...], told: str, samplat: Cli, scan: str
) -> None:
    code, _, err = samplat("volume-segment", scan, "-o", "a.mha", *wrong)
    assert (code, told in err) == (2, True), err


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (("--window", "brain-ish"), "expected a window of soft-tissue"),
        (("--points-per-side", "8"), "does not take this option: points_per_side"),
        (("--min-volume", "9", "--max-volume", "3"), "max_area must be at least min_area"),
        (("--spacing", "0,1,1"), "spacing"),
        (("--channel", "4"), "channel"),
    ],
)
def test_what_cannot_work_ends_with_1(
    wrong: tuple[str, ...], told: str, samplat: Cli, scan: str
) -> None:
    code, _, err = samplat(
        "volume-segment", scan, "-o", "a.mha", "--segmenter", "threshold", *wrong
    )
    assert (code, told in err) == (1, True), err
    assert len(err.splitlines()) == 1


def test_slices_that_the_model_sees_whole_are_one_tile() -> None:
    geometry = Geometry(
        shape=(9, 200, 700), spacing=(1, 1, 1), origin=(0, 0, 0), direction=np.eye(3)
    )
    from samplat_volume.planes import plane_of

    assert segment_command._tiles(plane_of(geometry, "x"), 512, None, None) == (200, 0)
    assert segment_command._tiles(plane_of(geometry, "z"), 512, None, None) == (384, 64)
    assert segment_command._tiles(plane_of(geometry, "z"), 512, 100, 30) == (100, 30)
