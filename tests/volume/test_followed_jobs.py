"""`samplat volume-segment --prompts`: an object for each that is pointed at, whatever the tiles."""

from __future__ import annotations

import csv
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
from samplat import plugins
from samplat.plugins import Registry, collect, load_plugins
from samplat_volume.geometry import Geometry
from samplat_volume.intensity import WindowRescaler
from samplat_volume.mark_files import file_marks
from samplat_volume.marks import gathered
from samplat_volume.planes import plane_of
from samplat_volume.propagated import sections
from samplat_volume.propagation import Settings, propagate
from samplat_volume.slices import SlicePrompt, Stack
from samplat_volume.source import VolumeSource
from samplat_volume.space import from_index
from samplat_volume.views import SourceStack
from samplat_volume.writing import write_labels
from volume.followers import PatchFactory, PatchSlices
from volume.scans import image_of, oblique

Cli = Callable[..., tuple[int, str, str]]
SHAPE = (18, 40, 34)
QUICK = ("--segmenter", "patches", "--window", "400,80")
IDS = (3, 11, 19, 27, 35, 43, 70_000)
"""What objects are called."""


@pytest.fixture(scope="module")
def truth() -> NDArray[np.int64]:
    """Objects that lie apart, numbered 1 to n."""
    return ndimage.label(ellipsoids(np.random.default_rng(4), SHAPE, 12, apart=True))[0]


@pytest.fixture
def tools() -> Registry:
    found = collect(load_plugins().manager)
    found.add("segmenters", "test", PatchFactory())
    return found


@pytest.fixture
def samplat(
    tools: Registry, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Cli:
    """Runs the command line here, with a segmenter that needs no model."""
    from samplat import cli

    monkeypatch.delenv("SAMPLAT_DEBUG", raising=False)
    monkeypatch.setattr(plugins, "registry", lambda: tools)

    def run(*arguments: Any) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    return run


@pytest.fixture
def scan(truth: NDArray[np.int64], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    values = (np.where(truth > 0, 180, -30) + rng.normal(0, 8, truth.shape)).astype(np.int16)
    sitk.WriteImage(image_of(values, oblique()), "scan.nii")
    return "scan.nii"


def read(path: str) -> NDArray[Any]:
    return np.asarray(sitk.GetArrayFromImage(sitk.ReadImage(path)))


def report(job: str = "a.nrrd.samplat-job") -> list[dict[str, str]]:
    with (Path(job) / "answers" / "report.csv").open() as file:
        return list(csv.DictReader(file))


def middle_box(mask: NDArray[np.bool_], axis: int = 0) -> list[int]:
    """x0, y0, z0, x1, y1, z1 in voxels around an object, on the slice that halves it."""
    along = np.moveaxis(mask, axis, 0)
    counts = np.cumsum(along.sum(axis=(1, 2)))
    k = int(np.searchsorted(counts, counts[-1] / 2))
    flat = np.zeros_like(mask)
    np.moveaxis(flat, axis, 0)[k] = along[k]
    places = np.argwhere(flat)[:, ::-1]
    return [*places.min(axis=0).tolist(), *places.max(axis=0).tolist()]


def lines(path: str, rows: list[dict[str, Any]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    with Path(path).open("w", newline="") as file:
        table = csv.DictWriter(file, names)
        table.writeheader()
        table.writerows(rows)
    return path


def boxes(truth: NDArray[np.int64], axis: int = 0, ids: tuple[int, ...] = IDS) -> list[dict]:
    names = ("x0", "y0", "z0", "x1", "y1", "z1")
    return [
        {"object": number, **dict(zip(names, middle_box(truth == name, axis), strict=True))}
        for name, number in enumerate(ids, start=1)
    ]


def alike(labels: NDArray[Any], truth: NDArray[np.int64], least: float = 0.8) -> bool:
    """Whether the objects are those of the truth, but for their ends."""
    dice = [
        2
        * ((labels == number) & (truth == name)).sum()
        / ((labels == number).sum() + (truth == name).sum())
        for name, number in enumerate(IDS, start=1)
    ]
    return min(dice) > least and set(np.unique(labels)) == {0, *IDS}


def followed(scan: str, name: str, path: Path) -> dict[int, NDArray[np.bool_]]:
    """What the engine makes of a file of prompts, each object by itself in the whole volume."""
    source = VolumeSource(scan)
    plane = plane_of(source.geometry, name)
    stack = SourceStack(source, plane, WindowRescaler().fit(source, window="400,80"))
    found = {}
    for number, prompts in gathered(file_marks(path, plane, "voxel"), plane).items():
        settings, found[number] = Settings(steps=stack.steps), np.zeros(SHAPE, bool)
        made = propagate(PatchSlices(stack), prompts, settings=settings, pixels=stack)
        for k, result in made.slices.items():
            plane.place(found[number], k)[...] = result.mask
    source.close()
    return found


@pytest.mark.parametrize(("plane", "axis"), [("z", 0), ("y", 1), ("x", 2)])
def test_a_box_on_a_slice_gives_its_object_whatever_the_plane_and_the_tiles(
    plane: str, axis: int, samplat: Cli, scan: str, truth: NDArray[np.int64]
) -> None:
    asked = lines("boxes.csv", boxes(truth, axis))
    given = ("volume-segment", scan, "--prompts", asked, "--space", "voxel", "--plane", plane)
    code, told, err = samplat(*given, *QUICK, "-o", "a.nrrd", "-o", "a.csv")
    assert code == 0, err
    labels = read("a.nrrd")
    alone = followed(scan, plane, Path(asked))
    claims = np.sum(list(alone.values()), axis=0)
    for number, mask in alone.items():
        assert np.array_equal((labels == number)[claims < 2], mask[claims < 2])
    assert np.array_equal(labels > 0, claims > 0)
    assert alike(labels, truth)
    assert "prompts: 7 answered; see" in told
    tiles = ("--tile", 9, "--z-block", 4, "--executor", "threads", "--prompts-window", 48)
    assert samplat(*given, *QUICK, "-o", "b.nrrd", *tiles)[0] == 0
    assert np.array_equal(read("b.nrrd"), labels)
    before, after = (Geometry.of_image(sitk.ReadImage(p)) for p in (scan, "a.nrrd"))
    assert np.allclose(before.index_to_world, after.index_to_world, atol=1e-6)
    rows = Path("a.csv").read_text().splitlines()[1:]
    assert [int(row.split(",")[0]) for row in rows] == list(IDS)
    assert [(int(r["prompt_id"]), int(r["id"]), r["fate"]) for r in report()] == [
        (number, number, "answered") for number in IDS
    ]


@pytest.mark.parametrize("space", ["lps", "ras"])
def test_points_in_millimetres(
    space: Any, samplat: Cli, scan: str, truth: NDArray[np.int64]
) -> None:
    geometry = Geometry.of_image(sitk.ReadImage(scan))
    rows = []
    for name, number in enumerate(IDS, start=1):
        inside = np.argwhere(truth == name)
        place = inside[np.abs(inside - inside.mean(axis=0)).sum(axis=1).argmin()]
        point = from_index(geometry, place[None], space)[0]
        rows.append({"object": number, "point": [float(v) for v in point]})
    Path("points.json").write_text(json.dumps({"prompts": rows}))
    given = ("volume-segment", scan, "--prompts", "points.json", "--space", space, *QUICK)
    code, _, err = samplat(*given, "-o", "a.nrrd")
    assert code == 0, err
    assert alike(read("a.nrrd"), truth)


def test_nothing_that_was_asked_for_is_dropped_without_a_word(
    samplat: Cli, scan: str, truth: NDArray[np.int64]
) -> None:
    first = middle_box(truth == 1)
    names = ("x0", "y0", "z0", "x1", "y1", "z1")
    empty = np.argwhere(ndimage.binary_dilation(truth > 0, iterations=3) == 0)[0][::-1]
    rows = [
        {"object": 4, **dict(zip(names, first, strict=True))},
        {"object": 5, "x": 500, "y": 3, "z": 3},
        {"object": 6, "x": int(empty[0]), "y": int(empty[1]), "z": int(empty[2])},
        {"object": 7, **dict(zip(names, [-20, -20, first[2], 60, 60, first[2]], strict=True))},
        {"object": 8, "x": 1, "y": 1, "z": 999},
        {"object": 8, "x": 1, "y": 1, "z": 1, "label": 0},
    ]
    given = ("volume-segment", scan, "--prompts", lines("a.csv", rows), "--space", "voxel")
    code, _, err = samplat(*given, *QUICK, "-o", "a.nrrd")
    assert code == 0, err
    fates = {(int(r["feature"]), int(r["prompt_id"])): r["fate"] for r in report()}
    assert fates == {
        (1, 4): "answered",
        (2, 5): "outside",
        (3, 6): "empty",
        (4, 7): fates[4, 7],
        (5, 8): "outside",
        (6, 8): "outside",
    }
    assert fates[4, 7] in ("clipped", "hidden")
    assert "warning: 3 of 6 prompts: outside of the image: 5, 8, 8" in err
    assert "warning: 1 of 6 prompts: nothing was found there: 6" in err
    assert set(np.unique(read("a.nrrd"))) <= {0, 4, 7}


def coarse_of(truth: NDArray[np.int64], plane: str = "z") -> NDArray[np.uint32]:
    """Each object a voxel too small all round in its slices, under other numbers."""
    coarse, around = np.zeros(truth.shape, np.uint32), [1 if p == plane else 3 for p in "zyx"]
    for name in range(1, truth.max() + 1):
        within = ndimage.binary_erosion(truth == name, np.ones(around))
        coarse[within] = 10 * name
    return coarse


@pytest.mark.parametrize(("shown", "plane"), [("box", "z"), ("draft", "x")])
def test_a_label_image_is_refined_under_its_numbers(
    shown: str, plane: str, samplat: Cli, scan: str, truth: NDArray[np.int64]
) -> None:
    coarse = coarse_of(truth, plane)
    write_labels("coarse.nii.gz", coarse, Geometry.of_image(sitk.ReadImage(scan)))
    given = ("--prompts", "coarse.nii.gz", "--prompts-as", shown, *QUICK, "--tile", 20)
    given = (*given, "--plane", plane)
    code, _, err = samplat("volume-segment", scan, *given, "-o", "a.nrrd")
    assert code == 0, err
    labels = read("a.nrrd")
    assert sorted(np.unique(labels)) == sorted(np.unique(coarse))
    for name in np.unique(coarse)[1:] // 10:
        axis = "zyx".index(plane)
        mine, true, told = (
            np.moveaxis(each, axis, 0) for each in (labels == 10 * name, truth == name, coarse)
        )
        seen = (told == 10 * name).any(axis=(1, 2))
        assert np.array_equal(mine[seen], true[seen])


def test_masks_of_some_slices_are_kept_and_the_others_found(
    samplat: Cli, scan: str, truth: NDArray[np.int64]
) -> None:
    coarse = coarse_of(truth)
    image = sitk.GetImageFromArray(coarse.astype(np.float32))  # as some tools write labels
    image.CopyInformation(sitk.ReadImage(scan))
    sitk.WriteImage(image, "coarse.mha")
    given = ("--prompts", "coarse.mha", "--prompts-as", "mask", "--prompts-slices", "middle")
    code, _, err = samplat("volume-segment", scan, *given, *QUICK, "-o", "a.nrrd")
    assert code == 0, err
    labels, kept = read("a.nrrd"), 0
    for name in np.unique(coarse)[1:].tolist():
        counts = np.cumsum((coarse == name).sum(axis=(1, 2)))
        k = int(np.searchsorted(counts, counts[-1] / 2))
        assert np.array_equal(labels[k] == name, coarse[k] == name)
        kept += (labels == name).any(axis=(1, 2)).sum() > 1
    assert kept


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda a: a - 3, "expected labels, whole numbers from 0"),
        (lambda a: a + 0.5, "is it an image or a probability"),
        (lambda a: a * 0, "holds no label above 0"),
        (lambda a: a[:-1], "resample the labels onto the volume"),
    ],
)
def test_what_is_no_label_image_is_refused_before_any_work(
    change: Callable[[Any], Any], told: str, samplat: Cli, scan: str, truth: NDArray[np.int64]
) -> None:
    image = sitk.GetImageFromArray(change(coarse_of(truth).astype(np.float32)))
    image.SetSpacing(sitk.ReadImage(scan).GetSpacing())
    if "resample" not in told:
        image.CopyInformation(sitk.ReadImage(scan))
    sitk.WriteImage(image, "coarse.nii")
    given = ("volume-segment", scan, "--prompts", "coarse.nii", *QUICK, "-o", "a.nrrd")
    code, _, err = samplat(*given)
    assert (code, told in err) == (1, True), err
    assert len(err.splitlines()) == 1
    assert not Path("a.nrrd.samplat-job").exists()


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([{"x": 500, "y": 1, "z": 1}], "no prompt of a.csv points into scan.nii"),
        ([{"x": 5, "y": 1}], "line 2 of a.csv has no z"),
        ([{"x": 5, "y": 1, "z": 1, "label": 0}], "negative points alone"),
        ([{"object": -1, "x": 5, "y": 1, "z": 1}], "expected an object numbered 1"),
        ([{"x": "five", "y": 1, "z": 1}], "expected a number in x"),
    ],
)
def test_prompts_that_cannot_be_are_refused_before_any_work(
    rows: list[dict[str, Any]], told: str, samplat: Cli, scan: str
) -> None:
    given = ("volume-segment", scan, "--prompts", lines("a.csv", rows), "--space", "voxel")
    code, _, err = samplat(*given, *QUICK, "-o", "a.nrrd")
    assert (code, told in err) == (1, True), err
    assert not Path("a.nrrd.samplat-job").exists()


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (("--gap", "3"), "--gap has no meaning with --prompts"),
        (("--points-per-side", "3"), "--points-per-side has no meaning"),
        (("--space", "inches"), "--space must be one of voxel, lps, ras"),
        (("--prompts-as", "points"), "--prompts-as must be one of draft, box, mask"),
        (("--prompts-slices", "some"), "--prompts-slices takes"),
        (("--segmenter", "threshold"), "--segmenter must be one of propagated, patches"),
        (("-o", "a.csv"), "a.csv are the prompts"),
    ],
)
def test_wrong_usage_ends_with_2(
    wrong: tuple[str, ...], told: str, samplat: Cli, scan: str
) -> None:
    asked = lines("a.csv", [{"x": 5, "y": 1, "z": 1}])
    given = ("volume-segment", scan, "--prompts", asked, "-o", "a.nrrd")
    code, _, err = samplat(*given, *wrong)
    assert (code, told in err) == (2, True), err


def test_slices_that_show_nothing_are_told_of_first(
    samplat: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    values = np.full((7, 20, 17), -30, np.int16)
    values[1:4, 5:12, 4:11] = 180
    sitk.WriteImage(image_of(values), "scan.nii")
    rows = [{"object": 1, "x": 6, "y": 7, "z": 2}, {"object": 2, "x": 6, "y": 7, "z": 6}]
    given = ("volume-segment", "scan.nii", "--space", "voxel", *QUICK, "-o", "a.nrrd")
    code, _, err = samplat(*given, "--prompts", lines("a.csv", rows))
    assert code == 0
    assert err.index("of object 2 show nothing, the first is slice 6") < err.index("found there: 2")
    code, _, err = samplat(*given, "--prompts", lines("b.csv", rows[1:]), "--job-dir", "b")
    assert (code, "all prompts lie on slices that show nothing" in err) == (1, True)
    assert not Path("b").exists()
    rows.append({"object": 1, "x": 6, "y": 7, "z": 5})
    code, _, err = samplat(*given, "--prompts", lines("c.csv", rows), "--job-dir", "c")
    assert code == 0
    assert "nothing was found on some of its slices: 1, 1" in err
    assert np.array_equal(read("a.nrrd") == 1, values > 0)


def test_an_object_that_runs_out_of_its_window_is_seen_in_a_wider_one(
    samplat: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    values = np.full((9, 60, 60), -30, np.int16)
    for k in range(9):  # a wedge
        values[k, 4 : 12 + 5 * k, 6 : 12 + 4 * k] = 180
    sitk.WriteImage(image_of(values), "scan.nii")
    asked = lines("a.csv", [{"object": 1, "x": 8, "y": 8, "z": 0}])
    given = ("volume-segment", "scan.nii", "--prompts", asked, "--space", "voxel", *QUICK)
    assert samplat(*given, "-o", "a.nrrd", "--prompts-window", 24)[0] == 0
    assert np.array_equal(read("a.nrrd") > 0, values > 0)
    assert report()[0]["factor"] == "4"


def test_it_resumes_and_says_what_else_would_be_done(
    samplat: Cli, scan: str, truth: NDArray[np.int64], tools: Registry
) -> None:
    asked = lines("boxes.csv", boxes(truth))
    given = ("volume-segment", scan, "--prompts", asked, "--space", "voxel", *QUICK)
    code, told, _ = samplat(*given, "-o", "a.nrrd", "--dry-run")
    assert code == 0
    assert "prompts: 7 (7 used) of 7 objects" in told
    assert not Path("a.nrrd.samplat-job").exists()
    assert samplat(*given, "-o", "a.nrrd")[0] == 0
    first, job = Path("a.nrrd").read_bytes(), Path("a.nrrd.samplat-job")
    known = {p.name: p.stat().st_mtime_ns for p in (job / "answers").glob("0*")}
    (job / "answers" / "000001.arrow").write_bytes(b"rot")
    next((job / "labels").rglob("c/0/**/*")).exists()
    tools.segmenter("patches").asked.clear()
    assert samplat(*given, "-o", "a.nrrd")[0] == 0
    assert tools.segmenter("patches").asked, "what was damaged was asked again"
    again = {p.name: p.stat().st_mtime_ns for p in (job / "answers").glob("0*")}
    assert [n[:6] for n in known if known[n] != again[n]] == ["000001"] * 2
    assert Path("a.nrrd").read_bytes() == first
    rows = boxes(truth)[:2]
    code, _, err = samplat(*given[:3], lines("other.csv", rows), *given[4:], "-o", "a.nrrd")
    assert (code, "holds another job: prompts" in err) == (1, True), err


@pytest.fixture
def tube() -> Stack:
    """A crooked tube through 40 slices."""
    z, y, x = np.ogrid[:40, :30, :30]
    inside = (y - 14 - 4 * np.sin(z / 7)) ** 2 + (x - 15) ** 2 < (6 + 2 * np.cos(z / 3)) ** 2
    inside = inside & (z > 1) & (z < 37)
    return Stack(volume=(200 * inside).astype(np.uint8))


@pytest.mark.parametrize("most", [1, 2, 5])
def test_sections_of_annotated_slices_give_what_all_give_at_once(tube: Stack, most: int) -> None:
    prompts = {k: SlicePrompt(points=[(15, 14)], labels=[1]) for k in (3, 4, 9, 10, 11, 20, 33)}
    prompts |= {k: SlicePrompt(points=[(15, 14)], labels=[0]) for k in (25, 26, 27)}
    prompts = dict(sorted(prompts.items()))
    slices = PatchSlices(tube)
    whole = propagate(slices, prompts, settings=Settings(), pixels=tube).slices
    found: dict[int, Any] = {}
    parts = list(sections(iter(prompts.items()), most))
    assert len(parts) > 1
    for part in parts:
        made = propagate(slices, part, settings=Settings(), pixels=tube).slices
        assert all(np.array_equal(found[k].mask, made[k].mask) for k in found.keys() & made.keys())
        found |= made
    assert sorted(found) == sorted(whole)
    assert all(np.array_equal(found[k].mask, whole[k].mask) for k in whole)
