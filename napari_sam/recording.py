"""What a person does to a picture of a queue, told to the queue step by step. No Qt.

The journal of the window owns what was done there, the queue what is kept of it. They are compared,
rather than told apart by events: whatever differs is told. So a step that was killed before it was
told is told when the picture is opened again, and undo needs no word of its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_sam.blocks import Block, block_of, mask_block, starts, stops
from napari_sam.pointed import Seen, pointed
from napari_sam.session import Session
from napari_sam.state import FILLED, Object, Step, filled, withdrawn
from napari_sam.stopwatch import Stopwatch
from samplat import InputError, MaskChange, replacing

if TYPE_CHECKING:
    from samplat import PictureWork, Prompts, QueuedMask

TOLD = "recorded.json"
"""In the session's folder: the queue's version of the picture when it was told last, and what of
its masks was under others when they were filled in."""


class Recording:
    """The work in the folder of a session, and the picture of a queue that it is of.

    Args:
        work: the picture.
        watch: measures the person's time for each mask.
    """

    def __init__(self, work: PictureWork, watch: Stopwatch) -> None:
        self.folder, self.work, self._watch = work.room, work, watch
        self._there: dict[str, Block] = {}
        self._hidden: dict[int, Block] = {}
        self._told: dict[int, Object] = {}

    def prepare(self) -> None:
        """Make queue and session agree, before any window has the session. For any thread.

        Raises:
            SamplatError: the session is open elsewhere or damaged, or the queue cannot be told.
        """
        session = Session(self.folder, self.work.picture.size)
        try:
            self._agree(session)
        finally:
            session.close()

    def _agree(self, session: Session) -> None:
        masks = self._look()
        if self._was_there():  # and nobody else since
            self._told = dict(_long_told(session))
            self._tell(session)
            masks = self._look()
        else:
            self._find_hidden(session)
        if self._differs(session):
            self._fill(session, masks)
            self._find_hidden(session)
        self._keep()

    def _look(self) -> Sequence[QueuedMask]:
        """What the queue has."""
        masks = self.work.masks()
        self._there = {each.id: self._block(each) for each in masks}
        return masks

    def _find_hidden(self, session: Session) -> None:
        """What of the queue's masks other objects cover here."""
        self._hidden = {}
        for number, each in session.state.objects.items():
            if (block := self._there.get(_name(each))) is not None:
                labels = session.read(block.window)
                covered = (block.array() != 0) & (labels != 0) & (labels != number)
                if (hidden := mask_block(covered, block.start)) is not None:
                    self._hidden[number] = hidden

    def _fill(self, session: Session, masks: Sequence[QueuedMask]) -> None:
        """Objects of the session are the queue's masks, the small ones above the large ones."""
        objects, values = dict[int, Object](), np.zeros(self.work.picture.size, np.uint32)
        numbers = _numbers(session, [each.id for each in masks])
        large_first = sorted(masks, key=lambda each: -int(each.mask.sum()))
        for each in large_first:
            values[each.mask] = numbers[each.id]
        for each in masks:
            number, block = numbers[each.id], self._block(each)
            old = session.state.objects.get(number)
            objects[number] = replace(
                old or Object(number=number, status="finished", score=each.score),
                origin="" if each.id == _name(Object(number=number)) else each.id,
                area=int((values[block.window] == number).sum()),
                start=starts(block.window),
                stop=stops(block.window),
            )
        session.do(filled, objects, block_of(values, (0, 0)), session.read)

    def _block(self, mask: QueuedMask) -> Block:
        block = mask_block(mask.mask, (0, 0))
        if block is None:
            raise InputError(f"mask {mask.id} of {self.work.picture.path} has no pixels")
        return block

    def _differs(self, session: Session) -> bool:
        """Whether the session's objects are others than the queue's masks."""
        here = {
            _name(each): mask_block(self._mask_of(session, each), (0, 0))
            for each in session.state.objects.values()
        }
        return {name: block for name, block in here.items() if block} != self._there

    def attach(self, session: Session) -> None:
        """The window has opened the session: what changes from now on is told."""
        self._session, self._told = session, dict(session.state.objects)

    def tell(self) -> int:
        """Tell the queue what changed; returns how many masks did.

        Raises:
            SamplatError: the picture is somebody else's by now, or the disk is full. The journal
                has the step, and it is told with the next one.
        """
        return self._tell(self._session)

    def _tell(self, session: Session) -> int:
        objects = session.state.objects
        changed = {n: each for n, each in objects.items() if self._told.get(n) is not each}
        changes = list(self._changes(session, changed))
        if changes:
            share = self._watch.look() / len(changes)
            self.work.record([replace(each, seconds=share) for each in changes])
            self._watch.clear()
            self._keep()
        for each in changes:
            block = None if each.mask is None else mask_block(each.mask, (0, 0))
            self._there.pop(each.id, None)
            if block is not None:
                self._there[each.id] = block
        self._told = dict(objects)
        return len(changes)

    def _changes(self, session: Session, changed: dict[int, Object]) -> Iterator[MaskChange]:
        here = {_name(each) for each in session.state.objects.values()}
        gone = [_name(each) for each in self._told.values() if _name(each) not in here]
        for name in gone:
            if name in self._there:
                yield MaskChange(id=name, mask=None)
        for number, each in changed.items():
            name, mask = _name(each), self._mask_of(session, each)
            block = mask_block(mask, (0, 0))
            if block is None and name in self._there:  # all of it was erased
                yield MaskChange(id=name, mask=None)
            elif block is not None and block != self._there.get(name):
                yield MaskChange(id=name, mask=mask, **self._made_by(number, each))

    def _mask_of(self, session: Session, each: Object) -> NDArray[np.bool_]:
        """What the labels show of an object, and what others still cover of it."""
        mask = np.zeros(self.work.picture.size, bool)
        if each.start:
            mask[each.window] = session.read(each.window) == each.number
        if (hidden := self._hidden.get(each.number)) is not None:
            labels = session.read(hidden.window)
            covered = (labels != 0) & (labels != each.number)
            mask[hidden.window] |= (hidden.array() != 0) & covered
        return mask

    def _made_by(self, number: int, each: Object) -> dict[str, Any]:
        """Prompts and score if the model made the mask; a brush leaves them as they were."""
        old = self._told.get(number)
        if each.score is None or (old and (old.prompts, old.score) == (each.prompts, each.score)):
            return {}
        return {"prompts": _prompts(each, self.work.picture.size), "score": each.score}

    def withdrawal(self, session: Session, number: int) -> Step:
        """Reject an object of a session."""
        by_area = sorted(self._hidden.items(), key=lambda item: -sum(item[1].runs[1::2]))
        return session.do(withdrawn, number, session.read, by_area)

    def _was_there(self) -> bool:
        """Whether the picture is as this session left it; what was hidden then is known again."""
        try:
            told = json.loads((self.folder / TOLD).read_bytes())
            blocks = [{k: tuple(v) for k, v in each.items()} for each in told["hidden"].values()]
            hidden = [Block(**each) for each in blocks]
        except (OSError, ValueError, KeyError, TypeError, InputError):
            return False  # then the queue is believed
        if told.get("version") != self.work.version:
            return False
        self._hidden = dict(zip(map(int, told["hidden"]), hidden, strict=True))
        return True

    def _keep(self) -> None:
        hidden = {number: asdict(block) for number, block in self._hidden.items()}
        told = {"version": self.work.version, "hidden": hidden}
        with replacing(self.folder / TOLD) as place:
            place.write_text(json.dumps(told))


def _name(each: Object) -> str:
    """What an object is called in the queue."""
    return each.origin or f"w{each.number:06}"


def _long_told(session: Session) -> Iterator[tuple[int, Object]]:
    """Objects that were filled in and not touched, and all that are gone by now."""
    moved, here = set[int](), session.state.objects
    for step in (*session.history.undone, *session.history.done):
        for number, each in (*step.before.objects, *step.after.objects):
            if each is not None and number not in here:
                yield number, each
        if step.name != FILLED:
            moved |= {number for number, _ in step.after.objects}
    yield from ((number, each) for number, each in here.items() if number not in moved)


def _numbers(session: Session, names: Sequence[str]) -> dict[str, int]:
    """The object of each mask: its own, or a number that no object of this picture ever had."""
    numbers = {_name(each): n for n, each in session.state.objects.items()}
    ours = {name: int(name[1:]) for name in names if re.fullmatch(r"w\d{6,9}", name)}
    free = max([session.state.following - 1, *ours.values(), *numbers.values()]) + 1
    for name in names:
        if name not in numbers:
            taken = ours.get(name) in (None, *numbers.values())
            numbers[name] = free if taken else ours[name]
            free += taken
    return {name: numbers[name] for name in names}


def _prompts(each: Object, size: tuple[int, int]) -> Prompts | None:
    """Points and box of a mask; None: it was found without."""
    from samplat import Prompts

    said = pointed(each.prompts, Seen(axes=(0, 1), start=(0, 0), step=1, size=size))
    if not len(said.points) and said.box is None:
        return None
    return Prompts(
        points=said.points if len(said.points) else None,
        labels=said.labels if len(said.points) else None,
        boxes=said.box,
    )
