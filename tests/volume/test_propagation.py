"""Propagation, with segmenters that know the object."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_dilation, binary_erosion

from samplat import InputError
from samplat_volume.projection import KINDS as PROJECTIONS
from samplat_volume.projection import Projection
from samplat_volume.propagation import (
    Settings,
    correct,
    propagate,
    propagate_objects,
    protected,
)
from samplat_volume.slices import SlicePrompt
from samplat_volume.walks import Rules
from volume.grown import KINDS, Oracle, box_on, dice, grown, middle

RATIOS = (1, 2, 4, 8)


def steps(ratio):
    return Settings(steps=(float(ratio), 1.0, 1.0))


def recovered(seed, ratio, **arguments):
    truth = grown(seed, ratio)
    found = propagate(
        Oracle(truth), {middle(truth): box_on(truth, middle(truth))}, settings=steps(ratio)
    )
    return dice(found.mask(), truth)


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("kind", range(len(KINDS)), ids=lambda k: KINDS[k].__name__)
def test_a_perfect_segmenter_gives_the_object_back(kind, ratio):
    for seed in range(kind, kind + 6, len(KINDS)):
        assert recovered(seed, ratio) >= 0.99


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(200))
def test_two_hundred_objects(seed):
    assert recovered(1000 + seed, RATIOS[seed % len(RATIOS)]) >= 0.99


@pytest.mark.parametrize("kind", PROJECTIONS)
def test_every_projection_does(kind):
    truth = grown(0, 2)
    chosen = Settings(steps=(2.0, 1.0, 1.0), projection=Projection(kinds=(kind,)))
    found = propagate(Oracle(truth), {middle(truth): box_on(truth, middle(truth))}, settings=chosen)
    assert dice(found.mask(), truth) >= 0.99


def test_pixels_do_no_harm_where_the_segmenter_is_sure():
    truth = grown(1, 4)
    rng = np.random.default_rng(0)
    pictures = np.clip(truth * 80 + rng.normal(90, 12, truth.shape), 0, 255).astype(np.uint8)
    found = propagate(
        Oracle(truth),
        {middle(truth): box_on(truth, middle(truth))},
        settings=steps(4),
        pixels=lambda index: pictures[index],
    )
    assert dice(found.mask(), truth) >= 0.99


def test_what_does_not_look_like_the_object_is_no_part_of_it():
    """A bright rod goes over into a dark one, and the segmenter is sure of both."""
    y, x = np.ogrid[:40, :40]
    rod = np.repeat((((y - 20) ** 2 + (x - 20) ** 2) < 64)[None], 16, axis=0)
    grey = np.where(np.arange(16) < 9, 200, 40)[:, None, None]
    noise = np.random.default_rng(0).normal(0, 8, rod.shape)
    pictures = np.clip(np.where(rod, grey, 110) + noise, 0, 255).astype(np.uint8)
    prompts = {4: box_on(rod, 4)}
    assert list(propagate(Oracle(rod), prompts).slices) == list(range(16))
    found = propagate(Oracle(rod), prompts, pixels=lambda index: pictures[index])
    assert list(found.slices) == list(range(9))
    assert dice(found.mask()[:9], rod[:9]) >= 0.99


def test_grey_levels_that_say_nothing_decide_nothing():
    truth = grown(2, 2)
    flat = np.full(truth.shape[1:], 90, np.uint8)
    prompts = {middle(truth): box_on(truth, middle(truth))}
    found = propagate(Oracle(truth), prompts, settings=steps(2), pixels=lambda index: flat)
    assert dice(found.mask(), truth) >= 0.99


def test_pixels_carry_the_object_where_the_segmenter_is_blind():
    """Beyond the annotated slice it answers with noise, and says that it is unsure."""
    truth = grown(1, 1)
    rng = np.random.default_rng(0)
    pictures = np.clip(truth * 80 + rng.normal(90, 6, truth.shape), 0, 255).astype(np.uint8)
    start = middle(truth)

    class Blind(Oracle):
        def _answer(self, index, prompt):
            answer = super()._answer(index, prompt)
            if index == start:
                return answer
            noise = rng.random(answer.mask.shape) < 0.3
            return type(answer)(mask=noise, predicted_iou=0.2)

    rules = Rules(least_confidence=0.0)
    found = propagate(
        Blind(truth),
        {start: box_on(truth, start)},
        settings=Settings(rules=rules),
        pixels=lambda index: pictures[index],
    )
    near = slice(start - 8, start + 9)
    assert dice(found.mask()[near], truth[near]) >= 0.95


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(RATIOS))
def test_noise_on_edges_costs_no_more_than_itself(seed, ratio):
    truth = grown(seed % 30, ratio)

    def frayed(index, mask):
        rng = np.random.default_rng([seed, index])
        edge = binary_dilation(mask) & ~binary_erosion(mask)
        return mask ^ (edge & (rng.random(mask.shape) < 0.3))

    noisy = Oracle(truth, spoil=frayed)
    found = propagate(noisy, {middle(truth): box_on(truth, middle(truth))}, settings=steps(ratio))
    alone = np.stack([frayed(i, m.copy()) if m.any() else m for i, m in enumerate(truth)])
    assert dice(found.mask(), truth) >= dice(alone, truth) - 0.03


def half(mask):
    mask[:, : int(np.argwhere(mask)[:, 1].mean())] = False
    return mask


@pytest.mark.parametrize("ratio", [1, 4])
@pytest.mark.parametrize("fault", ["nothing", "half", "elsewhere", "everything"])
def test_one_failing_slice_is_bridged_and_named(fault, ratio):
    truth = grown(1, ratio)
    start = middle(truth)
    bad = start + 3

    def spoil(index, mask):
        if index != bad:
            return mask
        if fault == "half":
            return half(mask)
        filled = np.zeros_like(mask) if fault != "everything" else np.ones_like(mask)
        filled[:6, :6] |= fault == "elsewhere"
        return filled

    oracle = Oracle(truth, spoil=spoil)
    found = propagate(oracle, {start: box_on(truth, start)}, settings=steps(ratio))
    assert dice(found.mask(), truth) >= 0.98
    assert found.doubtful(1) == [bad]


def test_two_annotated_slices_meet_in_the_middle():
    truth = grown(1, 1)
    inside = np.flatnonzero(truth.any(axis=(1, 2)))
    low, high = int(inside[4]), int(inside[-5])
    oracle = Oracle(truth)
    found = propagate(oracle, {low: box_on(truth, low), high: box_on(truth, high)})
    assert dice(found.mask(), truth) >= 0.99
    by_start = {(w.start, w.direction): w for w in found.walks}
    assert by_start[low, 1].last == (low + high) // 2
    assert by_start[high, -1].last == (low + high) // 2 + 1
    assert all(n == 1 for n in oracle.asked.values())


def test_the_order_of_prompts_does_not_matter():
    truth = grown(2, 2)
    inside = np.flatnonzero(truth.any(axis=(1, 2)))
    chosen = [int(i) for i in inside[[2, len(inside) // 2, -3]]]
    masks = [
        propagate(Oracle(truth), {i: box_on(truth, i) for i in order}, settings=steps(2)).mask()
        for order in permutations(chosen)
    ]
    assert all((m == masks[0]).all() for m in masks)


def test_a_gap_that_no_walk_crosses_is_drawn_from_both_sides():
    truth = grown(1, 1)
    start = middle(truth)
    low, high = start - 8, start + 8
    spoil = lambda i, m: np.zeros_like(m) if start - 3 <= i <= start + 3 else m  # noqa: E731
    prompts = {low: box_on(truth, low), high: box_on(truth, high)}
    found = propagate(Oracle(truth, spoil=spoil), prompts)
    assert dice(found.mask(), truth) >= 0.97
    assert set(found.doubtful(7)) == set(range(start - 3, start + 4))


@settings(max_examples=8, deadline=None)
@given(st.data())
def test_a_correction_equals_all_prompts_at_once_and_asks_only_its_neighbourhood(data):
    truth = grown(data.draw(st.integers(0, 8)), data.draw(st.sampled_from((1, 2))))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    weak = set(rng.choice(len(truth), len(truth) // 6, replace=False))
    spoil = lambda i, m: half(m) if i in weak else m  # noqa: E731
    inside = [int(i) for i in np.flatnonzero(truth.any(axis=(1, 2)))]
    some = st.lists(st.sampled_from(inside), min_size=2, max_size=4, unique=True)
    *first, index = data.draw(some)
    stop = data.draw(st.booleans())
    prompt = SlicePrompt(points=[(3, 3)], labels=[0]) if stop else SlicePrompt(drawn=truth[index])
    prompts = {i: box_on(truth, i) for i in first}
    earlier = propagate(Oracle(truth, spoil=spoil), prompts)
    oracle = Oracle(truth, spoil=spoil)
    corrected = correct(oracle, earlier, index, prompt)
    fresh = propagate(Oracle(truth, spoil=spoil), {**prompts, index: prompt})
    assert (corrected.mask() == fresh.mask()).all()
    np.testing.assert_array_equal(corrected.confidences(), fresh.confidences())
    below = max((i for i in first if i < index), default=-1)
    above = min((i for i in first if i > index), default=len(truth))
    assert all(below < i < above for i in oracle.asked)
    if stop and not (below >= 0 and above < len(truth)):
        assert not oracle.asked  # what lies before a stop is there already


def test_taking_a_prompt_back_gives_what_was_there_without_it():
    truth = grown(0, 1)
    start = middle(truth)
    alone = propagate(Oracle(truth), {start: box_on(truth, start)})
    wrong = SlicePrompt(drawn=half(truth[start + 4].copy()))
    with_it = correct(Oracle(truth), alone, start + 4, wrong)
    assert (with_it.mask() != alone.mask()).any()
    back = correct(Oracle(truth), with_it, start + 4, None)
    assert (back.mask() == alone.mask()).all()


@pytest.mark.parametrize("side", [1, -1])
def test_a_lone_negative_point_stops(side):
    truth = grown(1, 1)
    start = middle(truth)
    stop = start + 5 * side
    oracle = Oracle(truth)
    negative = SlicePrompt(points=[(10, 10)], labels=[0])
    found = propagate(oracle, {start: box_on(truth, start), stop: negative})
    assert stop not in found.slices
    assert stop not in oracle.asked
    assert stop - side in found.slices
    assert all((i - stop) * side < 0 for i in found.slices)


def test_it_ends_with_the_object_and_asks_one_slice_more():
    truth = grown(0, 1)
    oracle = Oracle(truth)
    found = propagate(oracle, {middle(truth): box_on(truth, middle(truth))})
    inside = np.flatnonzero(truth.any(axis=(1, 2)))
    assert list(found.slices) == list(inside)
    assert min(oracle.asked) >= inside[0] - 2
    assert max(oracle.asked) <= inside[-1] + 2


def test_thick_and_thin_slices_of_one_object_end_alike():
    thin = grown(0, 1)
    start = 35
    for ratio in RATIOS:
        truth = thin[start % ratio :: ratio]
        at = start // ratio
        found = propagate(Oracle(truth), {at: box_on(truth, at)}, settings=steps(ratio))
        assert (found.mask() == truth).mean() > 0.999


def test_an_object_beside_another_one_does_not_leak_into_it():
    """The segmenter follows whatever is nearest; beyond the end lies something larger."""
    truth = np.zeros((30, 60, 60), bool)
    truth[5:15, 20:32, 20:32] = True
    world = truth.copy()
    world[15:, 5:55, 5:55] = True
    found = propagate(Oracle(world), {10: box_on(truth, 10)})
    assert dice(found.mask(), truth) == 1


def test_finished_objects_are_protected():
    truth = grown(0, 1)
    world = np.stack([binary_dilation(s, iterations=6) if s.any() else s for s in truth])
    start = middle(truth)
    first, second = propagate_objects(
        PromptedOracle((truth, world)),
        [{start: box_on(truth, start)}, {start: box_on(world, start)}],
    )
    assert dice(first.mask(), truth) >= 0.99
    assert not (first.mask() & second.mask()).any()
    assert second.mask().any()


class PromptedOracle:
    """Knows two objects, of which one holds the other, and answers with the one that fits best."""

    def __init__(self, objects):
        self._oracles = [Oracle(o) for o in objects]
        self.shape = objects[0].shape

    def __call__(self, index, prompts):
        return [self._best(index, p) for p in prompts]

    def _best(self, index, prompt):
        answers = [o(index, [prompt])[0] for o in self._oracles]
        wide = (prompt.box[2] - prompt.box[0]) * (prompt.box[3] - prompt.box[1])
        return min(answers, key=lambda a: abs(a.mask.sum() / 0.785 - wide))


def test_what_another_object_took_meanwhile_is_not_kept_by_a_correction():
    truth = grown(0, 1)
    start = middle(truth)
    alone = propagate(Oracle(truth), {start: box_on(truth, start)})
    other = propagate(Oracle(truth), {start + 6: SlicePrompt(drawn=truth[start + 6])})
    taken = protected(truth.shape[1:], [other])
    with pytest.raises(InputError, match=f"slice {start} finds nothing there that is not taken"):
        correct(Oracle(truth), alone, start, box_on(truth, start), taken=taken)


def test_progress_is_told_slice_by_slice_and_can_end_it():
    truth = grown(1, 1)
    start = middle(truth)
    told = []

    def on_slice(index, result):
        told.append(index)
        return len(told) < 5

    found = propagate(Oracle(truth), {start: box_on(truth, start)}, on_slice=on_slice)
    assert found.cancelled
    assert told[0] == start
    assert set(found.slices) == set(told)
    again = propagate(Oracle(truth), {start: box_on(truth, start)}, earlier=found)
    assert not again.cancelled
    assert dice(again.mask(), truth) >= 0.99


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ({}, "positive point"),
        ({3: SlicePrompt(points=[(1, 1)], labels=[0])}, "positive point"),
        ({72: SlicePrompt(box=(1, 1, 4, 4))}, "slices are 0 to 71"),
        ({3: SlicePrompt(points=[(90, 1)])}, "slice 3: point .90, 1. lies outside"),
        ({3: SlicePrompt(box=(80, 80, 90, 90))}, "slice 3: box"),
        ({3: SlicePrompt(drawn=np.ones((4, 4)))}, "drawn on slice 3"),
        ({0: SlicePrompt(box=(1, 1, 4, 4))}, "slice 0 finds nothing"),
    ],
)
def test_prompts_that_cannot_begin(prompts, message):
    with pytest.raises(InputError, match=message):
        propagate(Oracle(grown(0, 1)), prompts)


@pytest.mark.parametrize(
    "make",
    [
        lambda: SlicePrompt(),
        lambda: SlicePrompt(points=[1, 2]),
        lambda: SlicePrompt(points=[(1, 2)], labels=[2]),
        lambda: SlicePrompt(points=[(1, 2)], labels=[1, 0]),
        lambda: SlicePrompt(labels=[1]),
        lambda: SlicePrompt(box=(3, 3, 2, 5)),
        lambda: Settings(steps=(0.0, 1.0, 1.0)),
        lambda: Settings(steps=(1.0, float("nan"), 1.0)),
        lambda: Rules(least_confidence=1.5),
        lambda: Rules(patience=-1),
        lambda: Projection(kinds=("guess",)),
        lambda: Projection(scales=()),
        lambda: Projection(slope=0),
    ],
)
def test_values_that_make_no_sense(make):
    with pytest.raises(InputError):
        make()
