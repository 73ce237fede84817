"""Masks of what prompts point at: seen from one window, or first from afar and then up close.

A mask that a point gives may run out of the window; it is then asked for again in a wider window,
seen smaller. What was found smaller than it is has a coarse edge: near that edge it is looked at
again at full size, cell by cell, each told where the object is about. The rest stays as it is, so
that the parts fit together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from samplat.errors import InputError
from samplat.masks import MaskSet, decode_rle, encode_rle, mask_box
from samplat.merging import BOX_COLUMNS
from samplat.object_prompts import ObjectPrompt, ScenePrompts
from samplat.objects import TileObjects, labelled_objects, partition
from samplat.pixels import ImageSource, Stretch, read_valid, to_rgb
from samplat.prompt_units import PromptUnit, Sight
from samplat.prompts import BACKGROUND, FOREGROUND
from samplat.scale import enlarge, shrink
from samplat.tiles import Tile, Window

if TYPE_CHECKING:
    import pyarrow as pa

WIDEST = 8
"""How many times as wide as the first a window gets for a point; for a box, as wide as it needs."""
EDGE = 2
"""Pixels on either side of the edge of a mask found smaller, as small, that are looked at again."""
AGREE = 0.5
"""A second look counts when at least this part of what is surely the object is in it, and of it at
least this part surely or perhaps the object."""
STRIP = 2**22
"""About so many pixels are read at once of a wide window."""


class PromptedSegmenter(Protocol):
    """Turns pixels and prompts into masks; called from several threads at once."""

    def __call__(
        self, pixels: NDArray[np.uint8], valid: NDArray[np.bool_], asked: Sequence[ObjectPrompt]
    ) -> MaskSet:
        """One mask per prompt, in their order; an empty one where there is nothing.

        Args:
            pixels: (H, W, 3).
            valid: (H, W). True: data. What it returns outside of them is discarded.
            asked: in the frame of the pixels, each with a point on the object or a box.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class View:
    """What is seen of an image through a window."""

    window: Window
    """Which part of the image, (z, y, x)."""
    factor: int
    """Pixels of the image per pixel of the view, along each side."""
    pixels: NDArray[np.uint8]
    """(h, w, 3)."""
    valid: NDArray[np.bool_]
    """(h, w). True: data."""

    def cut(self, mask: NDArray[np.bool_], shape: tuple[int, ...]) -> bool:
        """Whether a mask (h, w) touches a side of the view that is not the image's edge."""
        (_, y0, x0), (_, y1, x1) = self.window.start, self.window.stop
        sides = (
            (mask[0], y0 > 0),
            (mask[-1], y1 < shape[1]),
            (mask[:, 0], x0 > 0),
            (mask[:, -1], x1 < shape[2]),
        )
        return any(open_side and bool(line.any()) for line, open_side in sides)

    def shown(self, mask: NDArray[np.bool_], window: Window) -> NDArray[np.bool_]:
        """A mask (h, w) as the image's pixels of a window (H, W); False outside of the view."""
        large = np.zeros(window.shape[1:], bool)
        inner = window.intersection(self.window)
        if inner.size:
            rows, columns = (
                (np.arange(inner.start[k], inner.stop[k]) - self.window.start[k]) // self.factor
                for k in (1, 2)
            )
            large[inner.relative_to(window).slices[1:]] = mask[np.ix_(rows, columns)]
        return large


def look(source: ImageSource, stretch: Stretch, window: Window, factor: int = 1) -> View:
    """What is seen of an image through a window, each pixel the mean of `factor` x `factor`."""
    rows = max(1, STRIP // max(1, window.shape[2]) // factor) * factor if factor > 1 else 2**62
    (_, y0, x0), (_, y1, x1) = window.start, window.stop
    strips = [
        _small(*_strip(source, stretch, Window(start=(0, y, x0), stop=(1, min(y1, y + rows), x1))),
               factor)
        for y in range(y0, y1, rows)
    ]  # fmt: skip
    pixels, valid = (np.concatenate(each) for each in zip(*strips, strict=True))
    return View(window=window, factor=factor, pixels=pixels, valid=valid)


def _strip(
    source: ImageSource, stretch: Stretch, window: Window
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    raw, valid = read_valid(source, window)
    return to_rgb(stretch(raw, valid))[0], valid[0]


def _small(
    pixels: NDArray[np.uint8], valid: NDArray[np.bool_], factor: int
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Means of the valid pixels of blocks, which are valid where half of their pixels are."""
    if factor == 1:
        return pixels, valid
    edges = [np.arange(0, n, factor) for n in valid.shape]

    def summed(values: NDArray[Any]) -> NDArray[Any]:
        rows = np.add.reduceat(values, edges[0], axis=0, dtype=np.int64)
        return np.add.reduceat(rows, edges[1], axis=1)

    counts, total = summed(valid), summed(np.ones_like(valid))
    sums = summed(pixels * valid[..., None])
    means = np.round(sums / np.maximum(counts, 1)[..., None]).astype(np.uint8)
    return means, 2 * counts >= total


@dataclass(frozen=True, kw_only=True)
class Answers:
    """N pieces of masks, disjoint for each prompt, in order of prompt. All arrays share axis N."""

    prompts: NDArray[np.int64]
    """(N,) number of the object that each is a part of."""
    boxes: NDArray[np.int64]
    """(N, 6) tight box z0, y0, x0, z1, y1, x1, half-open, global pixels."""
    areas: NDArray[np.int64]
    """(N,) pixels."""
    predicted_iou: NDArray[np.float32]
    """(N,) the model's own estimate of the whole mask's IoU with the true object."""
    stability: NDArray[np.float32]
    """(N,) stability score of the whole mask."""
    points: NDArray[np.float32]
    """(N, 2) the first point x, y on the object, global pixels; NaN where a box gave it."""
    factors: NDArray[np.int32]
    """(N,) 1, or how many times smaller the whole of the object was seen."""
    truncated: NDArray[np.bool_]
    """(N,) True: the object may go on outside of what was seen."""
    missed: NDArray[np.int32]
    """(N,) slices on which the object was asked for and nothing found; 0 in images."""
    rles: tuple[bytes, ...]
    """COCO compressed run-length counts over the box, its slices one below the other."""

    def __len__(self) -> int:
        return len(self.rles)

    def select(self, index: NDArray[Any]) -> Answers:
        """Some of the pieces, by number."""
        chosen = {f.name: getattr(self, f.name)[index] for f in fields(self) if f.name != "rles"}
        return Answers(**chosen, rles=tuple(self.rles[i] for i in index.tolist()))

    def meeting(self, window: Window) -> NDArray[np.bool_]:
        """(N,) True: the box of a piece shares a pixel with a window."""
        return boxes_meeting(self.boxes, window)


NUMBERS = tuple(f.name for f in fields(Answers) if f.name != "rles")
"""The attributes of `Answers` that are arrays."""

POINT_COLUMNS = ("point_x", "point_y")

EMPTY = Answers(
    prompts=np.zeros(0, np.int64),
    boxes=np.zeros((0, 6), np.int64),
    areas=np.zeros(0, np.int64),
    predicted_iou=np.zeros(0, np.float32),
    stability=np.zeros(0, np.float32),
    points=np.zeros((0, 2), np.float32),
    factors=np.zeros(0, np.int32),
    truncated=np.zeros(0, bool),
    missed=np.zeros(0, np.int32),
    rles=(),
)


def boxes_meeting(boxes: NDArray[np.int64], window: Window) -> NDArray[np.bool_]:
    """(N,) True: a box z0, y0, x0, z1, y1, x1 shares a pixel with a window (z, y, x)."""
    inside = (boxes[:, :3] < np.array(window.stop)) & (boxes[:, 3:] > np.array(window.start))
    meets: NDArray[np.bool_] = np.all(inside, axis=1)
    return meets


def join_answers(parts: Sequence[Answers]) -> Answers:
    """The pieces of several answers, one after the other."""
    given = (EMPTY, *parts)
    arrays = {n: np.concatenate([getattr(p, n) for p in given]) for n in NUMBERS}
    return Answers(**arrays, rles=tuple(rle for p in given for rle in p.rles))


def answers_table(answers: Answers) -> pa.Table:
    """Answers as the job directory keeps them."""
    import pyarrow as pa

    plain = {n: getattr(answers, n) for n in NUMBERS if n not in ("boxes", "points")}
    return pa.table(
        {
            **plain,
            **{n: answers.boxes[:, k] for k, n in enumerate(BOX_COLUMNS)},
            **{n: answers.points[:, k] for k, n in enumerate(POINT_COLUMNS)},
            "rle": pa.array(answers.rles, pa.binary()),
        }
    )


def answers_from(table: pa.Table) -> Answers:
    """The answers of `answers_table`."""
    column = {name: table[name].to_numpy() for name in table.column_names if name != "rle"}
    return Answers(
        **{n: column[n] for n in NUMBERS if n not in ("boxes", "points")},
        boxes=np.stack([column[n] for n in BOX_COLUMNS], axis=1),
        points=np.stack([column[n] for n in POINT_COLUMNS], axis=1),
        rles=tuple(table["rle"].to_pylist()),
    )


@dataclass(frozen=True, kw_only=True)
class Desk:
    """What it takes to answer prompts of an image."""

    look: Callable[[Window, int], View]
    """Sees a window of the image, at a factor."""
    segmenter: PromptedSegmenter
    """Answers them."""
    sight: Sight
    """Whence they are looked at."""
    scale: int = 1
    """How many times pixels are enlarged before the segmenter sees them."""

    def ask(self, view: View, asked: Sequence[ObjectPrompt]) -> MaskSet:
        """One mask per prompt, all in the frame of a view; cut to its valid pixels."""
        masks = self.segmenter(
            enlarge(view.pixels, self.scale),
            enlarge(view.valid, self.scale),
            [_enlarged(each, self.scale) for each in asked],
        )
        if len(masks) != len(asked):
            raise InputError(f"the segmenter gave {len(masks)} masks for {len(asked)} prompts")
        return shrink(masks, self.scale, keep_empty=True)

    def answer(self, unit: PromptUnit, prompts: ScenePrompts, view: View) -> Answers:
        """The masks of a unit's prompts, its window as it was seen."""
        asked = [prompts[number] for number in unit.prompts]
        masks = self.ask(view, [_in_view(each, view) for each in asked])
        found = []
        for k, (number, prompt) in enumerate(zip(unit.prompts, asked, strict=True)):
            seen = _Seen(view=view, mask=_decoded(masks, k, view), scores=_scores(masks, k))
            if prompt.box is None:
                seen = self._wide_enough(prompt, seen)
            found.append(self._pieces(number, prompt, seen))
        return join_answers(found)

    def _wide_enough(self, prompt: ObjectPrompt, seen: _Seen) -> _Seen:
        """The mask seen from as far as it takes for it not to run out of the window.

        What is too thin to be seen from there stays as it was seen last, and is cut.
        """
        shape, widest = self.sight.shape, WIDEST * seen.view.factor
        while seen.view.cut(seen.mask, shape) and seen.view.factor < widest:
            factor = 2 * seen.view.factor
            view = self.look(self.sight.around(prompt.extent, factor), factor)
            masks = self.ask(view, [_in_view(prompt, view)])
            mask = _decoded(masks, 0, view)
            if not mask.any():
                break
            seen = _Seen(view=view, mask=mask, scores=_scores(masks, 0))
        return seen

    def _pieces(self, number: int, prompt: ObjectPrompt, seen: _Seen) -> Answers:
        parts: Iterator[tuple[Window, NDArray[np.bool_]]] = (
            iter([(seen.view.window, seen.mask)])
            if seen.view.factor == 1
            else self._refined(prompt, seen)
        )
        cut = seen.view.cut(seen.mask, self.sight.shape)
        return join_answers([_piece(number, prompt, seen, cut, *part) for part in parts])

    def _refined(
        self, prompt: ObjectPrompt, seen: _Seen
    ) -> Iterator[tuple[Window, NDArray[np.bool_]]]:
        """The parts of a mask that was seen smaller than it is: its cells, at full size."""
        inner, outer = _eroded(seen.mask), _dilated(seen.mask)
        for row, column in self._cells(outer, seen.view):
            around = self.sight.around_cell(row, column)
            place = self._cell(row, column)
            sure = seen.view.shown(inner, place)
            open_ = seen.view.shown(outer, place) & ~sure
            if not (sure.any() or open_.any()):
                continue
            view = self.look(around, 1)
            here = place.relative_to(around).slices[1:]
            if open_.any():
                draft, least, most = (
                    seen.view.shown(mask, around) for mask in (seen.mask, inner, outer)
                )
                closer = self._closer(prompt, draft, view, seen.view.factor)
                agreed = _agrees(closer, least, most)
                sure |= open_ & (closer if agreed else draft)[here]
            yield place, sure & view.valid[here]

    def _cells(self, mask: NDArray[np.bool_], view: View) -> Iterator[tuple[int, int]]:
        x0, y0, x1, y1 = (v * view.factor for v in mask_box(mask))
        _, top, left = view.window.start
        cell, (_, height, width) = self.sight.cell, self.sight.shape
        for row in range((top + y0) // cell, -(-min(height, top + y1) // cell)):
            for column in range((left + x0) // cell, -(-min(width, left + x1) // cell)):
                yield row, column

    def _cell(self, row: int, column: int) -> Window:
        cell, (_, height, width) = self.sight.cell, self.sight.shape
        y, x = row * cell, column * cell
        return Window(start=(0, y, x), stop=(1, min(height, y + cell), min(width, x + cell)))

    def _closer(
        self, prompt: ObjectPrompt, draft: NDArray[np.bool_], view: View, slack: int
    ) -> NDArray[np.bool_]:
        """A mask in a view at full size, told by a draft where it is."""
        if not draft.any():
            return draft
        asked = _guided(_in_view(prompt, view), draft, slack)
        return _decoded(self.ask(view, [asked]), 0, view)


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """A mask, and from where it was seen."""

    view: View
    mask: NDArray[np.bool_]
    scores: tuple[float, float]


def _scores(masks: MaskSet, k: int) -> tuple[float, float]:
    return float(masks.predicted_iou[k]), float(masks.stability[k])


def _decoded(masks: MaskSet, k: int, view: View) -> NDArray[np.bool_]:
    return decode_rle(masks.rles[k], masks.size) & view.valid


def _in_view(prompt: ObjectPrompt, view: View) -> ObjectPrompt:
    _, y, x = view.window.start
    height, width = view.valid.shape
    return prompt.seen_from(x, y, 1 / view.factor).within(width, height)


def _enlarged(prompt: ObjectPrompt, scale: int) -> ObjectPrompt:
    draft = None if prompt.draft is None else enlarge(prompt.draft, scale)
    return replace(prompt.seen_from(0, 0, scale), draft=draft)


def _piece(
    number: int,
    prompt: ObjectPrompt,
    seen: _Seen,
    cut: bool,
    window: Window,
    mask: NDArray[np.bool_],
) -> Answers:
    if not mask.any():
        return EMPTY
    x0, y0, x1, y1 = mask_box(mask)
    _, top, left = window.start
    return Answers(
        prompts=np.array([number]),
        boxes=np.array([[0, y0 + top, x0 + left, 1, y1 + top, x1 + left]]),
        areas=np.array([mask.sum()], np.int64),
        predicted_iou=np.array([seen.scores[0]], np.float32),
        stability=np.array([seen.scores[1]], np.float32),
        points=prompt.first_point.astype(np.float32)[None],
        factors=np.array([seen.view.factor], np.int32),
        truncated=np.array([cut]),
        missed=np.zeros(1, np.int32),
        rles=(encode_rle(mask[y0:y1, x0:x1]),),
    )


def _guided(prompt: ObjectPrompt, draft: NDArray[np.bool_], slack: int) -> ObjectPrompt:
    """What asks for the part of an object in a view: where the draft is, and where it is not."""
    x0, y0, x1, y1 = mask_box(draft)
    height, width = draft.shape
    box = np.clip(
        np.array([x0 - slack, y0 - slack, x1 + slack, y1 + slack], np.float64),
        0,
        [width, height, width, height],
    )
    points, labels = [_deepest(draft)], [FOREGROUND]
    if (~_dilated(draft, 2 * slack)).any():
        points, labels = [*points, _deepest(~draft)], [*labels, BACKGROUND]
    return ObjectPrompt(
        points=np.concatenate([np.stack(points), prompt.points]),
        labels=np.concatenate([np.array(labels, np.int32), prompt.labels]),
        box=box,
        draft=draft,
    )


def _agrees(closer: NDArray[np.bool_], least: NDArray[np.bool_], most: NDArray[np.bool_]) -> bool:
    """Whether a mask is about the same as one of which an inner and an outer limit are known."""
    covered = (closer & least).sum() >= AGREE * least.sum()
    return bool(covered and (closer & most).sum() >= AGREE * closer.sum())


def _deepest(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The middle x, y of the pixel of a mask that is farthest from its edge."""
    from scipy import ndimage

    depth = ndimage.distance_transform_cdt(np.pad(mask, 1), "chessboard")[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return np.array([x + 0.5, y + 0.5])


def _dilated(mask: NDArray[np.bool_], by: int = EDGE) -> NDArray[np.bool_]:
    from scipy import ndimage

    near = ndimage.maximum_filter(mask, size=2 * by + 1, mode="nearest")
    return np.asarray(near, bool)


def _eroded(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return ~_dilated(~mask)


def tile_of_answers(
    answers: Answers,
    whole_areas: NDArray[np.int64],
    tile: Tile,
    bounds: Window,
    overlaps: Any,
    axis: int = 0,
) -> TileObjects:
    """The parts of masks that lie in a tile, as disjoint objects.

    Overlaps are settled slice by slice: an object may be sure of one and less so of another.

    Args:
        answers: all pieces that meet the tile.
        whole_areas: (N,) pixels of the whole mask that each piece is a part of: which mask has a
            pixel that several claim must not depend on the tile.
        tile: the tile.
        bounds: all that could be read, (z, y, x).
        overlaps: which mask gets a pixel that several claim.
        axis: of (z, y, x) that the slices are across.
    """
    numbers = np.unique(answers.prompts)
    labels = np.zeros(tile.read.shape, np.uint32)
    scores = np.zeros((2, len(numbers) + 1))
    for k, plane in enumerate(np.moveaxis(labels, axis, 0), start=tile.read.start[axis]):
        within = (answers.boxes[:, axis] <= k) & (answers.boxes[:, axis + 3] > k)
        if within.any():
            chosen = np.flatnonzero(within)
            masks, of = _on_slice(answers.select(chosen), whole_areas[chosen], tile, axis, k)
            claimed, kept, pixels = partition(masks, np.ones(plane.shape, bool), overlaps)
            ranks = np.searchsorted(numbers, of[kept]) + 1
            plane[...] = np.concatenate([[0], ranks]).astype(np.uint32)[claimed]
            each = np.stack([masks.predicted_iou, masks.stability])[:, kept]
            np.add.at(scores.T, ranks, (each * pixels).T)
    return _with_scores(labels, numbers, scores, answers, tile, bounds)


def _on_slice(
    answers: Answers, areas: NDArray[np.int64], tile: Tile, axis: int, k: int
) -> tuple[MaskSet, NDArray[np.int64]]:
    """The masks of a slice of a tile, and the numbers of what asked for them."""
    start, stop = list(tile.read.start), list(tile.read.stop)
    start[axis], stop[axis] = k, k + 1
    window = Window(start=tuple(start), stop=tuple(stop))
    numbers, first, owner = np.unique(answers.prompts, return_index=True, return_inverse=True)
    order = np.argsort(owner, kind="stable")
    pieces = np.split(order, np.cumsum(np.bincount(owner, minlength=len(numbers)))[:-1])
    masks = [_in_window(answers, of, window).squeeze(axis) for of in pieces]
    size = masks[0].shape[0], masks[0].shape[1]
    found = MaskSet(
        size=size,
        rles=tuple(map(encode_rle, masks)),
        boxes=np.zeros((len(masks), 4), np.float32),
        areas=areas[first],
        predicted_iou=answers.predicted_iou[first],
        stability=answers.stability[first],
        points=answers.points[first],
        crop_boxes=np.tile(np.array([0, 0, size[1], size[0]], np.int32), (len(masks), 1)),
    )
    return found, numbers


def _with_scores(
    labels: NDArray[np.uint32],
    numbers: NDArray[np.int64],
    scores: NDArray[np.float64],
    answers: Answers,
    tile: Tile,
    bounds: Window,
) -> TileObjects:
    """The objects of labels 1.. of a tile: those of which anything is left.

    Scores are sums over their pixels. It was not the tile that found them: its sides cut nothing.
    """
    areas = np.bincount(labels.ravel(), minlength=len(numbers) + 1)
    kept = np.flatnonzero(areas[1:] > 0)
    names = np.zeros(len(numbers) + 1, np.uint32)
    names[kept + 1] = np.arange(1, len(kept) + 1)
    means = (scores[:, kept + 1] / areas[kept + 1]).astype(np.float32)
    _, first = np.unique(answers.prompts, return_index=True)
    return labelled_objects(
        names[labels],
        len(kept),
        tile=tile,
        bounds=bounds,
        reach=(0, 0, 0),
        predicted_iou=means[0],
        stability=means[1],
        points=answers.points[first][kept],
        prompts=numbers[kept],
    )


def _in_window(answers: Answers, pieces: NDArray[np.int64], window: Window) -> NDArray[np.bool_]:
    """(z, y, x) of a window. True: one of some pieces lies there."""
    mask = np.zeros(window.shape, bool)
    for i in pieces.tolist():
        z0, y0, x0, z1, y1, x1 = answers.boxes[i].tolist()
        box = Window(start=(z0, y0, x0), stop=(z1, y1, x1))
        inner = box.intersection(window)
        depth, height, width = box.shape
        part = decode_rle(answers.rles[i], (depth * height, width)).reshape(box.shape)
        if inner.size:
            mask[inner.relative_to(window).slices] |= part[inner.relative_to(box).slices]
    return mask
