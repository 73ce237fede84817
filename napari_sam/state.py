"""What a person points at, commits, paints and takes back: values, and the steps between them.

Nothing here knows Qt, files or a model. A `Step` holds both of its sides, so that going back is as
plain as going forth; a `History` is a state with the steps that led to it and those taken back.
Positions are pixels of the image, an index per axis; the centre of the first pixel is 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from napari_sam.blocks import Block, Window, block_of, starts, stops, union
from samplat import InputError

Status = Literal["open", "review", "finished"]
Plane = tuple[int | None, ...]
"""An index for each axis that a picture is a slice of, None for the two that it shows."""
Reader = Callable[[Window], NDArray[Any]]
"""Reads the labels of a window."""
FILLED = "fill in"
"""Name of a step that nobody took in the window, and that is not taken back there."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """A click."""

    position: tuple[float, ...]
    """Where, along each axis of the image."""
    positive: bool = True
    """True: on the object; False: on what is not the object."""

    @property
    def place(self) -> tuple[float, ...]:
        """A position in its slice."""
        return self.position


@dataclass(frozen=True, kw_only=True)
class Box:
    """A box around an object on one slice; along the other axes both corners are equal."""

    start: tuple[float, ...]
    """The corner of the smallest coordinates."""
    stop: tuple[float, ...]
    """The corner of the largest ones."""

    @property
    def place(self) -> tuple[float, ...]:
        """A position in its slice."""
        return self.start


@dataclass(frozen=True, kw_only=True)
class Scribble:
    """A line drawn freely over an object, or over what is not the object, on one slice."""

    places: tuple[tuple[float, ...], ...]
    """The positions that it goes through, in order; at least two."""
    positive: bool = True
    """As of points."""

    @property
    def place(self) -> tuple[float, ...]:
        """A position in its slice."""
        return self.places[0]


@dataclass(frozen=True, kw_only=True)
class Polygon:
    """An object's outline on one slice, drawn roughly."""

    places: tuple[tuple[float, ...], ...]
    """Its corners in order; at least three."""

    @property
    def place(self) -> tuple[float, ...]:
        """A position in its slice."""
        return self.places[0]


@dataclass(frozen=True, kw_only=True)
class Region:
    """Pixels of one slice that another label had."""

    pixels: Block
    """1: about where the object is."""

    @property
    def place(self) -> tuple[float, ...]:
        """A position in its slice."""
        return tuple(map(float, self.pixels.start))


Prompt = Point | Box | Scribble | Polygon | Region


def ends_of(prompt: Prompt) -> tuple[tuple[float, ...], ...]:
    """The positions that a prompt is made of; the corners of its box, if it has one."""
    match prompt:
        case Point(position=position):
            return (position,)
        case Box(start=start, stop=stop):
            return (start, stop)
        case Region(pixels=pixels):
            last = (a.stop - 1.0 for a in pixels.window)
            return (prompt.place, tuple(last))
        case _:
            return prompt.places


def says_where(prompt: Prompt) -> bool:
    """Whether it says where the object is, and not only where it is not."""
    return not isinstance(prompt, Point | Scribble) or prompt.positive


@dataclass(frozen=True, kw_only=True)
class Draft:
    """What is being pointed at and is not an object yet."""

    prompts: tuple[Prompt, ...] = ()
    """In the order in which they were placed."""
    axes: tuple[int, int] = (0, 1)
    """The axes of the slice that was shown when the last one was placed, the smaller first."""
    target: int | None = None
    """The object that is refined; None: it will be a new one."""
    chosen: int = 0
    """Which of the candidate masks is shown, the best is 0."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A mask that the model offers."""

    mask: Block
    """1: the pixel belongs to the object."""
    score: float
    """The model's own estimate of the mask's IoU with what was meant."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """What the model is asked: all that its answer depends on but for the image."""

    prompts: tuple[Prompt, ...]
    """Those of one slice."""
    plane: Plane
    """The slice."""
    target: int | None
    """The object whose mask is a prompt too; None if there is none."""


@dataclass(frozen=True, kw_only=True)
class Preview:
    """An answer."""

    question: Question
    """What was asked."""
    candidates: tuple[Candidate, ...]
    """Best first; none if nothing was found."""


@dataclass(frozen=True, kw_only=True)
class StackQuestion:
    """What is asked of a stack of slices: all that the object depends on but for the image."""

    prompts: tuple[Prompt, ...]
    """Those on slices of the stack."""
    plane: Plane
    """An index for each axis that the stack has no part in, None for its three."""
    axes: tuple[int, int]
    """The two of those that a slice shows, the smaller first."""
    target: int | None
    """The object that it will be; None: a new one."""
    extent: tuple[int, int] | None = None
    """The first and last slice that it may be in; None: anywhere."""
    three: bool = False
    """True: slices across all three axes are looked at."""

    @property
    def axis(self) -> int:
        """The axis that slices are across."""
        (axis,) = (n for n, at in enumerate(self.plane) if at is None and n not in self.axes)
        return axis

    @property
    def stacked(self) -> tuple[int, int, int]:
        """The stack's axes, ascending."""
        first, second, third = (n for n, at in enumerate(self.plane) if at is None)
        return first, second, third


@dataclass(frozen=True, kw_only=True)
class StackPreview:
    """An answer: the object as far as it was followed."""

    question: StackQuestion
    """What was asked."""
    slices: tuple[tuple[int, Candidate], ...]
    """By slice, ascending: the object there, and how confident it is."""


@dataclass(frozen=True, kw_only=True)
class Object:
    """An object that was committed or painted."""

    number: int
    """Its label, from 1."""
    prompts: tuple[Prompt, ...] = ()
    """What it was made from."""
    axes: tuple[int, int] = (0, 1)
    """The axes of the slice that the last of them were placed on."""
    kind: str = ""
    """Its class, as the user names it."""
    status: Status = "open"
    """What the user says of it; finished objects are protected from every change."""
    score: float | None = None
    """Predicted IoU of its last mask, or the mean confidence of its slices; None if painted."""
    note: str = ""
    """A reviewer's remark."""
    origin: str = ""
    """What it is called where it came from; empty if it was made here."""
    area: int = 0
    """Number of pixels."""
    start: tuple[int, ...] = ()
    """First pixel of a box that holds it, and has held it before corrections."""
    stop: tuple[int, ...] = ()
    """One past that box's last pixel."""

    @property
    def window(self) -> Window:
        """The box that holds it."""
        return tuple(slice(a, b) for a, b in zip(self.start, self.stop, strict=True))


@dataclass(frozen=True, kw_only=True)
class Side:
    """What a step touches, as it is before or after."""

    draft: Draft
    """The whole draft."""
    objects: tuple[tuple[int, Object | None], ...]
    """Objects by number; None: there is none."""
    following: int
    """Number of the next new object."""
    pixels: Block | None
    """Labels of the pixels that it changes; None if it changes none."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One thing that the user did."""

    name: str
    """What, for menus and logs."""
    before: Side
    """As it was."""
    after: Side
    """As it is then."""

    def inverse(self) -> Step:
        """What takes it back."""
        return replace(self, before=self.after, after=self.before)


@dataclass(frozen=True, kw_only=True)
class State:
    """Everything but the labels."""

    draft: Draft = field(default_factory=Draft)
    """What is being pointed at."""
    objects: Mapping[int, Object] = field(default_factory=dict)
    """By number."""
    following: int = 1
    """Number of the next new object; numbers of deleted ones are not given again."""
    preview: Preview | None = None
    """The answer to the present question; None: none has come yet. It is no part of any step."""
    stack: StackPreview | None = None
    """Likewise of the stack, if that was asked."""

    def after(self, side: Side) -> State:
        """The state with one side of a step in place."""
        objects = dict(self.objects)
        for number, each in side.objects:
            objects.pop(number, None)
            if each is not None:
                objects[number] = each
        ordered = dict(sorted(objects.items()))
        moved = State(draft=side.draft, objects=ordered, following=side.following)
        moved = moved if self.preview is None else moved.previewed(self.preview)
        return moved if self.stack is None else moved.followed(self.stack)

    def previewed(self, preview: Preview) -> State:
        """With an answer, if it is one to the present question."""
        return replace(self, preview=preview) if preview.question == question(self) else self

    def followed(self, stack: StackPreview) -> State:
        """With an answer of a stack, if it is one to the present prompts."""
        return replace(self, stack=stack) if answers(self, stack.question) else self

    @property
    def candidate(self) -> Candidate | None:
        """The mask that is shown."""
        if self.preview is None or not self.preview.candidates:
            return None
        return self.preview.candidates[self.draft.chosen % len(self.preview.candidates)]


@dataclass(frozen=True, kw_only=True)
class History:
    """A state, how it came about, and what was taken back."""

    state: State = field(default_factory=State)
    """The present."""
    done: tuple[Step, ...] = ()
    """Steps that led here, the last one last."""
    undone: tuple[Step, ...] = ()
    """Steps that were taken back, the next to redo last."""

    def do(self, step: Step) -> History:
        """One step further; what was taken back is given up."""
        return History(state=self.state.after(step.after), done=(*self.done, step))

    def undo(self) -> History:
        """One step back.

        Raises:
            InputError: there is none.
        """
        if not self.done or self.done[-1].name == FILLED:
            raise InputError("there is nothing to undo")
        step = self.done[-1]
        return History(
            state=self.state.after(step.before),
            done=self.done[:-1],
            undone=(*self.undone, step),
        )

    def redo(self) -> History:
        """One step forth again.

        Raises:
            InputError: nothing was taken back since the last step.
        """
        if not self.undone:
            raise InputError("there is nothing to redo")
        step = self.undone[-1]
        return History(
            state=self.state.after(step.after),
            done=(*self.done, step),
            undone=self.undone[:-1],
        )

    def previewed(self, preview: Preview) -> History:
        """With an answer, if it is one to the present question."""
        return replace(self, state=self.state.previewed(preview))

    def followed(self, stack: StackPreview) -> History:
        """With an answer of a stack, if it is one to the present prompts."""
        return replace(self, state=self.state.followed(stack))

    def unfollowed(self) -> History:
        """Without one."""
        return replace(self, state=replace(self.state, stack=None))


def plane_of(place: Sequence[float], axes: Sequence[int]) -> Plane:
    """The slice that a position lies in, or the stack, if there are three axes."""
    return tuple(None if n in axes else round(at) for n, at in enumerate(place))


def _lies_in(prompt: Prompt, plane: Plane, axes: Sequence[int]) -> bool:
    return all(plane_of(end, axes) == plane for end in ends_of(prompt))


def question(state: State) -> Question | None:
    """What to ask: the prompts of the newest one's slice; None while none says what is meant."""
    draft = state.draft
    if not draft.prompts:
        return None
    plane = plane_of(draft.prompts[-1].place, draft.axes)
    here = tuple(p for p in draft.prompts if _lies_in(p, plane, draft.axes))
    refined = draft.target is not None
    if not refined and not any(says_where(p) for p in here):
        return None
    return Question(prompts=here, plane=plane, target=draft.target)


def stack_question(
    state: State, *, extent: tuple[int, int] | None = None, three: bool = False
) -> StackQuestion:
    """What to ask of the stack that the newest prompt lies in: all prompts on its slices.

    It has the axes of the slices on which prompts were placed, and the last of the others.

    Raises:
        InputError: the image has no third axis, or no prompt says where the object is.
    """
    draft = state.draft
    if not any(says_where(p) for p in draft.prompts):
        raise InputError("place a point, a box or a line on the object first, on any slice")
    place = draft.prompts[-1].place
    others = [n for n in range(len(place)) if n not in draft.axes]
    if not others:
        raise InputError("an image of two axes has no slices to follow an object through")
    plane = plane_of(place, (*draft.axes, others[-1]))
    asked = StackQuestion(
        prompts=(), plane=plane, axes=draft.axes, target=draft.target, extent=extent, three=three
    )
    return replace(asked, prompts=_on_slices(draft, asked))


def answers(state: State, asked: StackQuestion) -> bool:
    """Whether a question is about the present prompts."""
    draft = state.draft
    same = (draft.axes, draft.target) == (asked.axes, asked.target)
    return same and bool(asked.prompts) and _on_slices(draft, asked) == asked.prompts


def _on_slices(draft: Draft, asked: StackQuestion) -> tuple[Prompt, ...]:
    stack = asked.stacked

    def flat(prompt: Prompt) -> bool:
        return _lies_in(prompt, plane_of(prompt.place, asked.axes), asked.axes)

    return tuple(p for p in draft.prompts if _lies_in(p, asked.plane, stack) and flat(p))


def prompted(state: State, prompts: Iterable[Prompt], axes: tuple[int, int]) -> Step:
    """Prompts were placed, moved or removed."""
    draft = replace(state.draft, prompts=tuple(prompts), axes=axes, chosen=0)
    return _step(state, "prompts", draft=draft)


def added(state: State, prompt: Prompt, axes: tuple[int, int]) -> Step:
    """One more prompt."""
    return prompted(state, (*state.draft.prompts, prompt), axes)


def suggested(
    state: State, region: Region, axes: tuple[int, int], target: int | None = None
) -> Step:
    """A label's pixels become a prompt.

    Args:
        state: as it is.
        region: the pixels.
        axes: of the slice that they lie in.
        target: the object whose they are, which is to be refined; None: they are nobody's here, and
            the draft goes on.

    Raises:
        InputError: there is no such object, or it is finished.
    """
    if target is None or target == state.draft.target:
        return added(state, region, axes)
    _unprotected(state, target)
    draft = Draft(prompts=(region,), axes=axes, target=target)
    return _step(state, f"refine {target}", draft=draft)


def removed(state: State, index: int) -> Step:
    """One prompt less, by its place in the order.

    Raises:
        InputError: there is none.
    """
    prompts = state.draft.prompts
    if not 0 <= index < len(prompts):
        raise InputError(f"there are {len(prompts)} prompts, none has the number {index}")
    return prompted(state, prompts[:index] + prompts[index + 1 :], state.draft.axes)


def cleared(state: State) -> Step:
    """The draft is dropped.

    Raises:
        InputError: there is none.
    """
    if state.draft == Draft():
        raise InputError("there are no prompts to clear")
    return _step(state, "clear", draft=Draft())


def next_candidate(state: State) -> Step:
    """The next of the masks that the model offers, after the last the first.

    Raises:
        InputError: there is no mask yet.
    """
    if state.preview is None or not state.preview.candidates:
        raise InputError("there are no masks to choose from; place a point or a box first")
    chosen = (state.draft.chosen + 1) % len(state.preview.candidates)
    return _step(state, "next mask", draft=replace(state.draft, chosen=chosen))


def refining(state: State, number: int) -> Step:
    """An object's prompts become the draft, to be added to.

    Raises:
        InputError: there is no such object, or it is finished.
    """
    found = _unprotected(state, number)
    draft = Draft(prompts=found.prompts, axes=found.axes, target=number)
    return _step(state, f"refine {number}", draft=draft)


def committed(state: State, read: Reader, *, over: bool = False) -> Step:
    """The mask that is shown becomes an object, or replaces the refined one's on its slice.

    Args:
        state: with a preview.
        read: the labels as they are.
        over: True: it also takes pixels of objects that are not finished; False: only free ones.

    Raises:
        InputError: there is no mask, or all its pixels belong to others.
    """
    if state.stack is not None:
        return _committed_stack(state, state.stack, read, over=over)
    shown, asked = state.candidate, question(state)
    if shown is None or asked is None:
        raise InputError("there is no mask to commit; place a point or a box and wait for it")
    masks, axes = [shown.mask], state.draft.axes
    return _made(state, masks, asked, axes, score=shown.score, read=read, over=over)


def _committed_stack(state: State, stack: StackPreview, read: Reader, *, over: bool) -> Step:
    if not stack.slices:
        raise InputError("the object is on no slice; place a point or a box on it")
    found = [each for _, each in stack.slices]
    score = sum(each.score for each in found) / len(found)
    masks, asked = [each.mask for each in found], stack.question
    return _made(state, masks, asked, asked.stacked, score=score, read=read, over=over)


def _made(
    state: State,
    masks: Sequence[Block],
    asked: Question | StackQuestion,
    shown: Sequence[int],
    *,
    score: float,
    read: Reader,
    over: bool,
) -> Step:
    """Masks become an object, or replace the refined one's pixels in the slice or stack asked."""
    number = state.following if asked.target is None else asked.target
    old = Object(number=number) if asked.target is None else _unprotected(state, number)
    window = _to_change(masks, old, asked.plane)
    under = read(window)
    values = np.where(under == number, 0, under)
    mask = _joint(masks, window)
    kept = np.isin(values, _finished(state)) if over else values != 0
    values[mask & ~kept] = number
    if not (values == number).any():
        raise InputError("every pixel of this mask belongs to another object already")
    rest = tuple(p for p in state.draft.prompts if p not in asked.prompts)
    axes = state.draft.axes
    others = tuple(p for p in old.prompts if not _lies_in(p, asked.plane, shown))
    made = replace(old, prompts=others + asked.prompts, axes=axes, score=score)
    return _step(
        state,
        f"commit {number}",
        draft=Draft(prompts=rest, axes=axes) if rest else Draft(),
        objects={number: made},
        following=max(state.following, number + 1),
        pixels=(window, under, values),
    )


def _joint(masks: Sequence[Block], window: Window) -> NDArray[np.bool_]:
    """Masks in a window that holds them."""
    joint = np.zeros([w.stop - w.start for w in window], bool)
    for each in masks:
        inside = tuple(
            slice(a.start - b.start, a.stop - b.start)
            for a, b in zip(each.window, window, strict=True)
        )
        joint[inside] |= each.array() != 0
    return joint


def gathered(
    state: State,
    found: Block,
    scores: Sequence[float],
    axes: tuple[int, int],
    read: Reader,
    *,
    over: bool = False,
) -> Step:
    """Masks that were found without prompts become objects, all in one step.

    Args:
        state: as it is.
        found: 1 for the pixels of the first mask, 2 for those of the second, ...; 0 for none's.
        scores: predicted IoU of each.
        axes: of the slice that they lie in.
        read: the labels as they are.
        over: as of `committed`.

    Raises:
        InputError: all their pixels belong to others.
    """
    under, values = read(found.window), found.array()
    kept = np.isin(under, _finished(state)) if over else under != 0
    values[kept] = 0
    there = [int(n) for n in np.unique(values) if n]
    if not there:
        raise InputError("every pixel of these masks belongs to another object already")
    numbers = np.zeros(len(scores) + 1, np.uint32)
    numbers[there] = state.following + np.arange(len(there))
    made = {
        int(numbers[n]): Object(number=int(numbers[n]), axes=axes, score=scores[n - 1])
        for n in there
    }
    return _step(
        state,
        f"commit {len(there)} masks",
        objects=made,
        following=state.following + len(there),
        pixels=(found.window, under, np.where(values > 0, numbers[values], under)),
    )


def filled(state: State, objects: Mapping[int, Object], labels: Block, read: Reader) -> Step:
    """Objects and labels are these now, whatever was there; the draft stays if it can.

    Args:
        state: as it is.
        objects: all of them, by number, with their areas and boxes.
        labels: of all pixels.
        read: the labels as they are.
    """
    gone = {n: None for n in state.objects if n not in objects}
    changed = {n: each for n, each in objects.items() if state.objects.get(n) != each}
    kept = state.draft if state.draft.target in (None, *objects) else Draft()
    step = _step(
        state,
        FILLED,
        draft=kept,
        objects={**gone, **changed},
        following=max([state.following, *(n + 1 for n in objects)]),
        pixels=(labels.window, read(labels.window), labels.array()),
    )
    # areas and boxes are told, and tighter than what the step would make of them
    told = tuple((n, None if each is None else objects[n]) for n, each in step.after.objects)
    return replace(step, after=replace(step.after, objects=told))


def withdrawn(
    state: State, number: int, read: Reader, below: Iterable[tuple[int, Block]] = ()
) -> Step:
    """An object goes, protected or not, and what lay below it is to be seen.

    Args:
        state: as it is.
        number: the object.
        read: the labels as they are.
        below: other objects' pixels that may have been covered; later ones lie on earlier ones.

    Raises:
        InputError: there is no such object.
    """
    found = _object(state, number)
    draft = Draft() if state.draft.target == number else state.draft
    pixels = None
    if found.start:
        under = read(found.window)
        free, values = under == number, np.where(under == number, 0, under)
        for other, block in below:
            if other != number and other in state.objects:
                hidden = _joint_within(block, found.window)
                values[free & hidden] = other
        pixels = (found.window, under, values)
    return _step(state, f"reject {number}", draft=draft, objects={number: None}, pixels=pixels)


def _joint_within(block: Block, window: Window) -> NDArray[np.bool_]:
    """Where a block is not 0, in a window that need not hold it."""
    whole = union(block.window, window)
    inside = tuple(
        slice(a.start - b.start, a.stop - b.start) for a, b in zip(window, whole, strict=True)
    )
    return _joint([block], whole)[inside]


def deleted(state: State, number: int, read: Reader) -> Step:
    """An object goes.

    Raises:
        InputError: there is no such object, or it is finished.
    """
    found = _unprotected(state, number)
    draft = Draft() if state.draft.target == number else state.draft
    pixels = None
    if found.start:
        under = read(found.window)
        pixels = (found.window, under, np.where(under == number, 0, under))
    return _step(state, f"delete {number}", draft=draft, objects={number: None}, pixels=pixels)


def described(
    state: State,
    number: int,
    *,
    kind: str | None = None,
    status: Status | None = None,
    note: str | None = None,
) -> Step:
    """An object's class, status or note changes; None leaves each as it is.

    Raises:
        InputError: there is no such object or status.
    """
    found = _object(state, number)
    if status is not None and status not in get_args(Status):
        raise InputError(f"expected a status of {', '.join(get_args(Status))}; got {status!r}")
    told: dict[str, Any] = {"kind": kind, "status": status, "note": note}
    changed = replace(found, **{k: v for k, v in told.items() if v is not None})
    return _step(state, f"describe {number}", objects={number: changed})


def painted(state: State, start: Sequence[int], under: NDArray[Any], values: NDArray[Any]) -> Step:
    """Brush, eraser or fill changed labels. Pixels of finished objects stay as they were.

    Args:
        state: as it is.
        start: the first pixel of the box that holds the change.
        under: labels of the box before.
        values: labels of the box after.

    Raises:
        InputError: nothing is left of the change, because finished objects are protected.
    """
    finished = _finished(state)
    kept = np.isin(under, finished) | np.isin(values, finished)
    allowed = np.where(kept, under, values)
    if not (allowed != under).any():
        raise InputError("finished objects are protected; set their status to open to change them")
    window = tuple(slice(a, a + n) for a, n in zip(start, under.shape, strict=True))
    new = [int(n) for n in np.unique(allowed[allowed != under]) if n and n not in state.objects]
    return _step(
        state,
        "paint",
        objects={n: Object(number=n) for n in new},
        following=max([state.following, *(n + 1 for n in new)]),
        pixels=(window, under, allowed),
    )


def _step(
    state: State,
    name: str,
    *,
    draft: Draft | None = None,
    objects: Mapping[int, Object | None] | None = None,
    following: int | None = None,
    pixels: tuple[Window, NDArray[Any], NDArray[Any]] | None = None,
) -> Step:
    changed = dict(objects or {})
    blocks: tuple[Block | None, Block | None] = (None, None)
    if pixels is not None and (pixels[1] != pixels[2]).any():
        changed |= _measured(state, changed, *pixels)
        window, under, values = pixels
        blocks = (block_of(under, starts(window)), block_of(values, starts(window)))
    before = tuple((n, state.objects.get(n)) for n in sorted(changed))
    return Step(
        name=name,
        before=Side(draft=state.draft, objects=before, following=state.following, pixels=blocks[0]),
        after=Side(
            draft=state.draft if draft is None else draft,
            objects=tuple(sorted(changed.items())),
            following=state.following if following is None else following,
            pixels=blocks[1],
        ),
    )


def _measured(
    state: State,
    changed: Mapping[int, Object | None],
    window: Window,
    under: NDArray[Any],
    values: NDArray[Any],
) -> dict[int, Object]:
    """Objects whose pixels change, with their new areas and boxes."""
    differ = under != values
    lost = dict(zip(*np.unique(under[differ], return_counts=True), strict=True))
    won = dict(zip(*np.unique(values[differ], return_counts=True), strict=True))
    measured = {}
    for number in {int(n) for n in (*lost, *won)} - {0}:
        each = changed[number] if number in changed else state.objects.get(number)
        if each is not None:
            area = each.area + int(won.get(number, 0)) - int(lost.get(number, 0))
            box = _grown(each, window) if number in won else each.window
            measured[number] = replace(each, area=area, start=starts(box), stop=stops(box))
    return measured


def _grown(each: Object, window: Window) -> Window:
    return union(each.window, window) if each.start else window


def _to_change(masks: Sequence[Block], old: Object, plane: Plane) -> Window:
    """The masks' window, and with it all of the old object in that slice or stack."""
    windows = [mask.window for mask in masks]
    if old.start:
        windows.append(
            tuple(
                b if at is None else slice(at, at + 1)
                for b, at in zip(old.window, plane, strict=True)
            )
        )
    return reduce(union, windows)


def _finished(state: State) -> list[int]:
    return [n for n, each in state.objects.items() if each.status == "finished"]


def _object(state: State, number: int) -> Object:
    if number not in state.objects:
        raise InputError(f"there is no object {number}")
    return state.objects[number]


def _unprotected(state: State, number: int) -> Object:
    found = _object(state, number)
    if found.status == "finished":
        raise InputError(f"object {number} is finished; set its status to open to change it")
    return found
