"""Objects that only one of two tiles finds do not end at the border between them."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from core.oracle import ArraySource, Oracle, oracle_job, oracle_tools, paint, random_labels
from core.test_pipeline import EXECUTORS, fingerprint, whole
from core.test_seams import GRID, box, seen
from samplat.claims import Claims, find_claims
from samplat.executors import Executor, SerialExecutor
from samplat.job import JobResult
from samplat.masks import MaskSet
from samplat.objects import TileObjects
from samplat.pipeline import run_job
from samplat.seams import Beside, meet
from samplat.tiles import TileGrid


@dataclass(frozen=True)
class Forgetful:
    """An oracle that misses some objects, in each tile others."""

    share: float

    def __call__(self, pixels: NDArray[np.uint8], valid: NDArray[np.bool_]) -> MaskSet:
        found = Oracle()(pixels, valid)
        tile = zlib.crc32(pixels.tobytes())
        labels = (pixels.astype(np.int64) << np.array([0, 8, 16])).sum(axis=-1)
        names = np.unique(labels[labels > 0])
        dice = [zlib.crc32(f"{tile} {name}".encode()) / 2**32 for name in names]
        return found.select(np.array(dice) >= self.share)


@dataclass(frozen=True)
class ForgetfulFactory:
    name: str = "forgetful"

    def create(self, model: str | None, *, share: float) -> Forgetful:
        return Forgetful(share)

    def identity(self, model: str | None, **options: Any) -> Mapping[str, Any]:
        return {}


def forgetful(
    job_dir: Path,
    labels: NDArray[np.int64],
    share: float = 0.4,
    executor: Executor = SerialExecutor(),  # noqa: B008 it is frozen
    **parameters: Any,
) -> JobResult:
    tools = oracle_tools(image=ArraySource(paint(labels)))
    tools.add("segmenters", "test", ForgetfulFactory())
    job = oracle_job(job_dir, segmenter_options={"share": share}, **parameters)
    return run_job(replace(job, segmenter="forgetful"), tools=tools, executor=executor)


def owners(result: JobResult, labels: NDArray[np.int64], share: float) -> set[int]:
    """True objects that a tile both found and paints a part of."""
    found: set[int] = set()
    for tile in result.grid:
        pixels = paint(labels)[tile.read.slices[1:]]
        masks = Forgetful(share)(pixels, np.ones(pixels.shape[:2], bool))
        seen_here = labels[tile.read.slices[1:]][masks.to_labels() > 0]
        found |= set(np.intersect1d(seen_here, labels[tile.write.slices[1:]]).tolist())
    return found - {0}


@pytest.mark.parametrize("seed", range(6))
def test_what_one_tile_found_and_paints_comes_out_whole_and_once(seed: int, tmp_path: Path) -> None:
    rng, cut = np.random.default_rng(seed), 0
    for k in range(4):
        share = float(rng.uniform(0.2, 0.7))
        labels = random_labels(rng, (60, 60), 8, 60)
        result = forgetful(tmp_path / str(k), labels, share, halo=8)
        ids = whole(result)
        for name in owners(result, labels, share):
            inside = np.unique(ids[labels == name])
            assert len(inside) == 1, f"object {name} is in parts"
            assert inside[0] > 0
            assert (labels[ids == inside[0]] == name).all(), "two objects are one"
        assert not any(result.objects["truncated"].to_pylist())
        rows = result.objects.to_pylist()
        assert [r["area_px"] for r in rows] == np.bincount(ids.ravel())[1:].tolist()
        for row in rows:
            y, x = np.nonzero(ids == row["id"])
            assert (row["y0"], row["x0"]) == (y.min(), x.min())
            assert (row["y1"], row["x1"]) == (y.max() + 1, x.max() + 1)
            painters = {result.grid.index((0, *p)) for p in zip(y // 16, x // 16, strict=True)}
            assert row["tiles"] == sorted(painters)
        seams = [result.store.path / "seams" / f"{t.index:06d}.json" for t in result.tiles]
        cut += sum('"rles": []' not in path.read_text() for path in seams)
    assert cut, "nothing was claimed"


@pytest.mark.parametrize("executor", EXECUTORS[::2], ids=str)
def test_order_and_workers_do_not_matter(executor: Executor, tmp_path: Path) -> None:
    labels = random_labels(np.random.default_rng(3), (80, 80), 10, 90)
    straight = forgetful(tmp_path / "a", labels)
    assert fingerprint(forgetful(tmp_path / "b", labels, executor=executor)) == fingerprint(
        straight
    )


def test_lost_seams_are_found_again(tmp_path: Path) -> None:
    labels = random_labels(np.random.default_rng(3), (80, 80), 10, 90)
    straight = fingerprint(forgetful(tmp_path / "a", labels))
    for name in ("000003.json", "000007.json", "final.json", "final.arrow"):
        (tmp_path / "a" / "seams" / name).unlink()
        assert fingerprint(forgetful(tmp_path / "a", labels)) == straight


def claimed(mine: TileObjects, *theirs: TileObjects, matched: Sequence[int] = ()) -> Claims:
    beside = Beside.of(theirs)
    return find_claims(mine, beside, meet(mine, beside), np.array(matched, np.int64))


def claims(mine: NDArray[Any], theirs: NDArray[Any], *matched: int) -> Claims:
    """Of the right tile, on what the left one found; the border is at x = 20."""
    return claimed(seen(1, mine), seen(0, theirs), matched=matched)


def test_what_the_neighbour_does_not_see_is_painted_on() -> None:
    found = claims(box(), box((5, 15, 9, 24), (1, 1, 3, 3)))
    assert found.ids.tolist() == [0]
    assert found.areas.tolist() == [16]
    assert found.boxes.tolist() == [[0, 5, 20, 1, 9, 24]]
    assert found.labels(GRID[1].write)[0].sum() == 16
    assert not len(found.refused)


def test_its_own_objects_stay_and_what_is_mostly_covered_is_refused() -> None:
    assert claims(box((5, 22, 9, 30)), box((5, 15, 9, 24))).areas.tolist() == [8]
    refused = claims(box((4, 20, 9, 30)), box((4, 15, 10, 25)))
    assert (refused.ids.tolist(), refused.refused.tolist()) == ([], [0])


def test_what_both_found_is_not_claimed() -> None:
    assert not len(claims(box((5, 16, 9, 24)), box((5, 15, 9, 24)), 0).ids)


def test_what_the_neighbour_does_not_paint_is_not_claimed() -> None:
    assert not len(claims(box(), box((5, 21, 9, 24))).ids)


def test_an_end_that_nobody_saw_is_not_claimed() -> None:
    found = claims(box(), box((5, 15, 9, 40)))
    assert (found.ids.tolist(), found.refused.tolist()) == ([], [0])


def test_of_two_claims_the_smaller_id_wins() -> None:
    grid = TileGrid(shape=(1, 40, 40), tile_shape=(1, 20, 20), halo=(0, 6, 6))
    upper, lower = np.zeros((40, 40), int), np.zeros((40, 40), int)
    upper[16:24, 16:24] = 1  # of tile 1, reaching down
    lower[22:30, 16:24] = 1  # of tile 2, reaching to the right
    nothing = seen(3, np.zeros((40, 40), int), grid)
    one, two = (seen(i, n, grid) for i, n in ((1, upper), (2, lower)))
    found = claimed(nothing, one, two)
    assert found.ids.tolist() == [1 << 32, 2 << 32]
    assert found.areas.tolist() == [16, 24]
    assert found.labels(grid[3].write)[0, 2:4, :4].tolist() == [[1] * 4] * 2


def test_what_is_refused_is_truncated(tmp_path: Path) -> None:
    """One tile sees a field, the other one a different field in its place."""
    labels = np.zeros((16, 32), np.int64)
    labels[2:14, 4:22] = 1

    @dataclass(frozen=True)
    class Contrary(ForgetfulFactory):
        def create(self, model: str | None, **options: Any) -> Any:
            def segment(pixels: NDArray[np.uint8], valid: NDArray[np.bool_]) -> MaskSet:
                found = Oracle()(pixels, valid)
                if pixels[0, 0, 0] == 0 and pixels[5, 0, 0] == 1:  # the right tile begins inside
                    moved = found.to_arrays()
                    moved[:, 4:8] = False
                    moved[:, :, :6] = False
                    from samplat.masks import mask_set

                    return mask_set(moved)
                return found

            return segment

    tools = oracle_tools(image=ArraySource(paint(labels)))
    tools.add("segmenters", "test", Contrary())
    result = run_job(replace(oracle_job(tmp_path / "job"), segmenter="forgetful"), tools=tools)
    rows = result.objects.to_pylist()
    assert [(r["truncated"], r["tiles"]) for r in rows] == [(True, [0]), (True, [1])]
