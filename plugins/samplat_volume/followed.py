"""Objects that were followed through a volume, and the files that remember them.

::

    JOB/run.json          what all objects depend on: image, grey values, model, plane, settings
    JOB/objects/17.npz    object 17: its prompts, its slices, and what other objects held meanwhile

A file appears whole, the checksums of its zip notice damage, and what is damaged is made again. An
object is taken from its file where its prompts and its surroundings are the same. Where only its
prompts differ, `propagate` is given what is there, and asks the slices anew that they touch.
"""

from __future__ import annotations

import json
import math
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samplat import InputError, JobError, replacing
from samplat_volume.projection import Known
from samplat_volume.propagation import Propagation, Settings, Taken, same_prompts
from samplat_volume.slices import Mask, SlicePrompt
from samplat_volume.walks import SliceResult, Walk

FORMAT = 1
"""Of the files; others are not read."""
UNREADABLE = (
    OSError, ValueError, KeyError, IndexError, TypeError, EOFError, zipfile.BadZipFile, zlib.error,
    InputError,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class PlaneOpinion:
    """What the slices across an axis said, without their masks."""

    axis: int
    """0, 1 or 2: across z, y or x."""
    confidences: NDArray[np.float32]
    """(slices,) NaN where the object is not."""
    dice: float
    """With the consensus."""

    @property
    def confidence(self) -> float:
        """The mean over the slices in which the object is."""
        known = self.confidences[np.isfinite(self.confidences)]
        return float(known.mean()) if known.size else 0.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Followed:
    """An object that is finished."""

    first: Propagation
    """Along the axis of its prompts."""
    consensus: Mask | None = None
    """(z, y, x) what three axes agree on; None: only one was looked along."""
    opinions: tuple[PlaneOpinion, ...] = ()
    """Of the three."""

    def masks(self, axis: int) -> Iterator[tuple[int, Mask]]:
        """The object slice by slice across the axis of its prompts."""
        if self.consensus is None:
            yield from ((k, result.mask) for k, result in self.first.slices.items())
            return
        stack = np.moveaxis(self.consensus, axis, 0)
        yield from ((int(k), stack[k]) for k in np.flatnonzero(stack.any(axis=(1, 2))))

    @property
    def looked_at(self) -> range:
        """Slices in which the voxels of other objects mattered, with those between them."""
        if self.consensus is not None:
            return range(self.first.shape[0])
        places = [*self.first.slices, *(w.reached for w in self.first.walks)]
        return range(min(places), max(places) + 1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Remembered:
    """An object as it was in an earlier run."""

    followed: Followed
    """The object."""
    held: Mapping[int, Mask]
    """(H, W) of the slices that it looked at. True: the voxel was another object's."""

    def still_holds(self, prompts: Mapping[int, SlicePrompt], taken: Taken) -> bool:
        """Whether following it again would give the same."""
        same = same_prompts(self.followed.first.prompts, prompts)
        return same and all(np.array_equal(mask, taken(k)) for k, mask in self.held.items())

    def helps(self, taken: Taken) -> bool:
        """Whether its walks are worth something to `propagate`: no voxel became free."""
        return not any((mask & ~taken(k)).any() for k, mask in self.held.items())


class Memory:
    """The directory of a run.

    Args:
        folder: made where there is none.
        identity: JSON values on which every object depends.
        overwrite: forget what another run left there.

    Raises:
        JobError: another run's objects are there, or it cannot be written.
    """

    def __init__(
        self, folder: Path, identity: Mapping[str, Any], *, overwrite: bool = False
    ) -> None:
        self._folder, told = folder, {"format": FORMAT, **identity}
        record = folder / "run.json"
        before = _read_json(record)
        if before is not None and before != told:
            if not overwrite:
                names = [n for n in told.keys() | before.keys() if told.get(n) != before.get(n)]
                raise JobError(
                    f"{folder} holds objects of a run that differs in {', '.join(sorted(names))}; "
                    "choose another --job-dir, or --overwrite"
                )
            before = None
        _make(folder / "objects")
        if before is None:
            for file in (folder / "objects").glob("*.npz"):
                file.unlink()
            with replacing(record) as written:
                written.write_text(json.dumps(told, indent=1, sort_keys=True) + "\n")

    def get(self, number: int, settings: Settings) -> Remembered | None:
        """An object of an earlier run; None where there is none, or it cannot be read."""
        try:
            # numpy would leave a file open that is no zip
            with self._file(number).open("rb") as file, np.load(file, allow_pickle=False) as stored:
                return _remembered({name: stored[name] for name in stored.files}, settings)
        except UNREADABLE:
            return None

    def put(self, number: int, followed: Followed, taken: Taken) -> None:
        """Keep an object, whole or not at all.

        Raises:
            JobError: the disk is full or failing.
        """
        arrays: Any = _arrays(followed, taken)
        with replacing(self._file(number)) as written:
            np.savez_compressed(written, **arrays)

    def _file(self, number: int) -> Path:
        return self._folder / "objects" / f"{number}.npz"


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise JobError(
            f"cannot make {folder}: {error.strerror}; choose another --job-dir"
        ) from None


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}  # damaged: none that is equal to ours


class _Masks:
    """Masks of one shape, on their way into one array of bits."""

    def __init__(self) -> None:
        self._rows: list[NDArray[np.uint8]] = []

    def add(self, mask: Mask) -> int:
        """Its number."""
        self._rows.append(np.packbits(mask))
        return len(self._rows) - 1

    def packed(self) -> NDArray[np.uint8]:
        """(masks, bytes)."""
        return np.stack(self._rows) if self._rows else np.zeros((0, 0), np.uint8)


def _arrays(followed: Followed, taken: Taken) -> dict[str, NDArray[Any]]:
    first, masks = followed.first, _Masks()
    results = {id(r): r for w in first.walks for r in w.results.values()}
    results |= {id(r): r for r in first.slices.values()}
    order = {key: number for number, key in enumerate(results)}
    facts = {
        "format": FORMAT,
        "shape": first.shape,
        "results": [
            (masks.add(r.mask), r.predicted_iou, r.agreement, r.origin) for r in results.values()
        ],
        "slices": [(k, order[id(r)]) for k, r in first.slices.items()],
        "walks": [
            {
                "start": w.start,
                "direction": w.direction,
                "end": w.end,
                "reached": w.reached,
                "results": [(k, order[id(r)]) for k, r in w.results.items()],
                "tips": [(k, masks.add(tip)) for k, tip in w.tips.items()],
            }
            for w in first.walks
        ],
        "prompts": [(k, _prompt_facts(p, masks)) for k, p in first.prompts.items()],
        "annotated": [(k, masks.add(known.mask)) for k, known in first.annotated.items()],
        "held": [(k, masks.add(taken(k))) for k in followed.looked_at],
        "opinions": [(o.axis, o.dice) for o in followed.opinions],
        "consensus": None if followed.consensus is None else followed.consensus.shape,
    }
    arrays: dict[str, NDArray[Any]] = {f"opinion{o.axis}": o.confidences for o in followed.opinions}
    for k, known in first.annotated.items():
        if known.logits is not None:
            arrays[f"logits{k}"] = np.asarray(known.logits)
    if followed.consensus is not None:
        arrays["consensus"] = np.packbits(followed.consensus)
    arrays["masks"] = masks.packed()
    return arrays | {"facts": np.frombuffer(json.dumps(facts).encode(), np.uint8)}


def _prompt_facts(prompt: SlicePrompt, masks: _Masks) -> dict[str, Any]:
    told = {n: getattr(prompt, n) for n in ("points", "labels", "box")}
    facts = {n: None if v is None else np.asarray(v).tolist() for n, v in told.items()}
    return facts | {"drawn": None if prompt.drawn is None else masks.add(prompt.drawn)}


def _remembered(arrays: Mapping[str, NDArray[Any]], settings: Settings) -> Remembered:
    facts = json.loads(arrays["facts"].tobytes())
    if facts["format"] != FORMAT:
        raise ValueError("another format")
    size = tuple(facts["shape"][1:])
    masks = [_unpacked(row, size) for row in arrays["masks"]]
    return Remembered(
        followed=Followed(
            first=_propagation_of(facts, arrays, masks, settings),
            consensus=facts["consensus"] and _unpacked(arrays["consensus"], facts["consensus"]),
            opinions=tuple(
                PlaneOpinion(axis=axis, dice=dice, confidences=arrays[f"opinion{axis}"])
                for axis, dice in facts["opinions"]
            ),
        ),
        held={k: masks[m] for k, m in facts["held"]},
    )


def _propagation_of(
    facts: Mapping[str, Any],
    arrays: Mapping[str, NDArray[Any]],
    masks: Sequence[Mask],
    settings: Settings,
) -> Propagation:
    results = [
        SliceResult(mask=masks[m], predicted_iou=iou, agreement=agreement, origin=origin)
        for m, iou, agreement, origin in facts["results"]
    ]
    count, height, width = facts["shape"]
    return Propagation(
        shape=(count, height, width),
        slices=MappingProxyType({k: results[r] for k, r in facts["slices"]}),
        prompts=MappingProxyType({k: _prompt_of(told, masks) for k, told in facts["prompts"]}),
        settings=settings,
        annotated=MappingProxyType(
            {k: _known_of(k, masks[m], arrays.get(f"logits{k}")) for k, m in facts["annotated"]}
        ),
        walks=tuple(_walk_of(told, results, masks) for told in facts["walks"]),
        cancelled=False,
    )


def _prompt_of(told: Mapping[str, Any], masks: Sequence[Mask]) -> SlicePrompt:
    drawn = None if told["drawn"] is None else masks[told["drawn"]]
    return SlicePrompt(points=told["points"], labels=told["labels"], box=told["box"], drawn=drawn)


def _known_of(index: int, mask: Mask, logits: NDArray[Any] | None) -> Known:
    return Known(index=index, soft=mask.astype(np.float32), logits=logits)


def _walk_of(
    told: Mapping[str, Any], results: Sequence[SliceResult], masks: Sequence[Mask]
) -> Walk:
    return Walk(
        start=told["start"],
        direction=told["direction"],
        results={k: results[r] for k, r in told["results"]},
        end=told["end"],
        reached=told["reached"],
        tips={k: masks[m] for k, m in told["tips"]},
    )


def _unpacked(bits: NDArray[np.uint8], shape: Sequence[int]) -> Mask:
    return np.unpackbits(bits, count=math.prod(shape)).reshape(shape).view(bool)
