"""The benchmark of volumes: its objects, its baselines, and that it goes on where it ended."""

import json

import numpy as np
import pytest
import SimpleITK

from benchmarks import volumes
from benchmarks.evaluation.first_mask import SUFFIXES, first_mask
from benchmarks.evaluation.following import GROWN, METHODS, region_growing, repeated
from benchmarks.evaluation.stacks import LabelledObject, lesions, objects_of, read_lesions


def ball(shape=(10, 24, 20), radius=7.0):
    grid = np.ogrid[tuple(slice(0, n) for n in shape)]
    middle = [(n - 1) / 2 for n in shape]
    steps = (2.0, 1.0, 1.0)
    away = sum(((g - m) * s) ** 2 for g, m, s in zip(grid, middle, steps, strict=True))
    return away <= radius**2


def write(path, values, spacing=(1.0, 1.0, 2.0)):
    image = SimpleITK.GetImageFromArray(values)
    image.SetSpacing(spacing)
    path.parent.mkdir(parents=True, exist_ok=True)
    SimpleITK.WriteImage(image, str(path))


@pytest.fixture
def labelled():
    truth = ball()
    rng = np.random.default_rng(0)
    pixels = np.clip(60 + 120 * truth + rng.normal(0, 5, truth.shape), 0, 255).astype(np.uint8)
    return LabelledObject(name="ball", pixels=pixels, truth=truth, spacing=(2.0, 1.0, 1.0), axis=0)


def test_the_middle_slice_halves_the_voxels(labelled):
    areas = labelled.stack.sum(axis=(1, 2))
    assert areas[: labelled.middle].sum() < areas.sum() / 2 <= areas[: labelled.middle + 1].sum()
    assert labelled.extent == (2, 7)


def test_region_growing_finds_what_is_bright_and_alone(labelled):
    figures = region_growing(labelled)
    assert list(figures) == list(GROWN)
    assert max(figures.values()) > 0.9


def test_the_repeated_slice_fills_the_extent_that_was_found(labelled):
    made = repeated(labelled.truth, 4)
    assert (made.any(axis=(1, 2)) == labelled.truth.any(axis=(1, 2))).all()
    assert all((m == labelled.truth[4]).all() for m in made if m.any())


def test_lesions_are_connected_large_and_in_order_of_size():
    marked = np.zeros((20, 20, 20), bool)
    marked[:3, :3, :3] = True
    marked[3, 3, 3] = True  # touches the first at a corner
    marked[10:14, 10:14, 10:14] = True
    marked[18, 18, 18] = True
    assert [m.sum() for m in lesions(marked, (1.0, 1.0, 1.0), least=20)] == [64, 28]
    assert len(lesions(marked, (10.0, 10.0, 10.0), least=1000)) == 3


def test_files_become_objects_along_their_thickest_axis(tmp_path):
    truth = ball()
    write(tmp_path / "patient1_FLAIR.nii.gz", truth.astype(np.float32) * 100)
    write(tmp_path / "patient1_gt.nii.gz", truth.astype(np.uint8))
    (found,) = read_lesions(tmp_path)
    assert (found.truth == truth).all()
    assert (found.spacing, found.axis) == ((2.0, 1.0, 1.0), 0)
    write(tmp_path / "empty.nii.gz", np.zeros(truth.shape, np.uint8))
    assert not list(objects_of(tmp_path / "patient1_FLAIR.nii.gz", tmp_path / "empty.nii.gz"))


@pytest.fixture
def folder(tmp_path):
    for name in ("a.nii.gz", "b.nii.gz"):
        write(tmp_path / "med_hippocampus" / "images" / name, ball().astype(np.float32))
        write(tmp_path / "med_hippocampus" / "labels" / name, ball().astype(np.uint8))
    return tmp_path


def test_the_command_prints_means_and_goes_on_from_what_is_there(folder, monkeypatch, capsys):
    asked = []

    def pretend(model, labelled):
        asked.append(labelled.name)
        grown = dict.fromkeys(GROWN, 0.1 if labelled.name < "b" else 0.2) | {GROWN[3]: 0.6}
        return {m: 0.5 + 0.1 * i for i, m in enumerate(METHODS)} | grown | {"seconds": 1.0}

    monkeypatch.setattr(volumes, "follow", pretend)
    monkeypatch.setattr(volumes, "first_mask", lambda model, folder: {"encode": 0.25})
    out = folder / "out.json"
    arguments = [str(folder), "--json", str(out)]
    assert volumes.main([*arguments, "--limit", "1"]) == 0
    assert json.loads(out.read_text())["hippocampus"]["n"] == 1
    assert volumes.main(arguments) == 0
    assert asked == ["a.nii.gz [0]", "b.nii.gz [0]"]
    figures = json.loads(out.read_text())["hippocampus"]
    means = {m: pytest.approx(0.5 + 0.1 * i) for i, m in enumerate(METHODS)}
    assert figures == {"n": 2} | means | {"region_growing": pytest.approx(0.6)}
    assert json.loads(out.read_text())["first_mask"] == {"encode": 0.25}
    printed = capsys.readouterr().out
    assert "first_mask: encode 0.250 s" in printed
    assert "mean of sets" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--sets", "liver"], "no set is called 'liver'"), ([], "has no folder 'med_hippocampus'")],
)
def test_folders_and_sets_that_are_not_there(tmp_path, arguments, message, capsys):
    assert volumes.main([str(tmp_path), *arguments]) == 1
    assert message in capsys.readouterr().err


def test_the_first_mask_is_waited_for_and_alone_if_need_be(tmp_path, monkeypatch, capsys):
    small = lambda model, folder: first_mask(model, folder, (40, 64, 64))  # noqa: E731
    monkeypatch.setattr(volumes, "first_mask", small)
    monkeypatch.setattr("benchmarks.evaluation.first_mask.ROUNDS", 1)
    assert volumes.main(["--sets", "first_mask"]) == 0
    *_, line = capsys.readouterr().out.splitlines()
    figures = json.loads(line)["first_mask"]
    told = ("", " over", " finished", " finished over")
    waits = [suffix + each for suffix in SUFFIXES for each in told]
    assert list(figures) == ["encode", "prompt", *waits]
    assert min(figures["encode"], figures[".nii"], figures[".nii.gz"]) > 0
