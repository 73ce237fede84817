"""The training loop: prompts, rounds, losses, moving average, checkpoints, exact resume."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from samplat import BUILDERS, InputError, Sam, SamplatError
from samplat_train import clicks, losses
from samplat_train.recipe import Recipe
from samplat_train.samples import Batch, CropBatches


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """What one step did."""

    step: int
    loss: float
    """Total loss."""
    iou: float
    """Mean IoU of the best of the three masks after the first prompt."""
    iou_error: float
    """Mean absolute error of the predicted IoU."""
    last_iou: float
    """Mean IoU of the single mask after the last round."""
    seconds: float
    """Wall time of the step."""


@dataclass(kw_only=True)
class TrainingState:
    """All that changes while training; what a checkpoint holds."""

    model: Sam
    average: Sam
    dense_head: nn.Module
    optimizer: torch.optim.Optimizer
    step: int = 0


def train(
    recipe: Recipe,
    batches: CropBatches,
    run_dir: Path,
    *,
    on_step: Callable[[StepReport], None] = lambda report: None,
    save_every: int = 200,
    start_from: Path | None = None,
    device: str = "",
) -> Sam:
    """Train, or resume the run in `run_dir`, and return the averaged model.

    Args:
        recipe: every number of the run.
        batches: its data.
        run_dir: where the checkpoint and the log are kept.
        on_step: told about every step.
        save_every: steps between checkpoints; the last step always gets one.
        start_from: a checkpoint of another run whose weights to begin with.
        device: cpu, cuda, ...; empty takes a GPU if there is one. Crops and prompts are the same
            on every device.

    Raises:
        InputError: `run_dir` holds a run of another recipe.
        SamplatError: the loss became NaN or infinite; the last good checkpoint is kept.
    """
    torch.manual_seed(recipe.seed)
    run_dir.mkdir(parents=True, exist_ok=True)
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    state = new_state(recipe, place)
    if start_from:
        saved = torch.load(start_from, map_location=place, weights_only=True)
        state.model.load_state_dict(saved["model"])
        state.average.load_state_dict(state.model.state_dict())
    resume(state, recipe, run_dir / "checkpoint.pt")
    for batch in _loader(batches, state.step):
        report = train_step(state, recipe, batch.to(place))
        on_step(report)
        _log(run_dir / "log.csv", report)
        if state.step % save_every == 0 or state.step == recipe.steps:
            save(state, recipe, run_dir / "checkpoint.pt")
    return state.average.eval()


def new_state(recipe: Recipe, device: torch.device | None = None) -> TrainingState:
    """Random weights and an optimiser for a recipe."""
    if recipe.architecture not in BUILDERS:
        raise InputError(f"architecture must be one of {', '.join(BUILDERS)}")
    model = BUILDERS[recipe.architecture](image_size=recipe.image_size)
    average = BUILDERS[recipe.architecture](image_size=recipe.image_size)
    average.load_state_dict(model.state_dict())
    dense_head = nn.Conv2d(model.prompt_encoder.dim, 4, 1)
    for module in (model, average, dense_head):
        module.to(device)
    parameters = [*model.parameters(), *dense_head.parameters()]
    decayed = {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay}
    plain = {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0}
    optimizer = torch.optim.AdamW([decayed, plain], lr=recipe.learning_rate, betas=(0.9, 0.999))
    return TrainingState(model=model, average=average, dense_head=dense_head, optimizer=optimizer)


def train_step(state: TrainingState, recipe: Recipe, batch: Batch) -> StepReport:
    """One optimiser step on one batch."""
    started = time.perf_counter()
    generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + state.step)
    _set_rate(state.optimizer, recipe, state.step)
    state.model.train()
    loss, figures = batch_loss(state, recipe, batch, generator)
    value = float(loss.detach())
    if not math.isfinite(value):
        raise SamplatError(
            f"the loss became {value} at step {state.step}; the last checkpoint is kept: "
            "resume with a lower --learning-rate"
        )
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(state.model.parameters(), 1.0)
    state.optimizer.step()
    state.step += 1
    _average(state, recipe)
    seconds = time.perf_counter() - started
    return StepReport(step=state.step, loss=value, seconds=seconds, **figures)


def batch_loss(
    state: TrainingState, recipe: Recipe, batch: Batch, generator: torch.Generator
) -> tuple[Tensor, dict[str, float]]:
    """Total loss of one batch and figures for the log."""
    late = state.step >= recipe.late_from * recipe.steps
    masks = batch.masks.flatten(0, 1)
    session = _Session(state.model, recipe, masks, generator, balanced=not late)
    with torch.autocast(batch.images.device.type, torch.bfloat16, enabled=recipe.bf16):
        pixels = state.model.normalise(batch.images).to(memory_format=torch.channels_last)
        features = state.model.image_encoder(pixels)
        dense = state.dense_head(features[0])
        session.place(features, len(batch.images))
        total = sum(session.rounds(recipe.late_rounds if late else recipe.rounds))
    aux = F.interpolate(dense.float(), size=batch.labels.shape[-2:], mode="bilinear")
    loss = torch.as_tensor(total) + recipe.dense_weight * losses.dense_loss(aux, batch.labels)
    return loss, session.figures


class _Session:
    """Prompting rounds for all objects of a batch: points accumulate, logits feed back."""

    def __init__(
        self,
        model: Sam,
        recipe: Recipe,
        masks: Tensor,
        generator: torch.Generator,
        *,
        balanced: bool,
    ) -> None:
        self.model, self.recipe, self.generator = model, recipe, generator
        weight = recipe.balanced_weight if balanced else recipe.late_balanced_weight
        self.weights = {
            "focal": recipe.focal_weight,
            "dice": recipe.dice_weight,
            "balanced": weight,
        }
        self.target = F.avg_pool2d(masks[:, None].float(), recipe.loss_stride)[:, 0] >= 0.5
        self.figures: dict[str, float] = {}
        self._first_prompts(masks)

    def _first_prompts(self, masks: Tensor) -> None:
        count = len(masks)
        chance = torch.rand(2, count, generator=self.generator).to(masks.device)
        boxed, noisy = chance[0] < self.recipe.box_share, chance[1, :, None] < 0.5
        tight = clicks.boxes_of(masks)
        boxes = torch.where(noisy, clicks.noisy_boxes(tight, self.generator), tight)
        self.boxes = torch.where(boxed[:, None], boxes, torch.nan)
        self.points = self._to_pixels(clicks.first_points(self.target, self.generator))[:, None]
        self.labels = torch.where(boxed, -1.0, 1.0)[:, None]
        self.logits: Tensor | None = None

    def place(self, features: tuple[Tensor, ...], images: int) -> None:
        """Take the features, and draw where in the model's input each crop lies."""
        self.features = features
        tokens = self.model.prompt_encoder.embedding_size
        side = features[0].shape[-1]
        stride = self.recipe.image_size // tokens
        corner = torch.randint(0, tokens - side + 1, (images, 2), generator=self.generator)
        grid = self.model.prompt_encoder.dense_pe()[0]
        self.pe = torch.stack([grid[:, y : y + side, x : x + side] for x, y in corner.tolist()])
        per_image = len(self.points) // images
        origin = (corner * stride).float().repeat_interleave(per_image, dim=0)
        self.origin = origin.to(self.points.device)

    def rounds(self, count: int) -> Iterator[Tensor]:
        """The loss of each round, after which the next prompt is placed."""
        for i in range(count):
            logits, predicted_iou = self._decode()
            yield self._round_loss(logits, predicted_iou, first=i == 0) / (1 if i == 0 else 2)
            if i + 1 < count:
                self._correct(logits, predicted_iou, first=i == 0)

    def _decode(self) -> tuple[Tensor, Tensor]:
        encoder = self.model.prompt_encoder
        sparse, dense = encoder(
            self.features[0], self.points, self.labels, self.boxes, self.logits, self.origin
        )
        out: tuple[Tensor, Tensor] = self.model.mask_decoder(self.features, self.pe, sparse, dense)
        return out

    def _to_pixels(self, points: Tensor) -> Tensor:
        """Centres of pixels at the loss's resolution as pixels of the crop."""
        return (points + 0.5) * self.recipe.loss_stride - 0.5

    def _round_loss(self, logits: Tensor, predicted_iou: Tensor, *, first: bool) -> Tensor:
        full = F.interpolate(logits.float(), size=self.target.shape[-2:], mode="bilinear")
        target = self.target[:, None].float()
        loss = losses.mask_loss(full, target, **self.weights)
        iou = losses.mask_iou(full, target)
        iou_error = (predicted_iou.float() - iou).square().mean(dim=1)
        self._note(iou, predicted_iou, first=first)
        single = loss[:, 0]
        chosen = (loss[:, 1:].min(dim=1).values + single) if first else single
        return (chosen + iou_error).mean()

    def _note(self, iou: Tensor, predicted_iou: Tensor, *, first: bool) -> None:
        if first:
            self.figures["iou"] = float(iou[:, 1:].amax(dim=1).mean())
            self.figures["iou_error"] = float((predicted_iou.detach() - iou).abs().mean())
        self.figures["last_iou"] = float(iou[:, 0].mean())

    @torch.no_grad()
    def _correct(self, logits: Tensor, predicted_iou: Tensor, *, first: bool) -> None:
        """Feed back the mask that the model thinks best, and click into its error."""
        best = (
            predicted_iou[:, 1:].argmax(dim=1) + 1
            if first
            else torch.zeros_like(predicted_iou[:, 0]).long()
        )
        self.logits = (
            logits[torch.arange(len(logits), device=logits.device), best][:, None].detach().float()
        )
        full = F.interpolate(self.logits, size=self.target.shape[-2:], mode="bilinear")[:, 0]
        points, labels = clicks.corrective_points(full, self.target, self.generator)
        self.points = torch.cat([self.points, self._to_pixels(points)[:, None]], dim=1)
        self.labels = torch.cat([self.labels, labels[:, None]], dim=1)


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, then a cosine down to a hundredth of the peak."""
    if step < recipe.warmup:
        return recipe.learning_rate * (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return recipe.learning_rate * (0.01 + 0.99 * (1 + math.cos(math.pi * min(1.0, done))) / 2)


def save(state: TrainingState, recipe: Recipe, path: Path) -> None:
    """Write a checkpoint under a temporary name, then rename: a full disk leaves the last one."""
    partial = path.with_suffix(".partial")
    torch.save(
        {
            "model": state.model.state_dict(),
            "average": state.average.state_dict(),
            "dense_head": state.dense_head.state_dict(),
            "optimizer": state.optimizer.state_dict(),
            "step": state.step,
            "recipe": asdict(recipe),
        },
        partial,
    )
    partial.replace(path)


def resume(state: TrainingState, recipe: Recipe, path: Path) -> None:
    """Load a checkpoint into `state` if there is one.

    Raises:
        InputError: it belongs to another recipe; names what differs.
    """
    if not path.exists():
        return
    device = next(state.model.parameters()).device
    saved: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    mine = asdict(recipe)
    if differing := [k for k in mine if mine[k] != saved["recipe"].get(k)]:
        old = ", ".join(f"{k}={saved['recipe'].get(k)}" for k in differing)
        raise InputError(f"{path} is of a run with {old}; use that or another run directory")
    for name in ("model", "average", "dense_head", "optimizer"):
        getattr(state, name).load_state_dict(saved[name])
    state.step = saved["step"]


def _loader(batches: CropBatches, start: int) -> DataLoader[Batch]:
    return DataLoader(
        batches,
        batch_size=None,
        sampler=range(start, len(batches)),
        num_workers=1,
        prefetch_factor=6,
    )


def _set_rate(optimizer: torch.optim.Optimizer, recipe: Recipe, step: int) -> None:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(recipe, step)


@torch.no_grad()
def _average(state: TrainingState, recipe: Recipe) -> None:
    decay = min(recipe.ema, (1 + state.step) / (10 + state.step))
    kept, new = state.average.state_dict(), state.model.state_dict()
    floats = [k for k in kept if kept[k].is_floating_point()]
    torch._foreach_lerp_([kept[k] for k in floats], [new[k] for k in floats], 1 - decay)


def _log(path: Path, report: StepReport) -> None:
    fresh = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(asdict(report)))
        if fresh:
            writer.writeheader()
        writer.writerow({k: f"{v:.5g}" for k, v in asdict(report).items()})
