"""The command `propagate`: a segmenter that knows the objects takes the model's place."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import highdicom
import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from samplat_volume import following
from samplat_volume.geometry import Geometry
from samplat_volume.planes import plane_of
from samplat_volume.slices import Mask, SliceAnswer, SlicePrompt
from samplat_volume.source import VolumeSource
from samplat_volume.space import from_index
from samplat_volume.views import SourceStack
from samplat_volume.writing import write_labels
from volume import scans
from volume.grown import dice, pointed_at
from volume.labelled import OBLIQUE, grid, write_series

Cli = Callable[..., tuple[int, str, str]]
GEOMETRY = grid((20, 48, 56), spacing=(2.0, 0.8, 1.0), direction=OBLIQUE)


def two_balls(touching: bool = False) -> NDArray[np.uint8]:
    """(z, y, x) object 1 and object 2."""
    z, y, x = (i * s for i, s in zip(np.indices(GEOMETRY.shape), GEOMETRY.spacing, strict=True))
    labels = np.zeros(GEOMETRY.shape, np.uint8)
    second = 24 if touching else 38
    labels[(z - 20) ** 2 + (y - 20) ** 2 + (x - second) ** 2 < 11**2] = 2
    labels[(z - 16) ** 2 + (y - 16) ** 2 + (x - 14) ** 2 < 9**2] = 1
    return labels


TRUTH = two_balls()
MIDDLE = {1: 8, 2: 10}
"""Slices across z that halve the objects."""


def shown(truth: NDArray[np.uint8]) -> NDArray[np.int16]:
    noise = np.random.default_rng(0).normal(0, 8, truth.shape)
    return np.choose(truth, (0, 100, 180)).astype(np.int16) + noise.astype(np.int16)


def image_of(values: NDArray[Any], geometry: Geometry = GEOMETRY) -> sitk.Image:
    image = sitk.GetImageFromArray(values)
    image.SetSpacing(geometry.spacing[::-1])
    image.SetOrigin(geometry.origin)
    image.SetDirection(geometry.direction.ravel().tolist())
    return image


@dataclass
class Knowing:
    """Answers with the object that has most pixels where a prompt points."""

    stack: NDArray[np.uint8]
    asked: Counter[int]
    spoil: Callable[[int, Mask], Mask]

    @property
    def shape(self) -> Any:
        return self.stack.shape

    def __call__(self, index: int, prompts: Sequence[SlicePrompt]) -> list[SliceAnswer]:
        self.asked[index] += 1
        return [self._answer(index, prompt) for prompt in prompts]

    def _answer(self, index: int, prompt: SlicePrompt) -> SliceAnswer:
        there = self.stack[index]
        found = np.bincount(there[pointed_at(prompt, there.shape)], minlength=3)[1:]
        mask = (there == found.argmax() + 1) if found.any() else np.zeros(there.shape, bool)
        mask = self.spoil(index, mask)
        return SliceAnswer(mask=mask, predicted_iou=float(mask.any()), logits=None)


@dataclass
class World:
    """What there is, and what of it was asked."""

    truth: NDArray[np.uint8] = field(default_factory=lambda: TRUTH)
    asked: Counter[int] = field(default_factory=Counter)
    spoil: Callable[[int, Mask], Mask] = lambda index, mask: mask

    def planes(self, scene: Any, model: Any) -> Any:
        stacks = [np.moveaxis(self.truth, axis, 0) for axis in range(3)]
        readers = [
            SourceStack(scene.source, plane_of(scene.source.geometry, name), scene.stretch)
            for name in "zyx"
        ]
        return SimpleNamespace(
            segmenter=lambda axis: Knowing(stacks[axis], self.asked, self.spoil),
            reader=lambda axis: readers[axis],
        )


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()
    model = SimpleNamespace(weights_sha256="f" * 64, precision="fp32", name="knows-all")
    monkeypatch.setattr(following, "model_planes", made.planes)
    monkeypatch.setattr(following, "_loaded", lambda name: model)
    return made


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


@pytest.fixture
def scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    sitk.WriteImage(image_of(shown(TRUTH)), "scan.nii")
    return Path("scan.nii")


def read(path: str | Path) -> NDArray[Any]:
    return np.asarray(sitk.GetArrayFromImage(sitk.ReadImage(str(path))))


def box_of(number: int, truth: NDArray[np.uint8] = TRUTH) -> str:
    """Of an object on its middle slice, the first voxel to the last."""
    k = MIDDLE[number]
    y, x = np.nonzero(truth[k] == number)
    return ",".join(map(str, (x.min(), y.min(), k, x.max(), y.max(), k)))


def frames(index: Sequence[float]) -> dict[str, str]:
    """A point z, y, x in all frames, as text."""
    return {
        frame: ",".join(f"{v:.9f}" for v in from_index(GEOMETRY, np.array([index]), frame)[0])
        for frame in ("voxel", "lps", "ras")
    }


BOTH = "object,x0,y0,x1,y1,z\n" + "".join(
    "{},{},{},{},{},{}\n".format(n, *(b := box_of(n).split(","))[:2], *b[3:5], b[2]) for n in (1, 2)
)


def test_one_object_however_it_is_pointed_at(samplat: Cli, world: World, scan: Path) -> None:
    ways: list[tuple[str, ...]] = [("--space", "voxel", "--box", box_of(1))]
    for frame, point in frames((8, 19, 13)).items():
        ways.append(("--space", frame, "--point", point))
        Path(f"{frame}.csv").write_text(
            "object;point;label\n1;{};1\n".format(point.replace(",", " "))
        )
        ways.append(("--space", frame, "--prompts", f"{frame}.csv"))
        mark = {"point": list(map(float, point.split(",")))}
        Path(f"{frame}.json").write_text(json.dumps([mark]))
        ways.append(("--space", frame, "--prompts", f"{frame}.json"))
    Path("slices.csv").write_text("slice,x,y\n8,13,19\n")
    ways.append(("--space", "voxel", "--prompts", "slices.csv"))
    found = []
    for number, way in enumerate(ways):
        out = f"out{number}.nii.gz"
        code, told, err = samplat("propagate", scan, "--out", out, *way)
        assert code == 0, err
        assert "1 object across z (" in told
        found.append(read(out))
    assert dice(found[0] == 1, TRUTH == 1) > 0.97
    assert all(np.array_equal(f, found[0]) for f in found)


@pytest.mark.parametrize("plane", ["z", "y", "x"])
def test_boxes_and_points_lie_on_the_voxels_that_they_name(
    samplat: Cli, world: World, scan: Path, plane: str
) -> None:
    """The prompts that arrive are the tight box of the object, and a point at a voxel's centre."""
    axis = "zyx".index(plane)
    seen: list[SlicePrompt] = []
    answer = Knowing._answer

    class Watching(Knowing):
        def _answer(self, index: int, prompt: SlicePrompt) -> SliceAnswer:
            seen.append(prompt)
            return answer(self, index, prompt)

    stack = np.moveaxis(TRUTH, axis, 0)
    k = int(np.median(np.nonzero(stack == 2)[0]))
    rows, columns = np.nonzero(stack[k] == 2)
    following.model_planes = lambda scene, model: SimpleNamespace(  # type: ignore[assignment]
        segmenter=lambda a: Watching(stack, world.asked, world.spoil), reader=lambda a: None
    )
    Path("p.csv").write_text(
        "object,slice,x0,y0,x1,y1,x,y\n"
        f"2,{k},{columns.min()},{rows.min()},{columns.max()},{rows.max()},"
        f"{columns[0]},{rows[0]}\n"
    )
    code, _, err = samplat(
        "propagate", scan, "--out", "a.nrrd", "--plane", plane, "--space", "voxel", "--prompts",
        "p.csv",
    )  # fmt: skip
    assert code == 0, err
    box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    np.testing.assert_allclose(seen[0].box, box)
    np.testing.assert_allclose(seen[0].points, [(columns[0], rows[0])])
    assert dice(read("a.nrrd") == 2, TRUTH == 2) > 0.97


def test_every_output_has_the_labels_in_their_place(
    samplat: Cli, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_series(Path("series"), GEOMETRY, values=shown(TRUTH) + 100)
    Path("both.csv").write_text(BOTH)
    names = ["a.nii", "b.nii.gz", "c.nrrd", "d.mha", "e.ome.zarr", "f.dcm", "g.csv"]
    outs = [part for name in names for part in ("--out", name)]
    code, told, err = samplat(
        "propagate", "series", *outs, "--space", "voxel", "--prompts", "both.csv"
    )
    assert code == 0, err
    assert [line for line in told.splitlines() if line.startswith("wrote")] == [
        f"wrote {name}" for name in names
    ]
    labels = read("c.nrrd")
    for number in (1, 2):
        assert dice(labels == number, number == TRUTH) > 0.97
    for name in names[:4]:
        image = sitk.ReadImage(name)
        assert np.array_equal(sitk.GetArrayFromImage(image), labels)
        place = Geometry.of_image(image).index_to_world
        np.testing.assert_allclose(place, GEOMETRY.index_to_world, atol=2e-4)
    seg = highdicom.seg.segread("f.dcm")
    assert [seg.get_segment_description(n).tracking_id for n in seg.segment_numbers] == ["1", "2"]
    rows = list(csv.DictReader(Path("g.csv").read_text().splitlines()))
    assert [int(row["voxels"]) for row in rows] == [int((labels == n).sum()) for n in (1, 2)]
    assert float(rows[0]["mean"]) == pytest.approx(200, abs=10)


def test_a_correction_asks_only_what_it_touches(samplat: Cli, world: World, scan: Path) -> None:
    """In another process, from what the first one remembered; and it is what all at once gives."""
    world.spoil = lambda k, mask: mask & (np.arange(mask.shape[1]) < 40) if k > 12 else mask
    common = ("propagate", scan, "--space", "voxel", "--object", "2", "--box", box_of(2))
    assert samplat(*common, "--out", "a.nii.gz")[0] == 0
    asked = Counter(world.asked)
    world.asked.clear()
    assert "as it was" in samplat(*common, "--out", "a.nii.gz")[1]
    assert not world.asked
    y, x = np.nonzero(TRUTH[14] == 2)
    more = ("--point", f"{int(x.mean())},{int(y.mean())},14")
    assert samplat(*common, *more, "--out", "a.nii.gz")[0] == 0
    assert min(world.asked) > MIDDLE[2]  # nothing of what lies before the first prompt
    assert min(asked) < MIDDLE[2]
    corrected = read("a.nii.gz")
    assert samplat(*common, *more, "--out", "b.nii.gz")[0] == 0
    assert np.array_equal(corrected, read("b.nii.gz"))
    world.asked.clear()
    stop = ("--point", "20,20,12,0")
    assert samplat(*common, *stop, "--out", "a.nii.gz")[0] == 0
    assert not [k for k in world.asked if k >= 12 or k < MIDDLE[2]]
    stopped = read("a.nii.gz")
    assert stopped[11].any()
    assert not stopped[12:].any()


def test_a_thick_box_says_where_the_object_ends(samplat: Cli, world: World, scan: Path) -> None:
    x0, y0, _, x1, y1, _ = box_of(1).split(",")
    box = f"{x0},{y0},6,{x1},{y1},10"
    assert samplat("propagate", scan, "--out", "a.mha", "--space", "voxel", "--box", box)[0] == 0
    assert np.flatnonzero(read("a.mha").any(axis=(1, 2))).tolist() == [6, 7, 8, 9, 10]


def test_objects_apart_do_not_depend_on_their_order(samplat: Cli, world: World, scan: Path) -> None:
    Path("a.csv").write_text(BOTH)
    lines = BOTH.splitlines()
    swapped = [lines[0], f"2{lines[1][1:]}", f"1{lines[2][1:]}"]
    Path("b.csv").write_text("\n".join(swapped))
    for name in "ab":
        code, _, err = samplat(
            "propagate", scan, "--out", f"{name}.mha", "--space", "voxel", "--prompts",
            f"{name}.csv",
        )  # fmt: skip
        assert code == 0, err
    assert np.array_equal(read("a.mha"), np.array([0, 2, 1])[read("b.mha")])


def test_finished_objects_keep_their_voxels(samplat: Cli, world: World, scan: Path) -> None:
    world.truth = two_balls(touching=True)
    sitk.WriteImage(image_of(shown(world.truth)), str(scan))
    whole = ("propagate", scan, "--space", "voxel")
    first = box_of(1)
    assert samplat(*whole, "--box", first, "--out", "alone.mha")[0] == 0
    y, x = np.nonzero(world.truth[10] == 2)
    Path("both.csv").write_text(
        f"object,box\n1,{first.replace(',', ' ')}\n"
        f"2,0 {y.min()} 10 {x.max()} {y.max()} 10\n"  # wide enough to hold the first one too
    )
    # what is found around the second prompt is all that there is
    world.spoil = lambda k, mask: (
        world.truth[k] > 0 if (mask & (world.truth[k] == 2)).any() else mask
    )
    assert samplat(*whole, "--prompts", "both.csv", "--out", "both.mha")[0] == 0
    both = read("both.mha")
    assert np.array_equal(both == 1, read("alone.mha") == 1)
    assert dice(both == 2, world.truth == 2) > 0.95


def test_ctrl_c_keeps_finished_objects_and_the_same_command_goes_on(
    samplat: Cli, world: World, scan: Path
) -> None:
    Path("both.csv").write_text(BOTH)
    command = ("propagate", scan, "--space", "voxel", "--prompts", "both.csv", "--out")
    assert samplat(*command, "whole.nii.gz")[0] == 0
    total = sum(world.asked.values())
    world.asked.clear()

    def interrupted(index: int, mask: Mask) -> Mask:
        if sum(world.asked.values()) > total - 2:
            raise KeyboardInterrupt
        return mask

    world.spoil = interrupted
    code, out, err = samplat(*command, "again.nii.gz")
    assert (code, out) == (130, "")
    assert "resumes with the same command" in err
    assert not Path("again.nii.gz").exists()
    job = Path("again.nii.gz.samplat-objects")
    assert [p.name for p in (job / "objects").iterdir()] == ["1.npz"]
    world.spoil = lambda index, mask: mask
    world.asked.clear()
    assert samplat(*command, "again.nii.gz")[0] == 0
    assert not world.asked[4]  # a slice of the first object alone
    assert Path("again.nii.gz").read_bytes() == Path("whole.nii.gz").read_bytes()


@pytest.mark.parametrize("damage", ["cut", "flipped", "foreign"])
def test_a_damaged_memory_is_made_again(
    samplat: Cli, world: World, scan: Path, damage: str
) -> None:
    command = ("propagate", scan, "--space", "voxel", "--box", box_of(1), "--out", "a.nii.gz")
    assert samplat(*command)[0] == 0
    before, kept = read("a.nii.gz"), Path("a.nii.gz.samplat-objects/objects/1.npz")
    data = bytearray(kept.read_bytes())
    if damage == "flipped":
        data[len(data) // 3] ^= 1
    kept.write_bytes(
        {"cut": bytes(data[: len(data) // 2]), "flipped": bytes(data), "foreign": b"x"}[damage]
    )
    world.asked.clear()
    code, out, _ = samplat(*command)
    assert code == 0
    assert world.asked
    assert "as it was" not in out
    assert np.array_equal(read("a.nii.gz"), before)


def test_objects_of_another_run_are_refused_or_discarded(
    samplat: Cli, world: World, scan: Path
) -> None:
    command = ("propagate", scan, "--space", "voxel", "--box", box_of(1), "--out", "a.nii.gz")
    assert samplat(*command)[0] == 0
    code, out, err = samplat(*command, "--carry", "points", "--percentiles", "0,100")
    assert (code, out) == (1, "")
    assert "differs in carry, grey values, settings; choose another --job-dir, or --over" in err
    assert samplat(*command, "--carry", "points", "--overwrite")[0] == 0
    Path("a.nii.gz.samplat-objects/run.json").write_text("{")
    assert "differs in" in samplat(*command)[2]


@pytest.mark.parametrize(
    ("options", "slices"),
    [
        ((), {1: [8], 2: [10]}),
        (("--prompts-as", "mask"), {1: [8], 2: [10]}),
        (("--prompts-slices", "9,10"), {1: [9, 10], 2: [9, 10]}),
        (("--prompts-slices", "every:4", "--prompts-as", "mask"), None),
        (("--prompts-slices", "all", "--prompts-as", "mask"), None),
    ],
)
def test_a_label_image_is_refined(
    samplat: Cli, world: World, scan: Path, options: tuple[str, ...], slices: Any
) -> None:
    from samplat_volume.marks import gathered, label_marks

    coarse = TRUTH.copy()
    coarse[:, ::7] = 0
    write_labels("coarse.nrrd", coarse, GEOMETRY)
    code, _, err = samplat(
        "propagate", scan, "--prompts", "coarse.nrrd", "--out", "fine.nrrd", *options
    )
    assert code == 0, err
    fine = read("fine.nrrd")
    for number in (1, 2):
        assert dice(fine == number, number == TRUTH) >= dice(coarse == number, number == TRUTH)
    if "all" in options:
        assert np.array_equal(fine > 0, coarse > 0)
    if slices is not None:
        chosen = dict(zip(options[::2], options[1::2], strict=True)).get("--prompts-slices")
        plane = plane_of(GEOMETRY, "z")
        marks = label_marks(
            plane, coarse.astype(np.uint32), "", drawn=False, chosen=chosen or "middle"
        )
        assert {n: list(p) for n, p in gathered(marks, plane).items()} == slices


def test_one_object_that_is_not_found_is_named_and_the_others_are_written(
    samplat: Cli, world: World, scan: Path
) -> None:
    Path("p.csv").write_text(BOTH + "7,50,2,52,4,3\n")
    command = ("propagate", scan, "--space", "voxel", "--prompts", "p.csv", "--out", "a.nii.gz")
    code, out, _ = samplat(*command)
    assert code == 3
    assert "failed: object 7: the prompt on slice 3 finds nothing" in out
    assert np.unique(read("a.nii.gz")).tolist() == [0, 1, 2]
    Path("p.csv").write_text("object,slice,x,y\n7,3,50,2\n")
    code, out, err = samplat(*command[:-1], "b.nii.gz")
    assert (code, out) == (1, "")
    assert err.splitlines()[-1].startswith("error: object 7: the prompt on slice 3 finds nothing")
    assert not Path("b.nii.gz").exists()


def test_the_slice_to_look_at_is_the_one_that_was_seen_badly(
    samplat: Cli, world: World, scan: Path
) -> None:
    world.spoil = lambda k, mask: mask & (np.arange(mask.shape[1]) < 12) if k == 6 else mask
    command = ("propagate", scan, "--space", "voxel", "--box", box_of(1))
    for name in ("c.csv", "c.json"):
        code, out, err = samplat(*command, "--out", "a.mha", "--confidence", name)
        assert code == 0, err
        assert "least sure: look at slice 6 (" in out
    rows = list(csv.DictReader(Path("c.csv").read_text().splitlines()))
    listed = json.loads(Path("c.json").read_text())["slices"]
    assert [int(row["slice"]) for row in rows] == [row["slice"] for row in listed]
    sure = {int(row["slice"]): float(row["confidence"]) for row in rows}
    assert min(sure, key=lambda k: sure[k]) == 6
    assert {row["origin"] for row in rows if row["slice"] == "8"} == {"prompt"}
    mask = read("a.mha")[8] > 0
    row = next(row for row in rows if row["slice"] == "8")
    assert float(row["area_mm2"]) == pytest.approx(mask.sum() * 0.8)
    place = np.array([[float(row[f"{a}_mm"]) for a in "lps"]])
    z, y, x = GEOMETRY.to_index(place)[0]
    assert z == pytest.approx(8, abs=1e-3)
    assert mask[round(y), round(x)]


def test_three_planes_are_asked_and_told(samplat: Cli, world: World, scan: Path) -> None:
    command = ("propagate", scan, "--space", "voxel", "--box", box_of(2), "--triplanar")
    code, out, err = samplat(*command, "--out", "a.nii.gz", "--confidence", "c.csv")
    assert code == 0, err
    for plane in "zyx":
        assert f"  across {plane} (" in out
    assert dice(read("a.nii.gz") > 0, TRUTH == 2) > 0.97
    rows = list(csv.DictReader(Path("c.csv").read_text().splitlines()))
    assert {row["plane"] for row in rows} == {"x", "y", "z"}
    world.asked.clear()
    code, out, _ = samplat(*command, "--out", "a.nii.gz", "--log-json")
    told = json.loads(out)
    assert not world.asked
    assert told["objects"][0]["reused"]
    assert [p["plane"][0] for p in told["objects"][0]["planes"]] == ["z", "y", "x"]


def test_the_plane_is_that_of_the_thickest_voxels(
    samplat: Cli, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    image = image_of(shown(TRUTH))
    image.SetSpacing((1.0, 3.0, 2.0))
    sitk.WriteImage(image, "scan.nii")
    assert following.thickest(VolumeSource("scan.nii")) == "y"
    world.truth = TRUTH
    code, out, err = samplat(
        "propagate", "scan.nii", "--out", "a.nrrd", "--space", "voxel", "--point", "14,20,8"
    )
    assert code == 0, err
    assert out.startswith("1 object across y (")


def unwanted(name: str) -> Any:
    raise AssertionError("the model was loaded")


OK = ("--space", "voxel", "--box", box_of(1))
REFUSED: list[tuple[tuple[str, ...], int, str]] = [
    (("scan.nii", "--out", "a.nii"), 2, "at least one --point, --box or --prompts"),
    (("scan.nii", "--out", "a.nii", "--box", box_of(1)), 2, "--space voxel, lps or ras"),
    (("scan.nii", "--out", "a.nii", "--space", "mm", "--box", box_of(1)), 2, "got 'mm'"),
    (("scan.nii", "--out", "a.nii", *OK[:2], "--box", "1,2,3"), 2, "--box takes 6 numbers"),
    (("scan.nii", "--out", "a.nii", *OK[:2], "--point", "1,2,3,4"), 2, "1 on the object and 0"),
    (("scan.nii", "--out", "a.nii", *OK, "--carry", "hope"), 2, "got 'hope'"),
    (("scan.nii", "--out", "a.nii", *OK, "--percentiles", "99,1"), 2, "the lower one first"),
    (("scan.nii", "--out", "a.nii", *OK, "--window", "1,2", "--percentiles", "1,9"), 2, "one of"),
    (("scan.nii", "--out", "a.nii", *OK, "--channel", "red"), 2, "whole numbers from 0"),
    (("scan.nii", "--out", "a.nii", *OK, "--prompts-slices", "some"), 2, "middle, all, every:N"),
    (("scan.nii", "--out", "a.nii", *OK, "--window", "knee"), 1, "expected a window of soft"),
    (("scan.nii", "--out", "a.nii", *OK, "--plane", "oblique"), 1, "expected a plane of z, y, x"),
    (("scan.nii", "--out", "a.tif", *OK), 1, "cannot tell the format of a.tif"),
    (("scan.nii", "--out", "no/a.nii", *OK), 1, "there is no directory"),
    (("scan.nii", "--out", "scan.nii", *OK), 1, "is the volume or the prompts"),
    (("scan.nii", "--out", "a.nii", "--out", "a.nii", *OK), 1, "is given twice"),
    (("scan.nii", "--out", "a.nii", "--out", "a.dcm", *OK), 1, "scan.nii is no DICOM series"),
    (("scan.nii", "--out", "a.nii", *OK, "--confidence", "c.txt"), 1, "as .csv or .json"),
    (("none.nii", "--out", "a.nii", *OK), 1, "there is no file or folder none.nii"),
    (("flat.nii", "--out", "a.nii", *OK), 1, "flat.nii"),
    (("colours.nrrd", "--out", "a.nii", *OK), 1, "has 3 numbers per voxel"),
    (("colours.nrrd", "--out", "a.nii", *OK, "--channel", "7"), 1, "there is no channel 7"),
    (("mixed", "--out", "a.nii", *OK), 1, "series"),
    (("turned", "--out", "a.nii", *OK), 1, "turned"),
    (("cut.nii", "--out", "a.nii", *OK), 1, "cut.nii is cut off"),
    (
        ("scan.nii", "--out", "a.nii", "--space", "ras", "--point", "900,0,0"),
        1,
        "--point: point 900,0,0 (ras) lies outside of the volume",
    ),
    (
        ("scan.nii", "--out", "a.nii", "--space", "voxel", "--box", "90,90,3,99,99,3"),
        1,
        "--box: box 89.5,89.5,2.5,99.5,99.5,3.5 (voxel) lies outside",
    ),
    (
        ("scan.nii", "--out", "a.nii", "--space", "voxel", "--point", "5,5,5,0"),
        1,
        "object 1: expected a slice with a box",
    ),
    (
        ("dark.nii", "--out", "a.nii", *OK),
        1,
        "object 1: slice 8 across z (",
    ),
    (
        ("scan.nii", "--out", "a.nii", *OK, "--box", box_of(1)),
        1,
        "a box (--box) and a box (--box) on slice 8",
    ),
    (("scan.nii", "--out", "a.nii", "--prompts", "none.csv"), 1, "no file of prompts none.csv"),
    (("scan.nii", "--out", "a.nii", "--prompts", "minus.nrrd"), 1, "minus.nrrd holds -3"),
    (("scan.nii", "--out", "a.nii", "--prompts", "shares.nrrd"), 1, "shares.nrrd holds 0.25"),
    (("scan.nii", "--out", "a.nii", "--prompts", "empty.nrrd"), 1, "no label above 0"),
    (("scan.nii", "--out", "a.nii", "--prompts", "other.nrrd"), 1, "resample the labels"),
    (
        ("scan.nii", "--out", "a.nii", "--prompts", "one.nrrd", "--prompts-slices", "19"),
        1,
        "object 1 of one.nrrd lies on slices",
    ),
]


@pytest.mark.parametrize(("arguments", "status", "told"), REFUSED)
def test_what_is_refused_before_a_model_is_loaded(
    samplat: Cli,
    scan: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    status: int,
    told: str,
) -> None:
    monkeypatch.setattr(following, "load_model", unwanted)
    bad_files()
    before = sorted(Path().iterdir())
    code, out, err = samplat("propagate", *arguments)
    assert (code, out) == (status, ""), err
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert told in err
    assert sorted(Path().iterdir()) == before


def bad_files() -> None:
    values = shown(TRUTH)
    sitk.WriteImage(sitk.GetImageFromArray(values[3]), "flat.nii")
    rgb = sitk.GetImageFromArray(np.zeros((*values.shape, 3), np.uint8), isVector=True)
    sitk.WriteImage(rgb, "colours.nrrd")
    dark = values.copy()
    dark[8] = 0
    sitk.WriteImage(image_of(dark), "dark.nii")
    data = Path("scan.nii").read_bytes()
    Path("cut.nii").write_bytes(data[: len(data) // 2])
    small = values[:4, :8, :8].astype(np.int16)
    scans.write_series(Path("mixed"), small, uid="1.2.3.4")
    scans.write_series(Path("mixed"), small, uid="1.2.3.5")
    across = [[1, 0, 0, 0, 1, 0], [0, 1, 0, 0, 0, 1]]
    scans.write_series(Path("turned"), small, ImageOrientationPatient=lambda z: across[int(z == 2)])
    for name, labels in {
        "minus.nrrd": np.where(TRUTH == 1, -3, 0).astype(np.int16),
        "shares.nrrd": (TRUTH / 4).astype(np.float32),
        "empty.nrrd": TRUTH * 0,
        "one.nrrd": (TRUTH == 1).astype(np.uint8),
    }.items():
        sitk.WriteImage(image_of(labels), name)
    sitk.WriteImage(sitk.GetImageFromArray(TRUTH), "other.nrrd")


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("p.csv", "", "p.csv holds no prompts"),
        ("p.csv", "object,x,y,z\n", "p.csv holds no prompts"),
        ("p.csv", "x,y,z\n1,2\n", "line 2 of p.csv has no z; expected x,y,z"),
        ("p.csv", "x,y,z\n1,2,three\n", "line 2 of p.csv: expected a number in z, got 'three'"),
        ("p.csv", "x,y,z\n1,2,nan\n", "expected a number in z, got 'nan'"),
        ("p.csv", "a,b\n1,2\n", "line 2 of p.csv has no coordinates; expected columns x,y,z or"),
        ("p.csv", "x,y,z,label\n1,2,3,5\n", "expected a label 1 (on the object) or 0"),
        ("p.csv", "x,y,z,object\n1,2,3,0\n", "expected an object numbered 1 to 4294967294"),
        ("p.csv", "x,y,z,object\n1,2,3,1.5\n", "expected an object numbered 1 to"),
        ("p.csv", "x,y,slice\n1,2,99\n", "there is no slice 99 across z ("),
        ("p.csv", "x,y,slice\n1,99,3\n", "line 2 of p.csv: point 1,99,3 (voxel) lies outside"),
        ("p.csv", "slice,box\n3,1 2 3\n", "expected a box x0,y0,x1,y1, got '1 2 3'"),
        ("p.csv", "slice,box\n3,9 9 3 3\n", "line 2 of p.csv: expected boxes"),
        ("p.csv", "slice,box,label\n3,1 1 3 3,0\n", "a box cannot have the label 0"),
        ("p.csv", "x0,y0,z0,x1,y1,z1\n1,1,1,1,9,9\n", None),
        ("p.json", "{", "p.json is no JSON"),
        ("p.json", "[1]", "expected a list of prompts, each an object such as"),
        ("p.json", '{"points": []}', "expected a list of prompts"),
        ("p.json", '[{"point": [1, 2]}]', "prompt 1 of p.json: expected a point x,y,z"),
        ("p.json", '[{"point": [1, 2, true]}]', "expected a number in point, got True"),
        ("p.txt", "x,y,z\n1,2,3\n", "expected .csv, .json, or a label image"),
        ("p.csv", b"\xff\xfe\x00", "p.csv is no text"),
    ],
)
def test_what_is_refused_of_a_file(
    samplat: Cli,
    world: World,
    scan: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    text: str | bytes,
    told: str | None,
) -> None:
    Path(name).write_bytes(text if isinstance(text, bytes) else text.encode())
    if told is not None:
        monkeypatch.setattr(following, "_loaded", unwanted)
    code, _, err = samplat(
        "propagate", scan, "--space", "voxel", "--prompts", name, "--out", "a.nrrd"
    )
    if told is None:  # a box one voxel wide is one
        assert "lies outside" not in err
        return
    assert code == 1
    assert told in err


def test_coordinates_of_a_file_need_their_space(samplat: Cli, world: World, scan: Path) -> None:
    Path("p.csv").write_text("x,y,z\n13,19,8\n")
    command = ("propagate", scan, "--prompts", "p.csv", "--out", "a.nrrd")
    code, _, err = samplat(*command)
    assert code == 1
    assert "line 2 of p.csv: say what its coordinates are in: --space" in err
    Path("p.csv").write_text("x,y,slice\n13,19,8\n")
    code, _, err = samplat(*command, "--space", "lps")
    assert "counts slices, coordinates are in lps" in err


def test_progress_is_told_slice_by_slice(samplat: Cli, world: World, scan: Path) -> None:
    Path("both.csv").write_text(BOTH)
    command = ("propagate", scan, "--space", "voxel", "--prompts", "both.csv", "--out")
    code, _, err = samplat(*command, "a.nii.gz", "--log-json")
    assert code == 0
    told = [json.loads(line) for line in err.splitlines()]
    ends = {each["stage"]: each for each in told if each["event"] == "finish"}
    count = sitk.ReadImage(str(scan)).GetSize()[2]
    assert (ends["slices"]["done"], ends["slices"]["total"]) == (2 * count, 2 * count)
    assert ends["objects"]["done"] == 2
