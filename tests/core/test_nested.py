"""All masks, whole: the same whatever the tiles, and the labels do not know of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from core.oracle import ArraySource, NpyFactory, oracle_job, paint
from core.test_pipeline import Shuffled, fingerprint, whole
from samplat.errors import InputError, JobError
from samplat.executors import Executor, SerialExecutor, ThreadsExecutor
from samplat.finished import open_result
from samplat.job import JobResult
from samplat.masks import MaskSet, Overlaps, mask_set
from samplat.merging import Groups
from samplat.nested_store import NestedStore
from samplat.nesting import MaskLinks, find_parents, group_masks, name_groups
from samplat.object_prompts import PromptSpec
from samplat.pipeline import run_job
from samplat.pixels import IdentityRescaler
from samplat.plugins import Registry

SHAPE = (70, 83)
BITS = 24
"""Masks of a scene: a pixel's colour has a bit for each."""


@dataclass(frozen=True)
class Bits:
    """The masks that a tile's colours tell, in an order that depends on the tile."""

    poison: int = -1
    forgets: int = -1
    of_width: int = 0

    def __call__(self, pixels: NDArray[np.uint8], valid: NDArray[np.bool_]) -> MaskSet:
        found = unpainted((pixels.astype(np.int64) << np.array([0, 8, 16])).sum(axis=-1))
        order = np.argsort(found.sum(axis=(1, 2)) % 7, kind="stable")
        order = order[found[order].any(axis=(1, 2))]
        if pixels.shape[1] == self.of_width:
            order = order[order != self.forgets]
        if self.poison in order:
            raise ValueError("poison")
        return mask_set(found[order], predicted_iou=(order * 5 % 11 + 1) / 12)


@dataclass(frozen=True)
class BitsFactory:
    name: str = "oracle"

    def create(self, model: str | None, **options: Any) -> Bits:
        return Bits(**options)

    def identity(self, model: str | None, **options: Any) -> Mapping[str, Any]:
        return {}


def unpainted(bits: NDArray[np.int64]) -> NDArray[np.bool_]:
    return (bits >> np.arange(BITS)[:, None, None] & 1).astype(bool)


def discs(seed: int, count: int = BITS) -> NDArray[np.bool_]:
    """Masks (N, y, x), all different: concentric discs, side by side and into each other."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    found: list[NDArray[np.bool_]] = []
    while len(found) < count:
        cy, cx = (rng.uniform(0, n) for n in SHAPE)
        for radius in rng.permutation([2, 4, 7, 11, 16])[: rng.integers(1, 5)]:
            disc = (y - cy) ** 2 + (x - cx) ** 2 < radius**2
            if disc.any() and not any((disc == other).all() for other in found):
                found.append(disc)
    return np.array(found[:count])


def tools(masks: NDArray[np.bool_], valid: NDArray[np.bool_] | None = None) -> Registry:
    bits = (masks.astype(np.int64) << np.arange(len(masks))[:, None, None]).sum(axis=0)
    found = Registry()
    found.add("sources", "test", NpyFactory(memory={"image": ArraySource(paint(bits), valid)}))
    found.add("segmenters", "test", BitsFactory())
    found.add("rescalers", "test", IdentityRescaler())
    return found


def run(
    masks: NDArray[np.bool_],
    job_dir: Path,
    *,
    executor: Executor | None = None,
    valid: NDArray[np.bool_] | None = None,
    **parameters: Any,
) -> JobResult:
    given = {"nested": True, "tile_size": 24, "halo": 12, **parameters}
    job = oracle_job(job_dir, **given)
    return run_job(job, tools=tools(masks, valid), executor=executor or SerialExecutor())


def drawn(result: JobResult) -> dict[int, NDArray[np.bool_]]:
    """All masks (y, x) by id, put together from the tiles."""
    assert result.nested is not None
    ids = result.nested["id"].to_pylist()
    found = {name: np.zeros(SHAPE, bool) for name in ids}
    for index in range(len(result.grid)):
        for row, box, pixels in result.nested_masks(index):
            found[ids[row]][box.slices[1:]] |= pixels
    return found


def forest(result: JobResult) -> dict[bytes, bytes | None]:
    """Every mask and its parent, whatever they are called."""
    assert result.nested is not None
    masks = {name: mask.tobytes() for name, mask in drawn(result).items()}
    pairs = zip(*(result.nested[n].to_pylist() for n in ("id", "parent_id")), strict=True)
    found = {masks[name]: masks.get(parent) for name, parent in pairs}
    assert len(found) == len(masks)
    return found


def expected(masks: NDArray[np.bool_]) -> dict[bytes, bytes | None]:
    """The same, from its definition."""
    found: dict[bytes, bytes | None] = {}
    for mask in masks:
        around = [m for m in masks if m.sum() > mask.sum()]
        around = [m for m in around if (m & mask).sum() >= 0.9 * mask.sum()]
        parent = min(around, key=lambda m: int(m.sum()), default=None)
        found[mask.tobytes()] = None if parent is None else parent.tobytes()
    return found


def everything(job_dir: Path) -> dict[str, bytes]:
    """What this stage left, byte by byte."""
    return {p.name: p.read_bytes() for p in sorted((job_dir / "nested").iterdir())}


@pytest.mark.parametrize("overlaps", ["best", "small", "large"])
@pytest.mark.parametrize("seed", range(2))
def test_all_masks_come_out_whole_with_their_parents(
    seed: int, overlaps: Overlaps, tmp_path: Path
) -> None:
    masks = discs(seed)
    tiled = run(masks, tmp_path / "tiled", overlaps=overlaps)
    untiled = run(masks, tmp_path / "untiled", overlaps=overlaps, tile_size=100)

    assert len(untiled.grid) == 1
    assert len(tiled.grid) == 12
    assert forest(untiled) == expected(masks)
    assert forest(tiled) == expected(masks)


@pytest.mark.parametrize("overlaps", ["best", "small", "large"])
@pytest.mark.parametrize("seed", range(2))
def test_labels_and_masks_have_the_same_ids(seed: int, overlaps: Overlaps, tmp_path: Path) -> None:
    masks = discs(seed)
    result = run(masks, tmp_path / "nested", overlaps=overlaps)
    flat = run(masks, tmp_path / "flat", overlaps=overlaps, nested=False)

    assert fingerprint(result) == fingerprint(flat)
    assert flat.nested is None
    assert flat.features is flat.objects
    assert not list((tmp_path / "flat" / "nested").iterdir())
    assert result.nested is not None
    found, labels = drawn(result), whole(result)
    ids, shown = result.objects["id"].to_pylist(), result.nested["label_ids"].to_pylist()
    hidden = [name for name in found if name not in ids]
    assert sorted(found) == list(found)
    assert hidden == list(range(len(ids) + 1, len(ids) + 1 + len(hidden)))
    # each pixel's label is told by a mask that covers it
    told = {name: np.zeros(SHAPE, bool) for name in ids}
    for own, names in zip(found, shown, strict=True):
        assert own in names or own in hidden
        for name in names:
            told[name] |= found[own]
    for name in ids:
        assert told[name][labels == name].all()
    areas = dict(zip(*(result.nested[n].to_pylist() for n in ("id", "area_px")), strict=True))
    assert areas == {name: mask.sum() for name, mask in found.items()}
    for row in result.nested.to_pylist():
        ys, xs = np.nonzero(found[row["id"]])
        box = [ys.min(), xs.min(), ys.max() + 1, xs.max() + 1]
        assert [row[n] for n in ("y0", "x0", "y1", "x1")] == box


def test_nothing_depends_on_the_order_of_tiles(tmp_path: Path) -> None:
    masks = discs(5)
    executors = [SerialExecutor(), ThreadsExecutor(workers=3), Shuffled(1), Shuffled(2)]
    made = []
    for k, executor in enumerate(executors):
        run(masks, tmp_path / str(k), executor=executor)
        made.append(everything(tmp_path / str(k)))
    assert all(each == made[0] for each in made)


@pytest.mark.parametrize("left", ["table", "groups", "links", "layers", "arrow", "damaged"])
def test_what_is_missing_or_damaged_is_made_again(left: str, tmp_path: Path) -> None:
    masks = discs(6)
    run(masks, tmp_path / "job")
    before = everything(tmp_path / "job")
    for path in (tmp_path / "job" / "nested").iterdir():
        if left in path.name:
            path.unlink()
        elif left == "damaged":
            path.write_bytes(path.read_bytes()[:-3] + b"???")
    run(masks, tmp_path / "job")
    assert everything(tmp_path / "job") == before


def test_a_finished_job_computes_nothing_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    masks = discs(6)
    run(masks, tmp_path / "job")
    for name in ("write_links", "write_groups", "write_layers", "write_table"):
        monkeypatch.setattr(NestedStore, name, None)
    run(masks, tmp_path / "job")
    with open_result(tmp_path / "job") as result:
        assert forest(result) == expected(masks)


def test_an_unfinished_job_is_not_exported(tmp_path: Path) -> None:
    run(discs(6), tmp_path / "job")
    (tmp_path / "job" / "nested" / "table.json").unlink()
    with pytest.raises(JobError, match="masks are not nested"), open_result(tmp_path / "job"):
        pass


def test_masks_end_where_data_ends(tmp_path: Path) -> None:
    masks = discs(7)
    valid = np.ones(SHAPE, bool)
    valid[20:40, 30:41] = False
    result = run(masks, tmp_path / "job", valid=valid)
    assert set(forest(result)) == {m.tobytes() for m in masks & valid if m.any()}


def test_masks_at_a_failed_tile_are_truncated(tmp_path: Path) -> None:
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    large, inner, other = (
        (abs(y - cy) < ry) & (abs(x - cx) < rx)
        for cy, ry, cx, rx in ((12, 8, 40, 30), (12, 4, 40, 6), (60, 4, 70, 4))
    )
    poison = (y > 64) & (x < 5)
    masks = np.array([large, inner, other, poison])
    whole_run = run(masks, tmp_path / "whole", overlaps="large")
    assert whole_run.nested is not None
    assert not any(whole_run.nested["truncated"].to_pylist())
    masks[0, 0:60, 20:30] |= True
    result = run(masks, tmp_path / "job", overlaps="large", segmenter_options={"poison": 3})
    assert [t.index for t in result.quarantined] == [8]
    assert result.nested is not None
    told = {
        row["area_px"]: row["truncated"]
        for row in result.nested.to_pylist()
        if row["area_px"] in (inner.sum(), other.sum())
    }
    assert told == {inner.sum(): False, other.sum(): False}
    assert sum(result.nested["truncated"].to_pylist()) == 1


def test_small_masks_are_dropped_but_not_small_objects_of_large_masks(tmp_path: Path) -> None:
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    ring = (abs(y - 30) < 12) & (abs(x - 40) < 12)
    inner = (abs(y - 30) < 11) & (abs(x - 40) < 12)
    speck = (abs(y - 60) < 2) & (abs(x - 60) < 2)
    masks = np.array([ring, inner, speck])
    result = run(masks, tmp_path / "job", overlaps="small", min_area=100)
    # of the ring too little shows to be an object, but it is a mask, and the parent of another
    assert result.objects["area_px"].to_pylist() == [inner.sum()]
    assert result.nested is not None
    assert result.nested.select(["id", "area_px", "parent_id"]).to_pylist() == [
        {"id": 1, "area_px": inner.sum(), "parent_id": 2},
        {"id": 2, "area_px": ring.sum(), "parent_id": None},
    ]


def test_a_mask_that_one_tile_did_not_find_is_shown_there(tmp_path: Path) -> None:
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    large = (abs(y - 12) < 11) & (abs(x - 24) < 20)
    inner = (abs(y - 12) < 5) & (abs(x - 24) < 8)
    options = {"forgets": 1, "of_width": 48}  # the second tile of the row sees more than the first
    result = run(np.array([large, inner]), tmp_path / "job", segmenter_options=options)
    assert forest(result) == {large.tobytes(): None, inner.tobytes(): large.tobytes()}


def test_groups_do_not_depend_on_the_order_of_links() -> None:
    rng = np.random.default_rng(3)
    counts = np.array([6, 5, 7, 4])
    tiles = rng.integers(0, 4, (60, 2))
    tiles = tiles[tiles[:, 0] < tiles[:, 1]]
    ranks = (rng.random(tiles.shape) * counts[tiles]).astype(np.uint64)
    ids = (tiles.astype(np.uint64) << np.uint64(32)) + ranks
    ious, shared = rng.choice([0.6, 0.8, 1.0], len(ids)), rng.integers(1, 4, len(ids))
    groups = group_masks(counts, MaskLinks(ids=ids, ious=ious, shared=shared))
    order = rng.permutation(len(ids))
    shuffled = MaskLinks(ids=ids[order], ious=ious[order], shared=shared[order])
    assert (groups.group == group_masks(counts, shuffled).group).all()
    assert groups.count < 22
    for index in range(4):
        mine = groups.of_tile(index)
        assert len(np.unique(mine)) == len(mine)


def test_ids_are_given_one_to_one_from_the_most_pixels_down() -> None:
    groups = Groups(starts=np.array([0, 6]), group=np.array([0, 0, 1, 1, 2, 3]), count=4)
    names, areas = np.array([1, 2, 2, 3, 0, 2], np.uint32), np.array([5, 9, 8, 1, 0, 20])
    named = name_groups(groups, names, areas)
    # 3 has most of 2, so that 0 is left with 1, and 1 with 3
    assert named.names.tolist() == [1, 2, 3, 0]
    assert named.groups.group.tolist() == [0, 0, 2, 2, 3, 1]
    assert list(zip(named.showing.tolist(), named.ids.tolist(), strict=True)) == [
        (0, 1),
        (0, 2),
        (1, 2),
        (2, 2),
        (2, 3),
    ]


def test_a_parent_is_the_smallest_larger_mask_around() -> None:
    areas = np.array([100, 50, 10, 10, 99])
    pairs = np.array([[0, 1], [0, 2], [1, 2], [2, 3], [0, 4], [0, 1]])
    shared = np.array([25, 10, 9, 10, 90, 20])
    # 1 lies in 0 by both of its parts; 2 in 1 by 90 %, not in its equal 3; 4 in 0 by 90.9 %
    assert find_parents(pairs, shared, areas).tolist() == [-1, 0, 1, -1, 0]


def test_prompts_are_not_nested(tmp_path: Path) -> None:
    job = oracle_job(tmp_path / "job", nested=True, prompts=PromptSpec(path="prompts.json"))
    factory = type("F", (BitsFactory,), {"takes_prompts": True})
    found = Registry()
    found.add("segmenters", "test", factory())
    with pytest.raises(InputError, match="leave out `nested`"):
        run_job(job, tools=found)
