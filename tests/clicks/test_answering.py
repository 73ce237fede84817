"""The thread and what it looks at."""

from __future__ import annotations

import queue
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_sam.answering import Answerer, Picture
from napari_sam.layers import corners_of, merged, painted_window, pixel_of
from napari_sam.state import Box, Point, Question
from napari_sam.views import (
    AHEAD,
    LEAST,
    SIDE,
    TILE,
    WHOLE,
    View,
    centred_view,
    view_of,
    views_over,
)
from napari_sam.worker import Latest, Superseded
from samplat import EmbeddingCache, InputError

sizes = st.integers(1, 60_000)


@given(size=st.tuples(sizes, sizes), data=st.data())
def test_a_view_holds_its_prompts_and_lies_in_the_slice(size: Any, data: st.DataObject) -> None:
    place = st.tuples(*(st.integers(0, n - 1) for n in size))
    places = np.array(data.draw(st.lists(place, min_size=1, max_size=4)), float)
    view = view_of(places, size)
    for axis, part in enumerate((view.rows, view.columns)):
        assert 0 <= part.start < part.stop <= size[axis]
        assert part.start <= places[:, axis].min()
        assert places[:, axis].max() < part.stop
        assert (part.stop - part.start) / view.step <= WHOLE


@given(place=st.tuples(*[st.floats(3000, 40_000)] * 2), move=st.tuples(*[st.floats(-5, 5)] * 2))
def test_prompts_have_ground_around_them_in_a_large_slice(place: Any, move: Any) -> None:
    places = np.array([place, np.add(place, move)])
    for look, least in ((view_of, LEAST), (centred_view, SIDE / 4)):
        view = look(places, (50_000, 50_000))
        assert view.step == 1
        for axis, part in enumerate((view.rows, view.columns)):
            assert part.stop - part.start == SIDE
            assert part.start + least < places[:, axis].min()
            assert places[:, axis].max() < part.stop - least


class Counted:
    """A raster of 50 000 x 50 000 pixels, of which only the parts that are asked for are made."""

    def __init__(self, radius: int, middle: tuple[int, int] = (30_000, 20_000)) -> None:
        self.radius, self.middle = radius, middle
        self.read: list[tuple[int, ...]] = []

    def __getitem__(self, cut: Any) -> Any:
        ys, xs = (np.arange(*c.indices(50_000)) for c in cut)
        self.read.append((len(ys), len(xs)))
        far = (ys[:, None] - self.middle[0]) ** 2 + (xs[None] - self.middle[1]) ** 2
        return np.where(far < self.radius**2, 220, 40).astype(np.uint8)


@pytest.fixture(scope="module")
def answerer() -> Answerer:
    return Answerer("samplat-tiny", EmbeddingCache(quota=0))


def asked(*prompts: Any) -> Question:
    return Question(prompts=prompts, plane=(None, None), target=None)


@pytest.mark.parametrize(("middle", "reads"), [((30_300, 20_400), 1), ((29_960, 19_970), 2)])
def test_a_click_reads_one_tile_of_a_huge_image_and_another_view_of_what_it_cuts(
    answerer: Answerer, middle: tuple[int, int], reads: int
) -> None:
    data = Counted(150, middle)
    picture = Picture(data=data, shape=(50_000, 50_000), bands=False, limits=None)
    first = asked(Point(position=middle))
    preview = answerer.answer(picture, first, None, lambda: False)
    assert data.read == [(SIDE, SIDE)] * reads
    mask = preview.candidates[0].mask
    np.testing.assert_allclose(mask.start, np.subtract(middle, 150), atol=6)
    np.testing.assert_allclose(mask.shape, (300, 300), atol=12)
    beside = Point(position=(middle[0] - 160, middle[1]), positive=False)
    answerer.answer(picture, asked(*first.prompts, beside), None, lambda: False)
    assert len(data.read) == reads


@given(size=st.tuples(sizes, sizes), data=st.data())
def test_views_ahead_begin_in_the_middle_and_are_those_of_clicks(
    size: Any, data: st.DataObject
) -> None:
    ends = [data.draw(st.tuples(*[st.integers(0, n - 1)] * 2)) for n in size]
    rows, columns = (slice(min(e), max(e) + 1) for e in ends)
    views = list(views_over((rows, columns), size))
    if not views:
        assert max(size) > WHOLE
        tiles = [(part.stop - 1) // TILE - part.start // TILE + 1 for part in (rows, columns)]
        assert tiles[0] * tiles[1] > AHEAD
        return
    assert len(views) == len({str(view) for view in views}) <= 60
    click = [data.draw(st.integers(part.start, part.stop - 1)) for part in (rows, columns)]
    wanted = view_of(np.array([click], float), size)
    assert wanted in views
    middle = [(part.start + part.stop - 1) / 2 for part in (rows, columns)]
    for at, part in zip(middle, (views[0].rows, views[0].columns), strict=True):
        assert part.start <= at < part.stop


def test_what_is_computed_ahead_ends_when_something_else_is_wanted(answerer: Answerer) -> None:
    import time

    data = Counted(150)
    picture = Picture(data=data, shape=(50_000, 50_000), bands=False, limits=None)
    views = list(views_over((slice(29_000, 31_000), slice(19_000, 21_000)), picture.shape))
    wanted, ended = threading.Event(), []

    def work(stale: Any) -> None:
        try:
            answerer.prepare(picture, (None, None), views, stale)
        finally:
            ended.append(time.monotonic())

    delivered: queue.Queue[Any] = queue.Queue()
    worker = Latest(delivered.put)
    worker.ask(work, lambda _: None, lambda _: None)
    while not data.read:
        time.sleep(0.001)
    time.sleep(0.02)
    asked_at = time.monotonic()
    worker.ask(lambda stale: wanted.set(), lambda _: None, lambda _: None)
    assert wanted.wait(20)
    assert ended[0] - asked_at < 2  # 20 ms on a machine with nothing else to do
    assert len(data.read) == 1
    answerer.prepare(picture, (None, None), views[:2], lambda: False)
    assert len(data.read) == 3
    answerer.answer(picture, asked(Point(position=(30_000, 20_100))), None, lambda: False)
    assert len(data.read) <= 4
    worker.close()


def test_a_box_larger_than_a_view_is_seen_smaller(answerer: Answerer) -> None:
    data = Counted(1100)
    picture = Picture(data=data, shape=(50_000, 50_000), bands=False, limits=None)
    around = asked(Box(start=(28_800, 18_800), stop=(31_200, 21_200)))
    (found,) = answerer.answer(picture, around, None, lambda: False).candidates
    assert data.read == [(SIDE, SIDE)]
    middle = np.add(found.mask.start, np.array(found.mask.shape) / 2)
    np.testing.assert_allclose(middle, (30_000, 20_000), atol=60)
    assert all(start % 4 == 0 for start in found.mask.start)


def test_every_nth_pixel_is_read_of_a_level_that_has_it() -> None:
    rows = np.add.outer(np.arange(4000) * 3, np.arange(4100)) % 251
    levels = tuple(rows[::f, ::f].astype(np.uint8) for f in (1, 2, 4, 16))
    picture = Picture(
        data=levels[0], shape=(4000, 4100), bands=False, limits=None, levels=levels[1:]
    )
    alone = Picture(data=levels[0], shape=(4000, 4100), bands=False, limits=None)
    for step, start, used in ((4, 1024, 2), (8, 0, 2), (2, 512, 1), (3, 768, 0), (4, 6, 1)):
        view = View(rows=slice(start, 4000), columns=slice(start, 4100), step=step)
        data, _ = picture._finest_needed((None, None), view)
        assert data is levels[used]
        np.testing.assert_array_equal(
            picture.read((None, None), view), alone.read((None, None), view)
        )


def test_prompts_outside_are_refused_and_stale_ones_dropped(answerer: Answerer) -> None:
    picture = Picture(data=np.zeros((40, 50), np.uint8), shape=(40, 50), bands=False, limits=None)
    with pytest.raises(InputError, match="x 70, y 3"):
        answerer.answer(picture, asked(Point(position=(3, 70))), None, lambda: False)
    with pytest.raises(Superseded):
        answerer.answer(picture, asked(Point(position=(3, 7))), None, lambda: True)
    deep = Question(prompts=(Point(position=(9, 3, 7)),), plane=(9, None, None), target=None)
    stack = Picture(
        data=np.zeros((2, 40, 50), np.uint8), shape=(2, 40, 50), bands=False, limits=None
    )
    with pytest.raises(InputError, match="slice 9"):
        answerer.answer(stack, deep, None, lambda: False)


def test_the_latest_request_wins() -> None:
    delivered: queue.Queue[Any] = queue.Queue()
    worker = Latest(delivered.put)
    begun, go = threading.Event(), threading.Event()
    said: list[Any] = []

    def first(stale: Any) -> str:
        begun.set()
        assert go.wait(10)
        return "first"

    worker.ask(first, said.append, said.append)
    assert begun.wait(10)
    for n in range(5):
        worker.ask(lambda stale, n=n: n, said.append, said.append)
    go.set()
    delivered.get(timeout=10)()
    assert said == [4]
    assert delivered.empty()

    worker.ask(lambda stale: 1 / 0, said.append, lambda error: said.append(type(error)))
    delivered.get(timeout=10)()
    assert said == [4, ZeroDivisionError]

    worker.ask(lambda stale: "late", said.append, said.append)
    late = delivered.get(timeout=10)
    worker.cancel()  # it is on its way to the window
    late()
    worker.close()
    worker._thread.join(10)
    assert not worker._thread.is_alive()
    assert said == [4, ZeroDivisionError]


def test_prompts_keep_their_order_and_the_newest_box_is_meant() -> None:
    a, b = Point(position=(1, 1)), Point(position=(2, 2), positive=False)
    old = Box(start=(0, 0), stop=(3, 3))
    new = Box(start=(0, 0), stop=(5, 5))
    assert merged([a, old, b], [b, a, old], (0, 1)) == [a, old, b]
    assert merged([a, old], [a, b, old, new], (0, 1)) == [a, b, new]
    here, there = Box(start=(1, 0, 0), stop=(1, 3, 3)), Box(start=(2, 0, 0), stop=(2, 3, 3))
    assert merged([here], [here, there], (1, 2)) == [here, there]


def test_corners_of_a_box_in_any_plane() -> None:
    corners = corners_of(Box(start=(1, 7, 2), stop=(4, 7, 9)), (0, 2))
    assert corners.tolist() == [[1, 7, 2], [1, 7, 9], [4, 7, 9], [4, 7, 2]]


def test_painted_boxes_of_old_and_new_events() -> None:
    old = ((np.array([3, 5]), np.array([2, 2])), np.array([0, 0]), 1)
    new = SimpleNamespace(slice_key=(slice(4, 9), slice(0, 3)))
    assert painted_window([old], (10, 10)) == (slice(3, 6), slice(2, 3))
    assert painted_window([old, new], (10, 10)) == (slice(3, 9), slice(0, 3))
    assert painted_window(["what?"], (10, 12)) == (slice(0, 10), slice(0, 12))


def test_positions_of_other_layers_go_through_the_world() -> None:
    from napari.layers import Image, Points

    image = Image(np.zeros((20, 30)), scale=(0.5, 2), translate=(10, -4))
    points = Points([(12.0, 6.0)], scale=(1, 2))  # world 12, 12
    assert pixel_of(image, points, (12.0, 6.0)) == (4.0, 8.0)
    like = Points([(4.0, 8.0)], scale=(0.5, 2), translate=(10, -4))
    assert pixel_of(image, like, (4.1234567, 8.0)) == (4.123457, 8.0)
