"""Pictures whose truth is known, a model that segments them by colour, a person who follows rules.

Imports no torch: processes that race or are killed import it anew.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
from PIL import Image

from samplat import InputError, MaskSet, Prompts, mask_set
from samplat_train.engine import Candidate, ModelReference, Parameters, Project, Session

SIZE = (40, 56)
ORACLE = ModelReference(name="oracle", sha256=hashlib.sha256(b"oracle").hexdigest())
GOOD_ENOUGH = 0.8


def picture(seed: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """(H, W, 3): rectangles of distinct greys from 10 on, in the cells of a grid; 0 around them."""
    rng = np.random.default_rng(seed)
    grey = np.zeros(size, np.uint8)
    for k, (y, x) in enumerate([(0, 0), (0, 28), (20, 0), (20, 28)]):
        h, w = rng.integers(10, 18), rng.integers(11, 26)
        grey[y + 1 : y + 1 + h, x + 1 : x + 1 + w] = 10 + 20 * k + rng.integers(0, 10)
    return np.repeat(grey[..., None], 3, axis=2)


def truth_of(image: np.ndarray) -> list[np.ndarray]:
    grey = image[..., 0]
    return [grey == v for v in np.unique(grey) if v]


def write_pictures(folder: Path, count: int) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i:03}.png" for i in range(count)]
    for i, path in enumerate(paths):
        Image.fromarray(picture(i)).save(path)
    return paths


class Oracle:
    """Answers with the object of the colour under the first point; objects of odd grey badly."""

    def __init__(self, reference: ModelReference = ORACLE) -> None:
        self.reference = reference
        self.calls = 0

    def prepare(self, image: np.ndarray) -> np.ndarray:
        return image

    def answer(self, prepared: np.ndarray, prompts: Prompts) -> tuple[Candidate, ...]:
        prompts.check_inside(prepared.shape[:2])
        x, y = (int(v) for v in prompts.points[0, 0])
        mask = _half_if_odd(prepared, prepared[..., 0] == prepared[y, x, 0])
        logits = np.where(mask, 4, -4).astype(np.float32)
        return (
            Candidate(mask=mask, predicted_iou=0.9, stability=0.97, prompts=prompts, logits=logits),
        )

    def confident(self, image: np.ndarray, parameters: Parameters) -> MaskSet:
        return self._masks(image, [m for m in truth_of(image) if not _odd(image, m)])

    def everything(self, image: np.ndarray, parameters: Parameters) -> MaskSet:
        speck = np.zeros(image.shape[:2], bool)
        speck[0, :3] = True
        nearly_all = np.ones(image.shape[:2], bool)
        nearly_all[0] = False
        return self._masks(image, [*truth_of(image), speck, nearly_all])

    def _masks(self, image: np.ndarray, masks: list[np.ndarray]) -> MaskSet:
        self.calls += 1
        if not masks:
            return mask_set(np.zeros((0, *image.shape[:2]), bool))
        points = np.array([np.argwhere(m)[0][::-1] for m in masks], np.float32)
        scores = np.linspace(0.95, 0.9, len(masks))
        return mask_set(np.stack(masks), predicted_iou=scores, stability=scores, points=points)


def load_oracle(reference: ModelReference) -> Oracle:
    """Stands in for `load_assistant`: the oracle, or any file as another model of its kind."""
    if reference.name == "oracle":
        return Oracle()
    path = Path(reference.name)
    if not path.is_file():
        raise InputError(f"there is no model called {reference.name!r}")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Oracle(ModelReference(name=reference.name, sha256=digest))


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / max(1, (a | b).sum()))


def annotate_all(session: Session) -> None:
    """Click every object that has no mask yet; take good answers, correct the others, finish."""
    for object_mask in truth_of(session.image):
        there = [m.mask() for m in session.masks.values()] + [p.mask for p in session.proposals]
        if any(iou(m, object_mask) > GOOD_ENOUGH for m in there):
            continue
        _one_object(session, object_mask)
    session.finish()


def _one_object(session: Session, object_mask: np.ndarray) -> None:
    half_done = [i for i, m in session.masks.items() if iou(m.mask(), object_mask) > 0.3]
    if half_done:
        session.edit(half_done[0], object_mask, seconds=2.0)
        return
    y, x = np.argwhere(object_mask)[0]
    best = session.prompt(Prompts(points=[(x, y)]))[0]
    name = session.accept(best, seconds=3.0)
    if iou(best.mask, object_mask) <= GOOD_ENOUGH:
        session.edit(name, object_mask, seconds=2.0)


def work(folder: Path, annotator: str) -> list[int]:
    """Annotate until the queue is empty; the pictures that fell to this annotator."""
    project = Project.open(folder, annotator=annotator, load=load_oracle)
    mine = []
    while (entry := project.next_picture()) is not None:
        annotate_all(project.annotate(entry))
        mine.append(entry.index)
    return mine


def race(folder: str, gate, answers) -> None:
    """What a racing process runs: claims, without recording, what nobody else got."""
    project = Project.open(folder, annotator=f"pid {os.getpid()}", load=load_oracle)
    gate.wait()
    mine = [e.index for e in project.pictures if project.desk.take(e.index)]
    answers.put(mine)
    gate.wait()


def outlines(project: Project) -> list[list[tuple[str, str, str]]]:
    """What the masks of every picture are, without times."""
    return [
        [(m.id, m.source, m.rle) for m in state.masks.values()] for _, state in project.states()
    ]


def _odd(image: np.ndarray, mask: np.ndarray) -> bool:
    return bool(image[mask][0, 0] % 2)


def _half_if_odd(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    if not _odd(image, mask):
        return mask
    columns = np.flatnonzero(mask.any(axis=0))
    half = mask.copy()
    half[:, columns[len(columns) // 2] :] = False
    return half


if __name__ == "__main__":
    import sys

    print("ready", flush=True)
    work(Path(sys.argv[1]), "killed")
