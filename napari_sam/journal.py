"""What the user did, as a file that only grows: one line of JSON for each step, each with a seal.

::

    {"samplat": "journal", "version": 1, "shape": [...], ..., "seal": "…"}      the image
    {"do": {...}, "seal": "…"}                                                  a step
    {"undo": true, "seal": "…"}                                                 and back

A seal is a digest of the line and of the seal before it, so that lines neither change nor move nor
go missing between others. A line that is cut is one that was never written: it is dropped. Any
other damage is an error, since what comes after it cannot be trusted.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from napari_sam.blocks import Block
from napari_sam.state import (
    Box,
    Draft,
    History,
    Object,
    Point,
    Polygon,
    Prompt,
    Region,
    Scribble,
    Side,
    Step,
)
from samplat import JobError

log = logging.getLogger(__name__)

VERSION = 1
Line = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Written:
    """What a journal says."""

    header: Line
    """The first line: version, the image's shape, name, digest."""
    lines: tuple[Line, ...]
    """The others, in order, without their seals."""
    size: int
    """Bytes up to the end of the last whole line."""
    seal: str
    """The last line's."""


def read_journal(path: Path) -> Written:
    """All whole lines of a journal; a last line that is cut is not one of them.

    Raises:
        JobError: not a journal, of another version, or damaged elsewhere than at its end.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise JobError(f"cannot read the journal {path}: {error.strerror or error}") from error
    whole, seal, found = data.rfind(b"\n") + 1, "", []
    if whole < len(data):
        log.warning("%s: the last line is cut after %d bytes, and dropped", path, len(data) - whole)
    for number, text in enumerate(data[:whole].splitlines(), 1):
        line, seal = _opened(path, number, text, seal)
        found.append(line)
    _check_header(path, found)
    return Written(header=found[0], lines=tuple(found[1:]), size=whole, seal=seal)


def _opened(path: Path, number: int, text: bytes, before: str) -> tuple[Line, str]:
    try:
        line = json.loads(text)
        seal = line.pop("seal")
        sound = seal == _seal(line, before)
    except (ValueError, AttributeError, KeyError, TypeError):
        sound = False
    if not sound:
        raise JobError(
            f"{path} is damaged in line {number}; what came before is whole: keep a copy, cut the "
            f"file before that line, and open it again"
        )
    return line, seal


def _check_header(path: Path, found: list[Line]) -> None:
    if not found or found[0].get("samplat") != "journal":
        raise JobError(f"{path} is not a journal of samplat, or was cut within its first line")
    if found[0].get("version") != VERSION:
        raise JobError(
            f"{path} is a journal of version {found[0].get('version')}, expected {VERSION}; "
            "open it with the version of samplat that wrote it"
        )


def _text(line: Mapping[str, Any]) -> bytes:
    return json.dumps(line, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _seal(line: Mapping[str, Any], before: str) -> str:
    return hashlib.sha256(before.encode() + _text(line)).hexdigest()[:32]


class Journal:
    """A journal that is being written. Each line is on the disk when `append` returns."""

    def __init__(self, path: Path, *, size: int, seal: str) -> None:
        self.path = path
        self._size, self._seal = size, seal
        self._file = path.open("r+b", buffering=0)
        self._file.truncate(size)
        self._file.seek(size)

    @classmethod
    def create(cls, path: Path, header: Mapping[str, Any]) -> Journal:
        """A new journal of an image.

        Raises:
            JobError: it cannot be written.
        """
        try:
            path.touch(exist_ok=False)
            journal = cls(path, size=0, seal="")
        except OSError as error:
            raise JobError(f"cannot write {path}: {error.strerror or error}") from error
        journal.append({"samplat": "journal", "version": VERSION, **header})
        return journal

    def append(self, line: Mapping[str, Any]) -> None:
        """One more line.

        Raises:
            JobError: the disk is full or failing; the journal is as it was.
        """
        seal = _seal(line, self._seal)
        data = _text({**line, "seal": seal}) + b"\n"
        try:
            self._write(data)
        except OSError as error:
            self._take_back()
            raise JobError(
                f"cannot write {self.path}: {error.strerror or error}; nothing was changed. Make "
                "room and do it again"
            ) from error
        self._size, self._seal = self._size + len(data), seal

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]
        os.fsync(self._file.fileno())

    def _take_back(self) -> None:
        """Cut off what a failed write left; if that fails too, opening does it."""
        try:
            self._file.truncate(self._size)
            self._file.seek(self._size)
        except OSError as error:
            log.warning("%s: %s", self.path, error)

    def close(self) -> None:
        """Release the file."""
        self._file.close()


def step_line(step: Step) -> Line:
    """A step as a line."""
    return {"do": {"name": step.name, "before": _side(step.before), "after": _side(step.after)}}


def history_of(lines: Iterable[Line]) -> tuple[History, list[Block]]:
    """What the lines of a journal lead to, and the pixels that they set, in order.

    Raises:
        JobError: a line that this version does not know.
    """
    history, pixels = History(), []
    for line in lines:
        side, history = _followed(history, line)
        if side.pixels is not None:
            pixels.append(side.pixels)
    return history, pixels


def _followed(history: History, line: Line) -> tuple[Side, History]:
    if "do" in line:
        step = _step_of(line["do"])
        return step.after, history.do(step)
    if line == {"undo": True}:
        return history.done[-1].before, history.undo()
    if line == {"redo": True}:
        return history.undone[-1].after, history.redo()
    raise JobError(f"a line of the journal is neither a step nor its undo: {', '.join(line)}")


def _side(side: Side) -> Line:
    draft = side.draft
    return {
        "draft": {
            "prompts": [_prompt(p) for p in draft.prompts],
            "axes": list(draft.axes),
            "target": draft.target,
            "chosen": draft.chosen,
        },
        "objects": [[number, _object(each)] for number, each in side.objects],
        "following": side.following,
        "pixels": None if side.pixels is None else asdict(side.pixels),
    }


def _prompt(prompt: Prompt) -> Line:
    match prompt:
        case Box(start=start, stop=stop):
            return {"box": [list(start), list(stop)]}
        case Scribble(places=places, positive=positive):
            return {"scribble": [list(each) for each in places], "positive": positive}
        case Polygon(places=places):
            return {"polygon": [list(each) for each in places]}
        case Region(pixels=pixels):
            return {"region": asdict(pixels)}
        case Point(position=position, positive=positive):
            return {"point": list(position), "positive": positive}


def _object(each: Object | None) -> Line | None:
    if each is None:
        return None
    return {**asdict(each), "prompts": [_prompt(p) for p in each.prompts]}


def _step_of(line: Line) -> Step:
    return Step(name=line["name"], before=_side_of(line["before"]), after=_side_of(line["after"]))


def _side_of(line: Line) -> Side:
    draft, pixels = line["draft"], line["pixels"]
    return Side(
        draft=Draft(
            prompts=tuple(_prompt_of(p) for p in draft["prompts"]),
            axes=(draft["axes"][0], draft["axes"][1]),
            target=draft["target"],
            chosen=draft["chosen"],
        ),
        objects=tuple((number, _object_of(each)) for number, each in line["objects"]),
        following=line["following"],
        pixels=None if pixels is None else _block_of(pixels),
    )


def _block_of(line: Line) -> Block:
    return Block(**{name: tuple(values) for name, values in line.items()})


def _places_of(line: list[list[float]]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(each) for each in line)


def _prompt_of(line: Line) -> Prompt:
    if "box" in line:
        start, stop = line["box"]
        return Box(start=tuple(start), stop=tuple(stop))
    if "scribble" in line:
        return Scribble(places=_places_of(line["scribble"]), positive=line["positive"])
    if "polygon" in line:
        return Polygon(places=_places_of(line["polygon"]))
    if "region" in line:
        return Region(pixels=_block_of(line["region"]))
    return Point(position=tuple(line["point"]), positive=line["positive"])


def _object_of(line: Line | None) -> Object | None:
    if line is None:
        return None
    prompts = tuple(_prompt_of(p) for p in line["prompts"])
    plain = {name: tuple(line[name]) for name in ("axes", "start", "stop")}
    return Object(**{**line, **plain, "prompts": prompts})
