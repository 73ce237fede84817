"""Sample sheets: what a model makes of the crops that it is trained on, as a PNG."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch.nn import functional as F

from samplat import Draft, Prompted, Sam
from samplat_train.recipe import Recipe
from samplat_train.rounds import PromptRounds
from samplat_train.samples import Batch

ROWS = 8
TRUTH, GUESS, PROMPT = (60, 200, 90), (230, 60, 60), (255, 230, 0)


def draw_sheet(model: Sam, recipe: Recipe, batch: Batch, path: Path) -> None:
    """Write crop, true mask and predicted mask of the first object of up to eight crops.

    Args:
        model: the network; left in the mode it is in.
        recipe: as it is trained.
        batch: crops with prompted objects.
        path: the PNG.
    """
    rounds, logits = _first_round(model, recipe, batch)
    guesses = (logits > 0).cpu().numpy()
    per_image = batch.masks.shape[1]
    rows = []
    for i in range(min(ROWS, len(batch.images))):
        image = batch.images[i].permute(1, 2, 0).cpu().numpy()
        truth = batch.masks[i, 0].cpu().numpy()
        k = i * per_image
        prompted = _prompted(image, rounds.points[k], rounds.labels[k], rounds.boxes[k])
        rows.append(
            np.hstack([prompted, _tinted(image, truth, TRUTH), _tinted(image, guesses[k], GUESS)])
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.vstack(rows)).save(path)


@torch.no_grad()
def _first_round(model: Sam, recipe: Recipe, batch: Batch) -> tuple[PromptRounds, torch.Tensor]:
    """The first prompts, and the logits (N, S, S) of the mask that the model thinks best."""
    generator = torch.Generator().manual_seed(recipe.seed)
    rounds = PromptRounds(model, recipe, batch.masks.flatten(0, 1), generator, late=False)
    with torch.autocast(batch.images.device.type, torch.bfloat16, enabled=recipe.bf16):
        rounds.place(model.image_encoder(model.normalise(batch.images)), len(batch.images))
        draft = Draft(*(part[:, 1:] for part in rounds.decode()))
        prompts = Prompted(rounds.points, rounds.labels, rounds.boxes)
        logits, predicted_iou = model.finish(rounds.features, draft, prompts, last=False)
    best = predicted_iou.argmax(dim=1)
    chosen = logits[torch.arange(len(logits), device=logits.device), best][:, None].float()
    return rounds, F.interpolate(chosen, size=batch.masks.shape[-2:], mode="bilinear")[:, 0]


def _tinted(
    image: NDArray[np.uint8], mask: NDArray[np.bool_], colour: tuple[int, int, int]
) -> NDArray[np.uint8]:
    tinted = image.copy()
    tinted[mask] = (image[mask] * 0.45 + np.array(colour) * 0.55).astype(np.uint8)
    return tinted


def _prompted(
    image: NDArray[np.uint8], points: torch.Tensor, labels: torch.Tensor, box: torch.Tensor
) -> NDArray[np.uint8]:
    canvas = Image.fromarray(image)
    draw = ImageDraw.Draw(canvas)
    if bool(box.isfinite().all()):
        x0, y0, x1, y1 = (float(v) for v in box)
        draw.rectangle((min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)), outline=PROMPT)
    for (x, y), label in zip(points.tolist(), labels.tolist(), strict=True):
        if label >= 0:
            draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=PROMPT if label else (0, 120, 255))
    return np.asarray(canvas)
