from __future__ import annotations

import functools
import pickle
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray
from scipy import ndimage

from core.oracle import ArraySource, OracleFactory, oracle_job, oracle_tools, paint, random_labels
from samplat import naming, segmenting
from samplat.attempts import TriedTask
from samplat.errors import InputError, JobError
from samplat.executors import (
    Executor,
    OverlappingExecutor,
    SerialExecutor,
    ThreadsExecutor,
    ThreadsFactory,
)
from samplat.files import sha256
from samplat.job import JobResult, plan
from samplat.labelling import PaintTask
from samplat.masks import MaskSet, mask_set
from samplat.matching import SeamTask
from samplat.pipeline import run_job
from samplat.pixels import PercentileRescaler
from samplat.plugins import Registry
from samplat.progress import Silent
from samplat.rehearsal import rehearse
from samplat.segmenting import TileWork
from samplat.shards import HOLE
from samplat.tiles import Tile, Window
from samplat.workbench import Bench

T = TypeVar("T")


def whole(result: JobResult) -> NDArray[np.uint32]:
    """All labels (y, x)."""
    return result.labels(Window(start=(0, 0, 0), stop=result.info.shape))[0]


def same_partition(a: NDArray[Any], b: NDArray[Any]) -> bool:
    """Equal up to the names of the labels, with 0 named 0."""
    pairs = np.unique(np.stack([a.ravel(), b.ravel()]), axis=1)
    one_to_one = len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1]
    return one_to_one and bool((np.equal(*(pairs == 0))).all())


def fingerprint(result: JobResult) -> str:
    """Digest of the label files and of the table of objects."""
    found = sorted(p for p in result.labels_path.rglob("*") if p.is_file())
    content = [sha256(p.read_bytes()) for p in found]
    return sha256("".join([*content, str(result.objects.to_pylist())]).encode())


def scene(seed: int = 0, shape: tuple[int, int] = (50, 61)) -> NDArray[np.int64]:
    return random_labels(np.random.default_rng(seed), shape, 12, 60)


@dataclass(frozen=True)
class Shuffled:
    seed: int

    def map(self, task: Callable[[int], T], indices: Sequence[int]) -> Iterator[T]:
        order = np.random.default_rng(self.seed).permutation(len(indices))
        return (task(indices[i]) for i in order)


@pytest.mark.parametrize("batch", range(10))
def test_tiled_equals_untiled_with_an_oracle(batch: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(batch)
    for k in range(20):
        height, width = (int(v) for v in rng.integers(8, 48, 2))
        largest = int(rng.integers(1, 24))
        labels = random_labels(rng, (height, width), largest, int(rng.integers(0, 50)))
        tile_size, halo = int(rng.integers(12, 40)), largest // 2 + int(rng.integers(1, 6))
        job = oracle_job(tmp_path / str(k), tile_size=tile_size, halo=halo)
        result = run_job(job, tools=oracle_tools(image=ArraySource(paint(labels))))
        case = f"{labels.shape} objects <= {largest}, tiles of {tile_size}, halo {halo}"
        assert same_partition(whole(result), labels), case
        assert not any(result.objects["truncated"].to_pylist()), case


def test_table_describes_the_labels(job_dir: Path) -> None:
    result = run_job(oracle_job(job_dir), tools=oracle_tools(image=ArraySource(paint(scene()))))
    labels, rows = whole(result), result.objects.to_pylist()
    assert [r["id"] for r in rows] == list(range(1, int(labels.max()) + 1))
    assert [r["area_px"] for r in rows] == np.bincount(labels.ravel())[1:].tolist()
    for row, (y, x) in zip(rows, ndimage.find_objects(labels.astype(int)), strict=True):
        assert (row["y0"], row["x0"], row["y1"], row["x1"]) == (y.start, x.start, y.stop, x.stop)


EXECUTORS: list[Executor] = [
    *(Shuffled(seed) for seed in range(6)),
    OverlappingExecutor(),
    OverlappingExecutor(ahead=3),
    ThreadsExecutor(workers=1),
    ThreadsExecutor(workers=2),
    ThreadsExecutor(workers=4),
]


@pytest.mark.parametrize("executor", EXECUTORS, ids=str)
def test_neither_order_nor_workers_change_a_byte(executor: Executor, tmp_path: Path) -> None:
    tools = oracle_tools(image=ArraySource(paint(scene())))
    straight = run_job(oracle_job(tmp_path / "a"), tools=tools)
    other = run_job(oracle_job(tmp_path / "b"), tools=tools, executor=executor)
    assert fingerprint(straight) == fingerprint(other)


def test_labels_are_a_plain_zarr_array_with_one_shard_per_tile(job_dir: Path) -> None:
    result = run_job(oracle_job(job_dir), tools=oracle_tools(image=ArraySource(paint(scene()))))
    array = zarr.open_array(result.labels_path, mode="r")
    assert array.shards == result.grid.tile_shape
    assert np.array_equal(np.asarray(array[0]), whole(result))
    files = [p for p in (result.labels_path / "c").rglob("*") if p.is_file()]
    assert len(files) == len(result.grid)


def test_windows_across_tiles_read_like_the_whole(job_dir: Path) -> None:
    result = run_job(oracle_job(job_dir), tools=oracle_tools(image=ArraySource(paint(scene()))))
    labels = whole(result)
    window = Window(start=(0, 5, 13), stop=(1, 47, 60))
    assert np.array_equal(result.labels(window)[0], labels[5:47, 13:60])
    for place, part in result.shards():
        assert np.array_equal(part, labels[None][place.slices])


def seen_by(tools: Registry) -> set[str]:
    """Digests of all that the segmenters of these tools were shown."""
    factory = tools.segmenter("oracle")
    assert isinstance(factory, OracleFactory)
    return {digest for oracle in factory.made for digest in oracle.digests}


@pytest.mark.parametrize("seed", range(6))
def test_samgeo_522_results_do_not_depend_on_the_part_that_is_asked_for(
    seed: int, tmp_path: Path
) -> None:
    """Of a part, the segmenter sees tiles of the whole, and every pixel is in the same object."""
    rng = np.random.default_rng(seed)
    image = ArraySource(paint(scene(seed)), rng.random((50, 61)) > 0.02 * (seed % 2))
    tools, tools_of_part = oracle_tools(image=image), oracle_tools(image=image)
    all_of_it = run_job(oracle_job(tmp_path / "whole"), tools=tools)
    (y0, y1), (x0, x1) = (sorted(rng.choice(n + 1, 2, replace=False)) for n in (50, 61))
    window = Window(start=(0, int(y0), int(x0)), stop=(1, int(y1), int(x1)))
    job = oracle_job(tmp_path / "part", window=window)
    part = run_job(job, tools=tools_of_part)
    assert part.info.shape == window.shape
    assert seen_by(tools_of_part) <= seen_by(tools)
    assert same_partition(whole(part), all_of_it.labels(window)[0])
    raw = np.asarray(zarr.open_array(part.labels_path, mode="r"))
    _, dy, dx = part.grid.lead
    assert np.array_equal(raw[0, dy:, dx:], whole(part))
    assert (raw[0, :dy] == HOLE).all()
    again = run_job(job, tools=oracle_tools(image=image))
    assert fingerprint(again) == fingerprint(part)


def test_objects_that_leave_the_part_are_truncated(job_dir: Path) -> None:
    labels = lone({1: (slice(20, 30), slice(4, 9)), 2: (slice(12, 14), slice(2, 9))})
    window = Window(start=(0, 10, 1), stop=(1, 25, 48))
    tools = oracle_tools(image=ArraySource(paint(labels)))
    result = run_job(oracle_job(job_dir, tile_size=48, window=window), tools=tools)
    rows = [(r["y0"], r["x0"], r["area_px"], r["truncated"]) for r in result.objects.to_pylist()]
    assert rows == [(10, 3, 25, True), (2, 1, 14, False)]


def test_the_stretch_of_a_part_is_that_of_the_whole(job_dir: Path) -> None:
    ramp = np.arange(3000, dtype=np.uint16).reshape(50, 60, 1)
    tools = oracle_tools(image=ArraySource(ramp))
    tools.add("rescalers", "test", PercentileRescaler())
    job = replace(oracle_job(job_dir), rescaler="percentile")
    part = replace(job, window=Window(start=(0, 40, 2), stop=(1, 50, 30)))
    assert plan(part, tools).stretch == plan(job, tools).stretch
    assert plan(part, tools).info.index_to_world[0] == (1, 0, 0, 2)
    assert plan(part, tools).info.index_to_world[1] == (0, 1, 0, 40)
    assert plan(part, tools).identity != plan(job, tools).identity


def test_a_window_outside_of_the_image_is_refused(job_dir: Path) -> None:
    tools = oracle_tools(image=ArraySource(paint(scene())))
    window = Window(start=(0, 40, 2), stop=(1, 51, 30))
    with pytest.raises(InputError, match="expected a part of the scene"):
        run_job(oracle_job(job_dir, window=window), tools=tools)
    assert not job_dir.exists()


def test_tiles_without_data_are_skipped_and_masks_are_cut_to_valid_pixels(job_dir: Path) -> None:
    valid = np.ones((50, 61), bool)
    valid[:30, :40] = False
    tools = oracle_tools(image=ArraySource(paint(scene()), valid))
    result = run_job(oracle_job(job_dir), tools=tools)
    assert [t.index for t in result.skipped] == [0, 1]
    assert same_partition(whole(result), np.where(valid, scene(), 0))
    factory = tools.segmenter("oracle")
    assert isinstance(factory, OracleFactory)
    assert len(factory.made[0].seen) == len(result.grid) - 2


def test_not_finite_pixels_are_not_valid(job_dir: Path) -> None:
    image = paint(scene()).astype(np.float32)
    image[10:20, 10:20, 1] = np.nan
    image[30:40, 5:9, 0] = np.inf
    result = run_job(oracle_job(job_dir), tools=oracle_tools(image=ArraySource(image)))
    expected = np.where(np.isfinite(image).all(axis=-1), scene(), 0)
    assert same_partition(whole(result), expected)


def test_an_image_without_data_has_no_objects_and_says_so(job_dir: Path) -> None:
    nothing = ArraySource(paint(scene()), np.zeros((50, 61), bool))
    result = run_job(oracle_job(job_dir), tools=oracle_tools(image=nothing))
    assert not whole(result).any()
    assert result.objects.num_rows == 0
    assert "no valid pixel" in result.warnings[0]


def poisoned(job_dir: Path, labels: NDArray[np.int64], name: int | None) -> JobResult:
    tools = oracle_tools(image=ArraySource(paint(labels)))
    made = tools.segmenter("oracle")
    assert isinstance(made, OracleFactory)
    create = made.create
    object.__setattr__(made, "create", lambda model, **o: replace(create(model, **o), poison=name))
    return run_job(oracle_job(job_dir, halo=4), tools=tools)


def lone(name_at: dict[int, tuple[slice, slice]]) -> NDArray[np.int64]:
    labels = np.zeros((48, 48), np.int64)
    for name, place in name_at.items():
        labels[place] = name
    return labels


POISON = lone(
    {
        1: (slice(22, 25), slice(22, 25)),  # in tile 4 alone
        2: (slice(2, 8), slice(2, 8)),  # far away
        3: (slice(20, 24), slice(6, 18)),  # reaches into tile 4
    }
)


def test_a_poison_tile_is_a_hole_and_the_rest_completes(job_dir: Path) -> None:
    result = poisoned(job_dir, POISON, 1)
    assert [(t.index, t.attempts) for t in result.quarantined] == [(4, 3)]
    assert "object 1 is poison" in str(result.quarantined[0].error)
    labels = whole(result)
    assert (labels[16:32, 16:32] == HOLE).all()
    assert (labels == HOLE).sum() == 256
    assert "1 of 9 tiles failed" in result.warnings[0]
    rows = {tuple(r["tiles"]): r["truncated"] for r in result.objects.to_pylist()}
    assert rows == {(0,): False, (3,): True}
    raw = zarr.open_array(result.labels_path, mode="r")
    assert np.array_equal(np.asarray(raw[0]), labels)


@pytest.mark.slow
def test_ten_bad_tiles_of_five_hundred_are_holes_and_the_rest_is_as_it_was(tmp_path: Path) -> None:
    shape = (160, 200)
    labels = np.zeros(shape, np.int64)
    for index in range(500):  # one object inside of each tile
        y, x = divmod(index, 25)
        labels[8 * y + 2 : 8 * y + 6, 8 * x + 2 : 8 * x + 6] = index + 1
    bad = np.random.default_rng(0).choice(500, 10, replace=False)
    valid = np.ones(shape, bool)
    tools = oracle_tools(image=ArraySource(paint(labels), valid))

    class Picky(OracleFactory):
        def create(self, model: str | None, **options: Any) -> Any:
            def segment(pixels: NDArray[np.uint8], valid: NDArray[np.bool_]) -> MaskSet:
                name = int((pixels[4, 4].astype(int) << np.array([0, 8, 16])).sum())
                if name - 1 in bad:
                    raise ValueError(f"object {name} is poison")
                return mask_set((pixels.any(axis=-1) & valid)[None])

            return segment

    tools.add("segmenters", "test", Picky(name="picky"))
    job = replace(oracle_job(tmp_path / "job", tile_size=8, halo=0), segmenter="picky")
    result = run_job(job, tools=tools)
    assert sorted(t.index for t in result.quarantined) == sorted(bad.tolist())
    assert {t.attempts for t in result.quarantined} == {3}
    ids, lost = whole(result), np.isin(labels, bad + 1).astype(bool)
    assert (ids == HOLE).sum() == 10 * 64
    assert (ids[lost] == HOLE).all()
    kept = np.where(ids == HOLE, 0, labels)
    assert same_partition(np.where(ids == HOLE, 0, ids), kept)


def test_ids_past_the_largest_of_32_bits_are_of_64(
    job_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = oracle_tools(image=ArraySource(paint(scene())))
    small = run_job(oracle_job(job_dir.with_name("small")), tools=tools)
    few = functools.partial(naming.final_ids, hole=5)
    monkeypatch.setattr(naming, "final_ids", few)
    result = run_job(oracle_job(job_dir), tools=tools)
    assert result.dtype == np.uint64
    assert whole(result).dtype == np.uint64
    plain = whole(small).astype(np.int64)
    assert plain.max() > 5
    assert np.array_equal(whole(result), plain + (plain >= 5))
    assert result.objects["id"].to_pylist() == [i for i in range(1, plain.max() + 2) if i != 5]
    raw = zarr.open_array(result.labels_path, mode="r")
    assert (raw.dtype, int(raw.fill_value)) == (np.uint64, HOLE)
    assert np.array_equal(np.asarray(raw[0]), whole(result))


def test_a_quarantined_tile_is_tried_again_by_the_next_run(job_dir: Path) -> None:
    poisoned(job_dir, POISON, 1)
    before = (job_dir / "tiles" / "000000.json").stat().st_mtime_ns
    result = poisoned(job_dir, POISON, None)
    assert not result.quarantined
    assert same_partition(whole(result), POISON)
    assert (job_dir / "tiles" / "000000.json").stat().st_mtime_ns == before
    clean = run_job(
        oracle_job(job_dir.parent / "clean", halo=4),
        tools=oracle_tools(image=ArraySource(paint(POISON))),
    )
    assert fingerprint(result) == fingerprint(clean)


def test_when_every_tile_fails_the_job_fails(job_dir: Path) -> None:
    with pytest.raises(JobError, match=r"every tile failed.*object 1 is poison"):
        poisoned(job_dir, np.ones((20, 20), np.int64), 1)


@dataclass
class Flaky:
    failures: int

    def __call__(self, pixels: NDArray[np.uint8], valid: NDArray[np.bool_]) -> MaskSet:
        self.failures -= 1
        if self.failures >= 0:
            raise MemoryError("for now")
        return mask_set((pixels[None, ..., 0] > 127) & valid[None])


@dataclass
class FlakyFactory:
    failures: int = 0
    name: str = "flaky"

    def create(self, model: str | None, **options: Any) -> Flaky:
        return Flaky(self.failures)

    def identity(self, model: str | None, **options: Any) -> Mapping[str, Any]:
        return {}


def one_square(job_dir: Path, failures: int = 0, **parameters: Any) -> JobResult:
    image = np.zeros((30, 30, 1), np.uint8)
    image[5:15, 8:20] = 255
    tools = oracle_tools(image=ArraySource(image))
    tools.add("segmenters", "test", FlakyFactory(failures))
    job = replace(oracle_job(job_dir, tile_size=64, **parameters), segmenter="flaky")
    return run_job(job, tools=tools)


def test_a_tile_gets_three_attempts(job_dir: Path) -> None:
    assert one_square(job_dir, failures=2).tiles[0].attempts == 3


@pytest.mark.parametrize("kind", ["reading", "segmenting"])
@pytest.mark.parametrize("executor", [SerialExecutor(), OverlappingExecutor()], ids=str)
def test_a_first_try_that_fails_counts(
    job_dir: Path, executor: Executor, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, failed = ArraySource(paint(scene())), []
    name = {"reading": "read_tile", "segmenting": "find_objects"}[kind]
    real = getattr(segmenting, name)

    def once(bench: Bench, tile: Tile, *more: Any) -> Any:
        if tile.index == 1 and not failed:
            failed.append(tile)
            raise OSError("a bad moment")
        return real(bench, tile, *more)

    monkeypatch.setattr(segmenting, name, once)
    result = run_job(oracle_job(job_dir), tools=oracle_tools(image=image), executor=executor)
    assert [t.attempts for t in result.tiles] == [2 if t.index == 1 else 1 for t in result.tiles]
    assert same_partition(whole(result), scene())


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_an_enlarged_tile_gives_masks_of_the_image(scale: int, job_dir: Path) -> None:
    labels = whole(one_square(job_dir, scales=(scale,)))
    assert labels.sum() == labels[5:15, 8:20].sum() == 120


@dataclass(frozen=True)
class OfASize:
    """Finds bright patches whose longer side is shown with 12 to 23 pixels, as a model might."""

    shown: list[tuple[int, ...]]

    def __call__(self, pixels: NDArray[np.uint8], valid: NDArray[np.bool_]) -> MaskSet:
        self.shown.append(valid.shape)
        patches, count = ndimage.label(pixels[..., 0] > 127)
        sides = [max(s.stop - s.start for s in place) for place in ndimage.find_objects(patches)]
        fitting = [i + 1 for i in range(count) if 12 <= sides[i] < 24]
        return mask_set(patches[None] == np.array(fitting, int)[:, None, None])


@dataclass
class OfASizeFactory:
    name: str = "of a size"
    shown: list[tuple[int, ...]] = field(default_factory=list)

    def create(self, model: str | None, **options: Any) -> OfASize:
        return OfASize(self.shown)

    def identity(self, model: str | None, **options: Any) -> Mapping[str, Any]:
        return {}


def patches(seed: int, shape: tuple[int, int] = (150, 170)) -> NDArray[np.int64]:
    """Rectangles that do not touch, with longer sides of 3 to 23 pixels."""
    rng, labels = np.random.default_rng(seed), np.zeros(shape, np.int64)
    for _ in range(200):
        h, w = rng.integers(3, 24, 2)
        y, x = rng.integers(0, shape[0] - h + 1), rng.integers(0, shape[1] - w + 1)
        if not labels[max(0, y - 2) : y + h + 2, max(0, x - 2) : x + w + 2].any():
            labels[y : y + h, x : x + w] = labels.max() + 1
    return labels


@pytest.mark.parametrize("scales", [(2,), (1, 2), (1, 2, 4), (2, 4), (1, 3)])
@pytest.mark.parametrize("seed", range(1))
def test_what_a_model_sees_at_any_of_the_scales_is_found_once(
    seed: int, scales: tuple[int, ...], tmp_path: Path
) -> None:
    truth, factory = patches(seed), OfASizeFactory()
    image = ArraySource((255 * (truth[..., None] > 0)).astype(np.uint8))
    tools = oracle_tools(image=image)
    tools.add("segmenters", "test", factory)
    job = oracle_job(tmp_path, tile_size=48, halo=24, scales=scales)
    result = run_job(replace(job, segmenter="of a size"), tools=tools)
    sides = [0] + [max(s.stop - s.start for s in p) for p in ndimage.find_objects(truth)]
    seen = [any(12 <= side * scale < 24 for scale in scales) for side in sides]
    assert same_partition(whole(result), np.where(np.array(seen)[truth], truth, 0))
    assert not any(result.objects["truncated"].to_pylist())
    # all views have as many pixels, but for what is added to make tiles divisible
    assert max(max(s) for s in factory.shown) <= min(scales) * 96 + 3 * max(scales)


def test_a_part_is_seen_alike_at_several_scales(tmp_path: Path) -> None:
    truth = patches(5)
    image = ArraySource((255 * (truth[..., None] > 0)).astype(np.uint8))
    window = Window(start=(0, 31, 50), stop=(1, 120, 133))
    found = []
    for part in (None, window):
        tools = oracle_tools(image=image)
        tools.add("segmenters", "test", OfASizeFactory())
        job = oracle_job(tmp_path / str(part), tile_size=48, halo=24, scales=(1, 2), window=part)
        found.append(run_job(replace(job, segmenter="of a size"), tools=tools))
    assert same_partition(whole(found[1]), found[0].labels(window)[0])


def test_small_objects_are_dropped_after_merging(job_dir: Path) -> None:
    labels = lone({1: (slice(10, 22), slice(15, 17)), 2: (slice(40, 44), slice(40, 45))})
    tools = oracle_tools(image=ArraySource(paint(labels)))
    result = run_job(oracle_job(job_dir, min_area=21), tools=tools)
    assert result.objects["area_px"].to_pylist() == [24]
    assert same_partition(whole(result), np.where(labels == 1, 1, 0))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"tile_size": 0}, "tile_size must be at least 1, got 0"),
        ({"halo": -1}, "halo must be at least 0"),
        ({"scales": (2, 0)}, "scale must be at least 1"),
        ({"scales": ()}, "scale must be at least 1"),
        ({"scales": (2, 2)}, "expected scales that differ"),
        ({"overlaps": "first"}, "best, small or large"),
    ],
)
def test_impossible_parameters(parameters: dict[str, Any], message: str, job_dir: Path) -> None:
    tools = oracle_tools(image=ArraySource(paint(scene())))
    with pytest.raises(InputError, match=message):
        plan(oracle_job(job_dir, **parameters), tools)
    assert not job_dir.exists()


@pytest.mark.parametrize("image", [np.ones((4, 4, 1), complex), np.ones((0, 4, 1))])
def test_unusable_images(image: NDArray[Any], job_dir: Path) -> None:
    with pytest.raises(InputError):
        run_job(oracle_job(job_dir), tools=oracle_tools(image=ArraySource(image)))
    assert not job_dir.exists()


def test_a_finished_job_computes_nothing_again(job_dir: Path) -> None:
    tools = oracle_tools(image=ArraySource(paint(scene())))
    first = run_job(oracle_job(job_dir), tools=tools)
    before = {p: p.stat().st_mtime_ns for p in job_dir.rglob("*.*") if p.suffix != ".lock"}
    again = run_job(oracle_job(job_dir), tools=tools)
    changed = {p.name for p, t in before.items() if p.is_file() and p.stat().st_mtime_ns != t}
    assert changed <= {"zarr.json"}
    assert again.tiles == first.tiles
    factory = tools.segmenter("oracle")
    assert isinstance(factory, OracleFactory)
    assert len(factory.made) == 1


def test_another_job_is_refused_by_name_and_replaced_on_demand(job_dir: Path) -> None:
    tools = oracle_tools(image=ArraySource(paint(scene())))
    run_job(oracle_job(job_dir), tools=tools)
    other = oracle_job(job_dir, halo=9)
    with pytest.raises(JobError, match="halo is 8 there, 9 here"):
        run_job(other, tools=tools)
    assert run_job(other, tools=tools, overwrite=True).job.halo == 9


def test_a_segmenter_that_cannot_be_loaded_claims_nothing(job_dir: Path) -> None:
    tools = oracle_tools(image=ArraySource(paint(scene())))
    with pytest.raises(TypeError, match="wrong"):
        run_job(oracle_job(job_dir, segmenter_options={"wrong": 1}), tools=tools)
    assert not job_dir.exists()
    run_job(oracle_job(job_dir), tools=tools)
    kept = {p: p.read_bytes() for p in job_dir.rglob("*") if p.is_file()}
    with pytest.raises(TypeError, match="wrong"):
        run_job(oracle_job(job_dir, segmenter_options={"wrong": 1}), tools=tools, overwrite=True)
    assert {p: p.read_bytes() for p in job_dir.rglob("*") if p.is_file()} == kept


def test_a_refused_second_run_does_not_close_what_the_first_one_uses(job_dir: Path) -> None:
    tools = oracle_tools(image=ArraySource(paint(scene())))
    made = tools.segmenter("oracle")
    assert isinstance(made, OracleFactory)

    def second_run(stage: str, total: int) -> None:
        with pytest.raises(JobError, match="in use"):
            run_job(oracle_job(job_dir), tools=tools)

    first = Silent()
    first.start = second_run  # type: ignore[method-assign]
    run_job(oracle_job(job_dir), tools=tools, progress=first)
    assert len(made.made) == 1


def test_the_image_is_closed(job_dir: Path) -> None:
    source = ArraySource(paint(scene()))
    run_job(oracle_job(job_dir), tools=oracle_tools(image=source))
    assert source.closed


def test_jobs_and_tasks_pickle(job_dir: Path) -> None:
    tools = oracle_tools(image=ArraySource(paint(scene())))
    planned = plan(oracle_job(job_dir), tools)
    assert pickle.loads(pickle.dumps(planned)) == planned  # noqa: S301 our own
    work = TileWork(plan=planned, tools=tools)
    for given in (work, SeamTask(plan=planned), PaintTask(plan=planned, final="final")):
        task = pickle.loads(pickle.dumps(TriedTask(work=given)))  # noqa: S301 our own
        assert task.work.plan == planned


class Steps:
    """Three stages that say when they begin and end, and can be made to wait."""

    def __init__(self, fails: int | None = None) -> None:
        self.said: list[tuple[str, int]] = []
        self.fails = fails
        self.next_read = threading.Event()

    @property
    def stages(self) -> tuple[Callable[..., int], ...]:
        return self.read, self.work, self.write

    def __call__(self, index: int) -> int:
        raise AssertionError("its stages are to be used")

    def read(self, index: int) -> int:
        self.said.append(("read", index))
        if index == 1:
            self.next_read.set()
        return 10 * index

    def work(self, index: int, given: int) -> int:
        assert threading.current_thread() is threading.main_thread()
        assert self.next_read.wait(5), "the next one is not read meanwhile"
        if index == self.fails:
            raise JobError("no")
        self.said.append(("work", index))
        return given + 1

    def write(self, index: int, found: int) -> int:
        self.said.append(("write", index))
        return found


@pytest.mark.parametrize("ahead", [1, 2, 5])
def test_stages_overlap_and_no_more_wait_than_asked_for(ahead: int) -> None:
    steps, results = Steps(), []
    for result in OverlappingExecutor(ahead=ahead).map(steps, range(12)):
        results.append(result)
        read = sum(what == "read" for what, _ in steps.said)
        worked = sum(what == "work" for what, _ in steps.said)
        assert read - worked <= ahead + 1
        assert worked - len(results) <= ahead
    assert results == [10 * i + 1 for i in range(12)]
    for stage in ("read", "work", "write"):
        assert [i for what, i in steps.said if what == stage] == list(range(12))


def test_a_stage_that_fails_ends_the_run_without_reading_on() -> None:
    steps = Steps(fails=3)
    with pytest.raises(JobError):
        list(OverlappingExecutor().map(steps, range(50)))
    assert max(i for _, i in steps.said) <= 6


@pytest.mark.parametrize(
    "executor", [SerialExecutor(), OverlappingExecutor(), ThreadsExecutor(workers=3)], ids=str
)
def test_executors_run_everything_once_and_pass_on_errors(executor: Executor) -> None:
    assert sorted(executor.map(lambda i: i * i, range(50))) == [i * i for i in range(50)]

    def fail(index: int) -> int:
        raise JobError("no")

    with pytest.raises(JobError):
        list(executor.map(fail, range(50)))


def test_threads_need_a_worker() -> None:
    with pytest.raises(InputError, match="at least 1 worker"):
        ThreadsFactory().create(workers=0)


def test_a_rehearsal_works_on_a_tile_with_data_and_writes_nothing(job_dir: Path) -> None:
    valid = np.zeros((50, 61), bool)
    valid[40:, 50:] = True
    tools = oracle_tools(image=ArraySource(paint(scene()), valid))
    planned = plan(oracle_job(job_dir), tools)
    one = rehearse(planned, tools)
    assert one is not None
    assert one.seconds > 0
    assert one.peak_bytes > 20 * 2**20
    more = rehearse(planned, tools, ahead=10_000)
    assert more is not None
    assert more.peak_bytes - one.peak_bytes > 9_999 * 2 * 3 * 100
    assert not job_dir.exists()
    nothing = oracle_tools(image=ArraySource(paint(scene()), np.zeros((50, 61), bool)))
    assert rehearse(plan(oracle_job(job_dir), nothing), nothing) is None
