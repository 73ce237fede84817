"""Prompts of a job: one object each, the same whatever the tiles, and none without a word."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from core.oracle import ArraySource, NpyFactory, oracle_tools
from samplat.answers import look
from samplat.errors import InputError, JobError
from samplat.executors import Executor, OverlappingExecutor, SerialExecutor, ThreadsExecutor
from samplat.job import JobResult, SegmentJob, plan
from samplat.masks import MaskSet, mask_set
from samplat.object_prompts import (
    FeaturePrompt,
    ObjectPrompt,
    PromptSpec,
    ScenePrompts,
    gather_prompts,
)
from samplat.pipeline import run_job
from samplat.pixels import IdentityRescaler, SourceSpec, identity_stretch
from samplat.plugins import Registry
from samplat.prompt_units import Sight, plan_units
from samplat.rehearsal import rehearse
from samplat.store import JobStore
from samplat.tiles import Window

POISON = 200


@dataclass(frozen=True)
class Connected:
    """Of the bright patches those that a prompt touches; a view with a `POISON` pixel fails."""

    seen: list[tuple[int, ...]] = field(default_factory=list)
    poison: list[int] = field(default_factory=list)

    def __call__(
        self, pixels: NDArray[np.uint8], valid: NDArray[np.bool_], asked: Sequence[ObjectPrompt]
    ) -> MaskSet:
        self.seen.append((len(asked), *pixels.shape[:2]))
        if np.isin(pixels[..., 0], self.poison).any():
            raise ValueError("poison")
        patches, count = ndimage.label(pixels[..., 0] > 127)
        masks = np.array([self._patch(patches, count, each) for each in asked])
        points = np.array([each.first_point for each in asked])
        return mask_set(masks, predicted_iou=0.5 + masks.mean(axis=(1, 2)) / 2, points=points)

    def _patch(
        self, patches: NDArray[np.int32], count: int, prompt: ObjectPrompt
    ) -> NDArray[np.bool_]:
        sizes = np.bincount(patches.ravel(), minlength=count + 1)
        if prompt.draft is not None:
            hits = np.bincount(patches[prompt.draft], minlength=count + 1)
            return np.isin(patches, np.flatnonzero(hits[1:] * 2 > sizes[1:]) + 1)
        limits = np.array(patches.shape[::-1]) - 1
        places = np.minimum(np.floor(prompt.points).astype(int), limits)
        if prompt.box is not None:
            x0, y0, x1, y1 = np.round(prompt.box).astype(int)
            inside = np.bincount(patches[y0:y1, x0:x1].ravel(), minlength=count + 1)
            inside[0] = 0
            chosen = {int(inside.argmax())} if inside.any() else set()
        else:
            chosen = {int(patches[y, x]) for x, y in places[prompt.labels == 1]}
        chosen -= {0} | {int(patches[y, x]) for x, y in places[prompt.labels == 0]}
        return np.isin(patches, list(chosen))


@dataclass(frozen=True)
class ConnectedFactory:
    name: str = "connected"
    takes_prompts: bool = True
    made: Connected = field(default_factory=Connected)

    def create(self, model: str | None, **options: Any) -> Connected:
        return self.made

    def identity(self, model: str | None, **options: Any) -> Mapping[str, Any]:
        return {}


@dataclass(frozen=True)
class Given:
    """The features that a test keeps under a name."""

    name: str = "given"
    features: dict[str, tuple[list[FeaturePrompt], pa.Table]] = field(default_factory=dict)

    def prompts(self, source: Any, path: str) -> ScenePrompts:
        return gather_prompts(*self.features[path], source.info.shape)


@dataclass(frozen=True)
class Scene:
    """An image (y, x) of bright patches, what is asked of it, and tools that know both."""

    bright: NDArray[np.uint8]
    features: list[FeaturePrompt]
    factory: ConnectedFactory = field(default_factory=ConnectedFactory)
    mask: NDArray[np.bool_] | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tools(self) -> Registry:
        tools, count = Registry(), len(self.features)
        image = ArraySource(np.repeat(self.bright[..., None], 3, axis=-1), mask=self.mask)
        rows = pa.table({"prompt_id": range(1, count + 1), **self.attributes})
        tools.add("sources", "test", NpyFactory(memory={"image": image}))
        tools.add("segmenters", "test", self.factory)
        tools.add("rescalers", "test", IdentityRescaler())
        tools.add("prompters", "test", Given(features={"some": (self.features, rows)}))
        return tools

    def run(
        self,
        job_dir: Path,
        *,
        window: int = 32,
        executor: Executor = SerialExecutor(),  # noqa: B008 it has no state
        overwrite: bool = False,
        **parameters: Any,
    ) -> JobResult:
        job = self.job(job_dir, window=window, **parameters)
        return run_job(job, tools=self.tools, executor=executor, overwrite=overwrite)

    def job(self, job_dir: Path, *, window: int = 32, **parameters: Any) -> SegmentJob:
        return SegmentJob(
            source=SourceSpec(path="image", factory="npy"),
            job_dir=str(job_dir),
            model=None,
            segmenter="connected",
            rescaler="none",
            prompts=PromptSpec(path="some", prompter="given", window=window),
            **{"tile_size": 32, "halo": 4, **parameters},
        )


def point(x: float, y: float, *, on: bool = True, of: Any = None) -> FeaturePrompt:
    return FeaturePrompt(points=np.array([[x, y]]), positive=on, object=of)


def box(x0: float, y0: float, x1: float, y1: float, *, of: Any = None) -> FeaturePrompt:
    return FeaturePrompt(points=np.zeros((0, 2)), box=np.array([x0, y0, x1, y1]), object=of)


def box_of(mask: NDArray[np.bool_]) -> FeaturePrompt:
    y, x = np.nonzero(mask)
    return box(x.min(), y.min(), x.max() + 1, y.max() + 1)


def patches(seed: int, shape: tuple[int, int], count: int, largest: int) -> NDArray[np.int32]:
    """Rectangles that do not touch, by number."""
    rng, bright = np.random.default_rng(seed), np.zeros(shape, bool)
    for _ in range(count):
        h, w = (int(v) for v in rng.integers(1, largest + 1, 2))
        y, x = (int(rng.integers(0, n - 1)) for n in shape)
        if not bright[max(0, y - 1) : y + h + 1, max(0, x - 1) : x + w + 1].any():
            bright[y : y + h, x : x + w] = True
    found: NDArray[np.int32] = ndimage.label(bright)[0].astype(np.int32)
    return found


def asked_for(truth: NDArray[np.int32], seed: int) -> list[FeaturePrompt]:
    """A point on each patch, or a box around it, in any order of patches."""
    rng, features = np.random.default_rng(seed), []
    for name in rng.permutation(truth.max()) + 1:
        y, x = (int(v) for v in rng.choice(np.argwhere(truth == name)))
        features.append(box_of(truth == name) if rng.random() < 0.5 else point(x + 0.5, y + 0.5))
    return features


def whole(result: JobResult) -> NDArray[np.uint32]:
    return result.labels(Window(start=(0, 0, 0), stop=result.info.shape))[0]


def fates(result: JobResult) -> list[str]:
    assert result.prompts is not None
    found: list[str] = result.prompts["fate"].to_pylist()
    return found


def scene_of(truth: NDArray[Any], features: list[FeaturePrompt], **parts: Any) -> Scene:
    return Scene(np.where(truth > 0, 255, 0).astype(np.uint8), features, **parts)


@given(
    seed=st.integers(0, 2**31),
    tile=st.integers(12, 60),
    window=st.integers(16, 48),
    scale=st.sampled_from([1, 2]),
)
@settings(max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_tiled_is_untiled(
    tmp_path_factory: pytest.TempPathFactory, seed: int, tile: int, window: int, scale: int
) -> None:
    """Whatever the windows, and for objects larger than they are."""
    truth = patches(seed, (50, 70), 12, 30)
    scene = scene_of(truth, asked_for(truth, seed))
    folder = tmp_path_factory.mktemp("jobs")
    tiled = scene.run(folder / "a", tile_size=tile, window=window, scales=(scale,))
    untiled = scene.run(folder / "b", tile_size=1000, window=window, scales=(scale,))
    assert np.array_equal(whole(tiled), whole(untiled))
    assert tiled.prompts.equals(untiled.prompts)


@given(seed=st.integers(0, 2**31), tile=st.integers(12, 60), window=st.integers(28, 60))
@settings(max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_fits_a_window_is_found_as_it_is(
    tmp_path_factory: pytest.TempPathFactory, seed: int, tile: int, window: int
) -> None:
    """Each object by its prompt, wherever it lies to windows and tiles."""
    truth = patches(seed, (60, 80), 25, 6)
    scene = scene_of(truth, asked_for(truth, seed))
    result = scene.run(tmp_path_factory.mktemp("job"), tile_size=tile, window=window)
    rank = np.zeros(truth.max() + 1, np.uint32)
    rank[np.random.default_rng(seed).permutation(truth.max()) + 1] = np.arange(1, truth.max() + 1)
    assert np.array_equal(whole(result), rank[truth])
    assert set(result.prompts["factor"].to_pylist()) == {1}


def test_what_is_too_thin_to_be_seen_from_afar_is_cut_and_not_lost(job_dir: Path) -> None:
    truth = np.zeros((40, 200), bool)
    truth[21] = True
    result = scene_of(truth, [point(100.5, 21.5)]).run(job_dir, window=32, scales=(2,))
    assert fates(result) == ["answered"]
    assert result.objects["truncated"].to_pylist() == [True]
    assert 16 <= whole(result)[21].sum() < 200


def test_an_object_longer_than_any_window_is_one_and_exact(job_dir: Path) -> None:
    """A road with a bend over 20 windows, asked for by a point at its end."""
    truth = np.zeros((200, 300), bool)
    truth[20:32, 10:290] = truth[20:190, 278:290] = True
    scene = scene_of(truth, [point(12.5, 25.5)])
    result = scene.run(job_dir, window=48)
    assert np.array_equal(whole(result), truth.astype(np.uint32))
    assert result.prompts is not None
    assert result.prompts["factor"].to_pylist() == [8]
    assert result.objects["truncated"].to_pylist() == [False]


def test_a_box_of_many_windows_is_answered_from_afar_and_refined(job_dir: Path) -> None:
    y, x = np.indices((260, 260))
    truth = np.hypot(y - 131.3, x - 124.7) < 101
    result = scene_of(truth, [box_of(truth)]).run(job_dir, window=32)
    assert np.array_equal(whole(result), truth.astype(np.uint32))


def test_a_point_on_endless_ground_ends_and_is_called_truncated(job_dir: Path) -> None:
    scene = scene_of(np.ones((40, 700)), [point(350, 20)])
    result = scene.run(job_dir, window=32, tile_size=128)
    labels = whole(result)
    assert result.objects["truncated"].to_pylist() == [True]
    assert 0 < labels.sum() < labels.size
    assert any("may go on outside" in note for note in result.prompts["note"].to_pylist())


def test_each_window_is_seen_once_however_many_ask(job_dir: Path) -> None:
    truth = np.zeros((64, 64), bool)
    truth[2:60:6, 2:60:6] = True
    places = [point(x + 0.5, y + 0.5) for y, x in np.argwhere(truth)]
    scene = scene_of(truth, places)
    scene.run(job_dir, window=32)
    seen = scene.factory.made.seen
    assert len(seen) == 16
    assert sum(count for count, *_ in seen) == len(places)


@given(
    seed=st.integers(0, 2**31),
    side=st.integers(1, 70),
    height=st.integers(1, 300),
    width=st.integers(1, 300),
)
def test_windows_lie_in_the_image_and_show_their_prompts(
    seed: int, side: int, height: int, width: int
) -> None:
    rng, shape = np.random.default_rng(seed), (1, height, width)
    features = []
    for _ in range(8):
        x, y = np.sort(rng.uniform(-20, width + 20, 2)), np.sort(rng.uniform(-20, height + 20, 2))
        small = point(x[0], y[0])
        features.append(small if rng.random() < 0.5 else box(x[0], y[0], x[1] + 1, y[1] + 1))
    prompts = gather_prompts(features, pa.table({"prompt_id": range(8)}), shape)
    sight = Sight(shape=shape, side=side)
    units = plan_units(prompts, sight)
    numbers = [number for unit in units for number in unit.prompts]
    assert sorted(numbers) == list(range(len(prompts)))
    bounds = Window(start=(0, 0, 0), stop=shape)
    for unit in units:
        assert bounds.contains(unit.window)
        assert all(n <= side * unit.factor for n in unit.window.shape[1:])
        for number in unit.prompts:
            assert sight.shows(unit.window, prompts[number].extent, unit.factor)
            alone = plan_units(
                gather_prompts(
                    [features[prompts.features["object"].to_pylist().index(number)]],
                    pa.table({"prompt_id": [0]}),
                    shape,
                ),
                sight,
            )
            assert (alone[0].window, alone[0].factor) == (unit.window, unit.factor)


def test_ids_are_in_the_order_of_the_prompts(job_dir: Path) -> None:
    truth = np.zeros((40, 40), bool)
    corners = [(30, 30), (2, 30), (30, 2), (2, 2)]
    for y, x in corners:
        truth[y : y + 5, x : x + 5] = True
    result = scene_of(truth, [point(x + 1, y + 1) for y, x in corners]).run(job_dir)
    assert [int(whole(result)[y, x]) for y, x in corners] == [1, 2, 3, 4]
    assert result.objects["prompt"].to_pylist() == [0, 1, 2, 3]


def test_features_of_one_object_are_one(job_dir: Path) -> None:
    """Two patches by two points; a third patch in the box is taken away by a negative point."""
    truth = np.zeros((32, 64), bool)
    truth[4:8, 4:8] = truth[4:8, 20:24] = truth[20:30, 40:60] = True
    features = [
        point(5, 5, of="a"),
        box(38, 18, 62, 31, of="b"),
        point(21, 5, of="a"),
        point(45, 25, on=False, of="b"),
    ]
    result = scene_of(truth, features, attributes={"kind": [None, "x", "y", "z"]}).run(job_dir)
    labels = whole(result)
    assert np.array_equal(labels > 0, truth & (np.indices(truth.shape)[0] < 10))
    assert np.unique(labels).tolist() == [0, 1]
    assert fates(result) == ["answered", "empty", "merged", "empty"]
    assert result.objects["prompt.kind"].to_pylist() == ["y"]


@pytest.mark.parametrize(
    "executor", [OverlappingExecutor(), ThreadsExecutor(workers=3)], ids=["overlapping", "threads"]
)
def test_executors_give_the_same(tmp_path: Path, executor: Executor) -> None:
    truth = patches(5, (90, 90), 30, 25)
    scene = scene_of(truth, asked_for(truth, 5))
    serial = scene.run(tmp_path / "a")
    other = scene.run(tmp_path / "b", executor=executor)
    assert np.array_equal(whole(serial), whole(other))
    assert str(serial.objects.to_pylist()) == str(other.objects.to_pylist())  # NaN is not NaN
    assert serial.prompts.equals(other.prompts)


def test_overlapping_answers_are_settled_as_asked(tmp_path: Path) -> None:
    """By the whole masks, not by what of them lies in a tile."""

    @dataclass(frozen=True)
    class Boxes(Connected):
        def _patch(self, patches: Any, count: int, prompt: ObjectPrompt) -> Any:
            mask = np.zeros(patches.shape, bool)
            x0, y0, x1, y1 = np.round(prompt.box).astype(int)
            mask[y0:y1, x0:x1] = True
            return mask

    large, small = box(0, 0, 14, 20), box(10, 2, 24, 10)
    scene = scene_of(np.zeros((24, 30)), [large, small], factory=ConnectedFactory(made=Boxes()))
    shared = np.s_[3:9, 11:13]
    for overlaps, winner in (("large", 1), ("small", 2), ("best", 1)):
        labels = whole(scene.run(tmp_path / overlaps, overlaps=overlaps, tile_size=7))
        assert (labels[shared] == winner).all()
    hidden = [box(4, 4, 8, 8), box(0, 0, 20, 20)]
    scene = scene_of(np.zeros((24, 30)), hidden, factory=ConnectedFactory(made=Boxes()))
    result = scene.run(tmp_path / "hidden", overlaps="large")
    assert fates(result) == ["hidden", "answered"]
    assert any("all pixels went to other objects" in told for told in result.warnings)


def test_no_prompt_is_dropped_without_a_word(job_dir: Path) -> None:
    truth = np.zeros((30, 40), bool)
    truth[:6, :6] = truth[20:25, 20:25] = True
    features = [
        box(-5, -5, 7, 7),
        box(100, 0, 120, 10),
        point(22, 21),
        point(-3, 4),
        point(10, 10),
        point(39.9, 40),
    ]
    mask = np.ones((30, 40), bool)
    mask[22:, :] = False
    result = scene_of(truth, features, mask=mask).run(job_dir)
    assert fates(result) == ["clipped", "outside", "answered", "outside", "empty", "outside"]
    assert result.prompts["id"].to_pylist() == [1, None, 2, None, None, None]
    assert np.array_equal(whole(result) > 0, truth & mask)
    told = " ".join(result.warnings)
    for part in (
        "1 of 6 prompts: cut to the image: 1",
        "3 of 6 prompts: outside of the image: 2, 4, 6",
        "1 of 6 prompts: nothing was found there: 5",
    ):
        assert part in told
    lines = result.store.report_path.read_text().splitlines()
    assert len(lines) == 7
    assert lines[2].startswith('2,2,"outside"')


def test_a_failed_window_is_told_retried_and_mended(job_dir: Path) -> None:
    truth = np.zeros((40, 120), np.uint8)
    truth[5:10, 5:10] = truth[5:10, 100:105] = 255
    truth[30, 118] = POISON
    poisoned = ConnectedFactory(made=Connected(poison=[POISON]))
    scene = Scene(truth, [point(7, 7), point(102, 7)], factory=poisoned)
    result = scene.run(job_dir)
    assert fates(result) == ["answered", "failed"]
    assert not result.complete
    assert len(scene.factory.made.seen) == 1 + 3
    assert np.unique(whole(result)).tolist() == [0, 1]
    scene.factory.made.poison.clear()
    mended = scene.run(job_dir)
    assert fates(mended) == ["answered", "answered"]
    assert mended.complete
    assert len(scene.factory.made.seen) == 5
    assert np.array_equal(whole(mended) > 0, truth == 255)


def test_a_job_of_failures_fails(job_dir: Path) -> None:
    truth = np.full((20, 20), POISON, np.uint8)
    poisoned = ConnectedFactory(made=Connected(poison=[POISON]))
    scene = Scene(truth, [point(7, 7)], factory=poisoned)
    with pytest.raises(JobError, match="every prompt failed, the first with: ValueError: poison"):
        scene.run(job_dir)


class Killed(BaseException):
    """What a kill is to the code."""


def test_a_killed_run_resumes_to_the_same(tmp_path: Path) -> None:
    """Stopped before every write in turn, until it is through."""
    truth = patches(3, (60, 60), 12, 20)
    scene = scene_of(truth, asked_for(truth, 3))
    wanted = scene.run(tmp_path / "whole")
    from samplat import files

    real, left, kills = files.write_atomic, [0], 0

    def write(path: Path, data: bytes) -> None:
        if not left[0]:
            raise Killed
        left[0] -= 1
        real(path, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "write_atomic", write)
        for steps in range(1, 1000):
            left[0] = 5 + steps % 3
            try:
                result = scene.run(tmp_path / "killed")
                break
            except Killed:
                kills += 1
    assert kills > 5
    assert np.array_equal(whole(result), whole(wanted))
    assert str(result.objects.to_pylist()) == str(wanted.objects.to_pylist())
    assert result.prompts.equals(wanted.prompts)


def test_a_damaged_answer_is_answered_again(job_dir: Path) -> None:
    truth = patches(4, (60, 60), 12, 20)
    scene = scene_of(truth, asked_for(truth, 4))
    wanted = whole(scene.run(job_dir))
    calls = len(scene.factory.made.seen)
    (job_dir / "answers" / "000001.arrow").write_bytes(b"rot")
    assert np.array_equal(whole(scene.run(job_dir)), wanted)
    assert len(scene.factory.made.seen) > calls


def test_other_prompts_are_another_job(job_dir: Path) -> None:
    truth = patches(4, (60, 60), 12, 20)
    scene = scene_of(truth, asked_for(truth, 4))
    scene.run(job_dir)
    for other in (
        replace(scene, features=scene.features[1:]),
        replace(scene, attributes={"name": [str(k) for k in range(len(scene.features))]}),
    ):
        with pytest.raises(JobError, match=r"prompts\.sha256"):
            other.run(job_dir)
    with pytest.raises(JobError, match=r"prompts\.window"):
        scene.run(job_dir, window=16)


def test_prompts_need_a_segmenter_that_takes_them(job_dir: Path) -> None:
    scene = scene_of(np.ones((9, 9)), [point(3, 3)])
    tools, job = scene.tools, scene.job(job_dir)
    tools.add("segmenters", "test", oracle_tools().segmenter("oracle"))
    with pytest.raises(InputError, match="takes no prompts"):
        plan(replace(job, segmenter="oracle"), tools)
    with pytest.raises(InputError, match="needs prompts"):
        plan(replace(job, prompts=None), tools)
    assert not job_dir.exists()


def test_only_negative_points_are_refused(job_dir: Path) -> None:
    scene = scene_of(np.ones((9, 9)), [point(3, 3), point(5, 5, on=False)])
    with pytest.raises(InputError, match="prompt 2 has only negative points"):
        plan(scene.job(job_dir), scene.tools)


def test_prompts_that_point_nowhere_are_refused(job_dir: Path) -> None:
    scene = scene_of(np.ones((9, 9)), [point(30, 3)])
    with pytest.raises(InputError, match="no prompt of some points into image"):
        plan(scene.job(job_dir), scene.tools)


def test_a_rehearsal_answers_one_window(job_dir: Path) -> None:
    scene = scene_of(np.ones((9, 9)), [point(3, 3)])
    rehearsed = rehearse(plan(scene.job(job_dir), scene.tools), scene.tools)
    assert rehearsed is not None
    assert rehearsed.objects == 1
    assert not job_dir.exists()


@given(
    seed=st.integers(0, 2**31),
    factor=st.sampled_from([1, 2, 4]),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
)
def test_a_view_from_afar_is_the_mean_of_its_pixels(
    seed: int, factor: int, height: int, width: int
) -> None:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (50, 50, 3)).astype(np.uint8)
    mask = rng.random((50, 50)) < 0.7
    start = factor * int(rng.integers(0, 3))
    window = Window(start=(0, start, start), stop=(1, start + height, start + width))
    view = look(ArraySource(pixels, mask), identity_stretch(3), window, factor)
    assert view.valid.shape == (-(-height // factor), -(-width // factor))
    for y, x in np.ndindex(view.valid.shape):
        block = np.s_[
            start + y * factor : min(start + height, start + (y + 1) * factor),
            start + x * factor : min(start + width, start + (x + 1) * factor),
        ]
        kept = pixels[block][mask[block]]
        assert view.valid[y, x] == (2 * mask[block].sum() >= mask[block].size)
        if len(kept) and factor > 1:
            assert np.abs(view.pixels[y, x] - kept.mean(axis=0)).max() <= 0.5


def test_the_report_is_where_people_look(job_dir: Path) -> None:
    result = scene_of(np.ones((9, 9)), [point(3, 3)]).run(job_dir)
    assert result.store.report_path == JobStore(path=job_dir).path / "answers" / "report.csv"


def test_threads_share_one_segmenter(job_dir: Path) -> None:
    """Nothing of a run is kept beside its directory: a second one at once is another."""
    truth = patches(8, (60, 60), 12, 20)
    scene, results = scene_of(truth, asked_for(truth, 8)), {}

    def run(name: str) -> None:
        results[name] = whole(scene.run(job_dir / name))

    job_dir.mkdir()
    threads = [threading.Thread(target=run, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert np.array_equal(results["a"], results["b"])
