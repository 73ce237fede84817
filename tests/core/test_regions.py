"""Holes are filled and islands dropped alike, however an image is tiled."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from core.oracle import ArraySource, oracle_job, oracle_tools, paint, random_labels
from core.test_pipeline import Shuffled, fingerprint, same_partition, whole
from samplat import painting
from samplat.errors import InputError, JobError
from samplat.executors import OverlappingExecutor, SerialExecutor, ThreadsExecutor
from samplat.job import JobResult
from samplat.pipeline import run_job
from samplat.regions import BACKGROUND, find_regions, repaint
from samplat.shards import HOLE

EIGHT = np.ones((3, 3), int)


def mended(
    labels: NDArray[Any],
    drop: float = 0,
    fill: float = 0,
    valid: NDArray[np.bool_] | None = None,
) -> NDArray[Any]:
    """The same on a whole image, by its definition; `HOLE` is a hole of the job."""
    out = labels.copy()
    for name in np.unique(labels[(labels > 0) & (labels != HOLE)]):
        parts, count = ndimage.label(labels == name, EIGHT)
        areas = np.bincount(parts.ravel(), minlength=count + 1)[1:]
        main = 1 + int(np.argmax(areas))  # parts are numbered by their first pixels
        for part in range(1, count + 1):
            if part != main and areas[part - 1] < drop:
                out[parts == part] = 0
    known = np.ones(labels.shape, bool) if valid is None else valid
    patches, count = ndimage.label((out == 0) & known)
    walled = np.pad(np.where(known, out, HOLE), 1, constant_values=HOLE)
    holes = out.copy()
    for k in range(1, count + 1):
        patch = np.pad(patches == k, 1)
        beside = np.unique(walled[ndimage.binary_dilation(patch) & ~patch])
        if patch.sum() < fill and len(beside) == 1 and beside[0] != HOLE:
            holes[patches == k] = beside[0]
    return holes


@contextmanager
def segmented(
    labels: NDArray[Any], valid: NDArray[np.bool_] | None = None, **options: Any
) -> Iterator[JobResult]:
    """Labels that come out of a job over an image of them."""
    executor = options.pop("executor", SerialExecutor())
    with tempfile.TemporaryDirectory() as folder:
        tools = oracle_tools(image=ArraySource(paint(labels), valid))
        yield run_job(oracle_job(Path(folder), **options), tools=tools, executor=executor)


@st.composite
def scenes(draw: Any) -> NDArray[np.int64]:
    """Objects with specks, rings in rings, and each other's pixels in their midst."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = draw(st.tuples(st.integers(4, 30), st.integers(4, 30)))
    labels = random_labels(rng, shape, draw(st.integers(1, 20)), draw(st.integers(0, 20)))
    y, x = np.indices(shape)
    for _ in range(draw(st.integers(0, 4))):
        name, cy, cx = int(rng.integers(0, 6)), rng.uniform(0, shape[0]), rng.uniform(0, shape[1])
        distance = (
            np.maximum(abs(y - cy), abs(x - cx))
            if rng.random() < 0.5
            else (np.hypot(y - cy, x - cx))
        )
        labels[(distance < 8) & (distance > rng.uniform(1, 7))] = name
    labels[rng.random(shape) < draw(st.sampled_from([0, 0.02, 0.2]))] = 0
    return labels


@given(
    labels=scenes(),
    drop=st.sampled_from([0, 2, 4, 9, 30, 10_000]),
    fill=st.sampled_from([0, 2, 5, 17, 60, 10_000]),
    across=st.integers(1, 3),
    holey=st.booleans(),
)
@settings(max_examples=40)
def test_tiled_equals_untiled(
    labels: NDArray[np.int64], drop: int, fill: int, across: int, holey: bool
) -> None:
    valid = None
    if holey:
        valid = np.random.default_rng(drop).random(labels.shape) < 0.97
        labels = np.where(valid, labels, 0)
    expected = mended(labels, drop, fill, valid)
    # each tile sees all of the image, so that objects are whole
    options = {
        "tile_size": 1 + max(labels.shape) // across,
        "halo": 40,
        "drop_islands": drop,
        "fill_holes": fill,
    }
    with segmented(labels, valid, **options) as result:
        found = whole(result)
        assert same_partition(found, expected)
        check_table(result, found)


def check_table(result: JobResult, labels: NDArray[Any]) -> None:
    """Areas, boxes and tiles of the table are those of the labels."""
    rows = result.objects.to_pylist()
    assert [r["id"] for r in rows] == list(range(1, int(labels.max(initial=0)) + 1))
    assert [r["area_px"] for r in rows] == np.bincount(labels.ravel())[1:].tolist()
    for row, (y, x) in zip(rows, ndimage.find_objects(labels.astype(int)), strict=True):
        assert (row["y0"], row["x0"], row["y1"], row["x1"]) == (y.start, x.start, y.stop, x.stop)
        assert (row["z0"], row["z1"]) == (0, 1)
    painters: dict[int, list[int]] = {r["id"]: [] for r in rows}
    for tile in result.grid:
        for name in np.unique(labels[tile.write.slices[1:]]):
            if name:
                painters[int(name)].append(tile.index)
    assert {r["id"]: r["tiles"] for r in rows} == painters


def ring(y: int, x: int, side: int, name: int, labels: NDArray[Any]) -> None:
    labels[y : y + side, x : x + side] = name
    labels[y + 1 : y + side - 1, x + 1 : x + side - 1] = 0


def rings() -> NDArray[np.int64]:
    """On tiles of 16: a ring over four of them, with a speck of its own and one of another inside;
    one at the image's edge that is open there; one with an invalid pixel in mind at (44, 8)."""
    labels = np.zeros((56, 56), np.int64)
    ring(10, 10, 12, 1, labels)
    labels[15:17, 15:17] = 1
    ring(0, 40, 8, 2, labels)
    labels[0, 41:47] = 0
    ring(40, 4, 9, 3, labels)
    labels[30:34, 30:45] = 4
    labels[32, 33] = 5
    labels[50, 50] = 4
    labels[36:40, 20:24] = 5
    return labels


@pytest.mark.parametrize(
    ("drop", "fill", "area", "islands"),
    [
        (0, 97, 144, 4),  # its speck leaves 96 of 100 pixels
        (0, 96, 48, 4),
        (5, 101, 144, 4),
        (5, 100, 44, 4),
        (4, 0, 48, 4),
        (5, 0, 44, 0),
    ],
)
def test_a_hole_and_an_island_over_a_corner_of_four_tiles(
    drop: int, fill: int, area: int, islands: int
) -> None:
    with segmented(rings(), drop_islands=drop, fill_holes=fill, halo=40) as result:
        labels = whole(result)
        name = labels[10, 10]
        assert (labels == name).sum() == area
        inside = {144: name, 48: name, 44: 0}[area]
        assert (labels[15:17, 15:17] == inside).all()
        assert result.objects["area_px"].to_pylist()[name - 1] == area


def test_what_one_object_leaves_in_another_is_filled_by_it() -> None:
    with segmented(rings(), drop_islands=2, fill_holes=2, halo=40) as result:
        labels = whole(result)
        assert labels[32, 33] == labels[30, 30] != 0
        assert labels[50, 50] == 0


def test_patches_at_the_edge_at_invalid_pixels_and_at_failed_tiles_are_no_holes() -> None:
    valid = np.ones((56, 56), bool)
    valid[44, 8] = False
    with segmented(rings(), valid, fill_holes=1000, halo=40) as result:
        labels = whole(result)
    assert labels[2, 42] == labels[43, 8] == labels[44, 9] == labels[44, 8] == 0
    assert labels[12, 12] == labels[10, 10]
    options = {"segmenter_options": {"poison": 7}}
    lost = rings()
    lost[24, 24] = 7
    with segmented(lost, fill_holes=1000, halo=4, **options) as result:
        labels = whole(result)
        assert (labels[16:32, 16:32] == HOLE).all()
        assert labels[12, 12] == 0
        assert labels[44, 8] == labels[40, 4] != 0


def test_a_dropped_object_is_judged_by_what_it_became() -> None:
    options = {"drop_islands": 5, "fill_holes": 101, "halo": 40}
    with segmented(rings(), **options, min_area=144) as result:
        assert result.objects["area_px"].to_pylist() == [144]
    with segmented(rings(), **options, max_area=143) as result:
        assert (whole(result)[10:22, 10:22] == 0).all()
        check_table(result, whole(result))


@pytest.mark.parametrize(
    "executor",
    [Shuffled(0), Shuffled(1), OverlappingExecutor(), ThreadsExecutor(workers=4)],
    ids=str,
)
def test_neither_order_nor_workers_change_a_byte(executor: Any) -> None:
    labels = random_labels(np.random.default_rng(3), (50, 61), 12, 60)
    options = {"drop_islands": 4, "fill_holes": 9}
    with segmented(labels, **options) as straight:
        expected = fingerprint(straight)
    with segmented(labels, **options, executor=executor) as other:
        assert fingerprint(other) == expected


def test_a_part_is_mended_within_itself(job_dir: Path) -> None:
    from samplat.tiles import Window

    labels = rings()
    window = Window(start=(0, 5, 9), stop=(1, 53, 56))
    valid = np.ones(labels.shape, bool)
    valid[44, 8:10] = False
    tools = oracle_tools(image=ArraySource(paint(labels), valid))
    given = oracle_job(job_dir, window=window, halo=40, drop_islands=5, fill_holes=101)
    part = np.where(valid, labels, 0)[5:53, 9:56]
    expected = mended(part, 5, 101, valid[5:53, 9:56])
    assert same_partition(whole(run_job(given, tools=tools)), expected)


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    "what", ["regions/000003.json", "seams/patches.arrow", "objects/000001.arrow"]
)
@pytest.mark.parametrize("harm", [Path.unlink, damage])
def test_a_rerun_mends_what_is_missing_or_damaged(what: str, harm: Any, job_dir: Path) -> None:
    tools = oracle_tools(image=ArraySource(paint(rings())))
    given = oracle_job(job_dir, drop_islands=5, fill_holes=101)
    expected = fingerprint(run_job(given, tools=tools))
    harm(job_dir / what)
    assert fingerprint(run_job(given, tools=tools)) == expected


def test_a_finished_job_surveys_nothing_again(
    job_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = ArraySource(paint(rings()))
    given = oracle_job(job_dir, drop_islands=5, fill_holes=101)
    expected = fingerprint(run_job(given, tools=oracle_tools(image=image)))
    assert image.closed
    monkeypatch.setattr(painting, "find_regions", None)
    assert fingerprint(run_job(given, tools=oracle_tools(image=image))) == expected


def test_other_jobs_are_what_they_were(job_dir: Path) -> None:
    tools = oracle_tools(image=ArraySource(paint(rings())))
    result = run_job(oracle_job(job_dir), tools=tools)
    assert not list((job_dir / "regions").iterdir())
    assert not (job_dir / "seams" / "patches.arrow").exists()
    assert not {"fill_holes", "drop_islands"} & set(result.run.identity)
    with pytest.raises(JobError, match="fill_holes is None there, 3 here"):
        run_job(replace(result.job, fill_holes=3), tools=tools)


def test_an_image_that_cannot_be_read_again_ends_the_run(job_dir: Path) -> None:
    class Fading(ArraySource):
        left = 16

        def read(self, window: Any) -> Any:
            self.left -= 1
            if self.left < 0:
                raise OSError("gone")
            return super().read(window)

    image = Fading(paint(rings()))
    given = oracle_job(job_dir, fill_holes=101)
    with pytest.raises(JobError, match=r"cannot be read again, .* of tile \d+ are valid: gone"):
        run_job(given, tools=oracle_tools(image=image))
    image.left = 10_000
    resumed = run_job(given, tools=oracle_tools(image=image))
    assert (whole(resumed)[10:22, 10:22] > 0).all()


@pytest.mark.parametrize("name", ["fill_holes", "drop_islands"])
def test_negative_areas_are_refused(name: str, job_dir: Path) -> None:
    tools = oracle_tools(image=ArraySource(paint(rings())))
    with pytest.raises(InputError, match=f"{name} must be at least 0, got -1"):
        run_job(oracle_job(job_dir, **{name: -1}), tools=tools)


@given(st.integers(0, 2**32), st.integers(1, 12), st.integers(1, 12), st.booleans())
def test_regions_are_those_of_scipy(seed: int, height: int, width: int, background: bool) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, (height, width)).astype(np.uint32)
    ids = np.array([70, 80, 90], np.uint64)
    found, image = find_regions(labels, ids, background=background)
    expected, count = np.zeros(labels.shape, int), 0
    for name in range(0 if background else 1, 4):
        parts, more = ndimage.label(labels == name)
        expected[parts > 0] = parts[parts > 0] + count
        count += more
    assert len(found) == count
    assert same_partition(image, expected)
    assert found.areas.tolist() == np.bincount(image.ravel(), minlength=count + 1)[1:].tolist()
    assert image.ravel()[found.firsts].tolist() == list(range(1, count + 1))
    assert (np.diff(found.firsts) > 0).all()
    owners = np.array([BACKGROUND, 70, 80, 90], np.uint64)[labels.ravel()[found.firsts]]
    assert found.owners.tolist() == owners.tolist()
    for box, (y, x) in zip(found.boxes.tolist(), ndimage.find_objects(image), strict=True):
        assert box == [y.start, x.start, y.stop, x.stop]
    sides, corners = meetings(image, labels)
    assert set(map(tuple, found.sides.tolist())) == sides
    assert set(map(tuple, found.corners.tolist())) == corners - sides
    assert len(found.sides) == len(sides)


def meetings(image: NDArray[Any], labels: NDArray[Any]) -> tuple[set[Any], set[Any]]:
    sides, corners = set(), set()
    for y, x in np.ndindex(*image.shape):
        for dy, dx, kind in ((0, 1, sides), (1, 0, sides), (1, 1, corners), (1, -1, corners)):
            other = y + dy, x + dx
            if not (other[0] < image.shape[0] and 0 <= other[1] < image.shape[1]):
                continue
            a, b = sorted((int(image[y, x]), int(image[other])))
            if a and a != b and (kind is sides or (labels[y, x] and labels[other])):
                kind.add((a - 1, b - 1))
    return sides, corners


@given(st.integers(0, 2**32), st.integers(1, 12), st.integers(1, 12))
def test_a_region_is_repainted_whole_and_alone(seed: int, height: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, (height, width)).astype(np.uint32)
    found, image = find_regions(labels, np.zeros(2, np.uint64), background=True)
    chosen = np.flatnonzero(rng.random(len(found)) < 0.5)
    expected = labels.copy()
    for k, region in enumerate(chosen):
        expected[image == region + 1] = 10 + k
    repaint(labels, found.firsts[chosen], 10)
    assert np.array_equal(labels, expected)
