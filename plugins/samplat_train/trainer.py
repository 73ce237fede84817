"""The training loop: gradients of all rounds, moving average, checkpoints, exact resume."""

from __future__ import annotations

import copy
import hashlib
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from samplat import BUILDERS, InputError, Sam, SamplatError, load_model
from samplat_train import losses
from samplat_train.logs import RunLog
from samplat_train.optimizer import choose_learning, make_optimizer, set_drop_path, set_rate
from samplat_train.recipe import Recipe
from samplat_train.rounds import PromptRounds
from samplat_train.samples import Batch, CropBatches, Reported
from samplat_train.transplant import initialise_encoder, is_encoder_file

UNREADABLE = (OSError, EOFError, KeyError, RuntimeError, ValueError, UnpicklingError)
"""What reading a file that is no checkpoint of a network raises."""


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
    best: float = -math.inf
    """The best score of a validation so far."""
    stale: int = 0
    """Validations since then."""
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    """The average's weights at that time."""


@dataclass(frozen=True, kw_only=True)
class Validation:
    """Stops a run that no longer gets better."""

    digest: str
    """What the score is measured on, as a digest: a run must not go on with another."""
    score: Callable[[Sam], float]
    """Larger is better; called with the averaged model."""
    every: int
    """Steps between two validations."""
    patience: int
    """Validations without a better score after which the run ends; its best weights are kept."""


def train(
    recipe: Recipe,
    batches: CropBatches,
    run_dir: Path,
    *,
    on_step: Callable[[StepReport], None] = lambda report: None,
    on_save: Callable[[TrainingState], None] = lambda state: None,
    save_every: int = 200,
    start_from: Path | None = None,
    model: Sam | None = None,
    validation: Validation | None = None,
    device: str = "",
    workers: int = 1,
) -> Sam:
    """Train, or resume the run in `run_dir`, and return the averaged model.

    Args:
        recipe: every number of the run.
        batches: its data.
        run_dir: where the checkpoint is kept.
        on_step: told about every step.
        on_save: told about every checkpoint.
        save_every: steps between checkpoints; the last step always gets one.
        start_from: what to begin with: a checkpoint of another run, a model's .safetensors, or an
            encoder that `samplat pretrain` wrote.
        model: the network to train instead of a new one; what of it requires gradients learns.
        validation: when to stop early.
        device: cpu, cuda, ...; empty takes a GPU if there is one. Crops and prompts are the same
            on every device.
        workers: processes that cut and change crops. No influence on the result.

    Raises:
        InputError: `run_dir` holds a run of another recipe, other data or another start, or a
            picture cannot be used.
        SamplatError: loss or gradient became NaN or infinite, or the disk is full; the last good
            checkpoint is kept.
    """
    torch.manual_seed(recipe.seed)
    run_dir.mkdir(parents=True, exist_ok=True)
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    state = new_state(recipe, place, model)
    if start_from:
        load_start(state, start_from)
    checkpoint = run_dir / "checkpoint.pt"
    origin = origin_of(state, batches, validation)
    resume(state, recipe, checkpoint, origin)
    with RunLog(run_dir, state.step) as log:
        groups = _loader(batches, recipe, state.step, workers)
        while state.step < recipe.steps and not _is_over(state, validation):
            group = [batch.to(place) for batch in next(groups)]
            report = train_step(state, recipe, group)
            log.add(report)
            on_step(report)
            _validate(state, validation, log)
            ended = state.step == recipe.steps or _is_over(state, validation)
            if ended or state.step % save_every == 0:
                save(state, recipe, checkpoint, origin)
                on_save(state)
    if state.best_weights:
        state.average.load_state_dict(state.best_weights)
    return state.average.eval()


def new_state(
    recipe: Recipe, device: torch.device | None = None, model: Sam | None = None
) -> TrainingState:
    """An optimiser for a network, by default one with random weights."""
    if model is None:
        if recipe.architecture not in BUILDERS:
            raise InputError(f"architecture must be one of {', '.join(BUILDERS)}")
        model = BUILDERS[recipe.architecture](image_size=recipe.image_size)
    choose_learning(model, recipe.learn)
    set_drop_path(model.image_encoder, recipe.drop_path)
    dense_head = nn.Conv2d(model.prompt_encoder.dim, 4, 1).to(device)
    model = model.to(device)
    optimizer = make_optimizer(recipe, [(model, ""), (dense_head, "dense_head.")])
    average = copy.deepcopy(model).requires_grad_(False)
    return TrainingState(model=model, average=average, dense_head=dense_head, optimizer=optimizer)


def load_start(state: TrainingState, path: Path) -> None:
    """Begin with weights that there are: of a run's checkpoint, a model, or a pretrained encoder.

    Raises:
        InputError: the checkpoint is none, or of another architecture.
        CheckpointError: the same of a file of weights.
    """
    if path.suffix == ".safetensors" and is_encoder_file(path):
        initialise_encoder(state.model, path)
    else:
        _load_into(state.model, path)
    state.average.load_state_dict(state.model.state_dict())


def _load_into(model: Sam, path: Path) -> None:
    device = next(model.parameters()).device
    try:
        if path.suffix == ".safetensors":
            start = load_model(path, precision="fp32", image_size=model.image_size, device=device)
            model.load_state_dict(start.sam.state_dict())
        else:
            saved = torch.load(path, map_location=device, weights_only=True)
            model.load_state_dict(saved["model"])
    except UNREADABLE as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path} is no checkpoint of this architecture: {reason}") from error


def train_step(state: TrainingState, recipe: Recipe, group: list[Batch]) -> StepReport:
    """One optimiser step on `recipe.accumulate` batches; `state` is kept if it fails.

    Raises:
        SamplatError: loss or gradient became NaN or infinite.
    """
    started = time.perf_counter()
    # What a layer drops must not depend on whether the run was interrupted.
    torch.manual_seed(recipe.seed * 1_000_003 + state.step)
    set_rate(state.optimizer, recipe, state.step)
    set_mode(state.model, recipe)
    state.optimizer.zero_grad(set_to_none=True)
    parts = [_backward(state, recipe, batch, i, len(group)) for i, batch in enumerate(group)]
    figures = {name: sum(part[name] for part in parts) / len(parts) for name in parts[0]}
    learning = [p for g in state.optimizer.param_groups for p in g["params"]]
    gradient = float(nn.utils.clip_grad_norm_(learning, 1.0))
    if not math.isfinite(figures["loss"]) or not math.isfinite(gradient):
        raise SamplatError(
            f"at step {state.step} the loss is {figures['loss']:.4g} and the norm of its gradient "
            f"{gradient:.4g}; the last checkpoint is kept: begin another run directory with "
            "--start-from it and a lower --recipe learning_rate"
        )
    state.optimizer.step()
    state.step += 1
    _average(state, recipe)
    return StepReport(step=state.step, seconds=time.perf_counter() - started, **figures)


def set_mode(model: Sam, recipe: Recipe) -> None:
    """Training mode; normalisation whose statistics must not move stays in evaluation mode."""
    model.train()
    if recipe.freeze_statistics:
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()


def _backward(
    state: TrainingState, recipe: Recipe, batch: Batch, part: int, parts: int
) -> dict[str, float]:
    """Add a batch's gradients; each round's are computed as soon as its loss is known.

    The rounds share the features as a leaf, so that only one round's graph exists at a time: the
    paper's eleven need no more memory than one.
    """
    seed = (recipe.seed * 1_000_003 + state.step) * parts + part
    generator = torch.Generator().manual_seed(seed)
    late = state.step >= recipe.late_from * recipe.steps
    rounds = PromptRounds(state.model, recipe, batch.masks.flatten(0, 1), generator, late=late)
    cast = torch.autocast(batch.images.device.type, torch.bfloat16, enabled=recipe.bf16)
    with cast:
        features = encode(state.model, batch.images)
        learns = features[0].requires_grad
        leaves = tuple(f.detach().requires_grad_(f.requires_grad) for f in features)
        rounds.place(leaves, len(batch.images))
    total = 0.0
    for loss in _losses(state, recipe, batch, leaves, rounds, cast):
        total += float(loss.detach())
        (loss / parts).backward()  # type: ignore[no-untyped-call]
    if learns:
        learned = [f for f in features if f.requires_grad]
        torch.autograd.backward(learned, [leaf.grad for leaf in leaves if leaf.requires_grad])
    return {"loss": total, **rounds.figures}


def encode(model: Sam, images: Tensor) -> tuple[Tensor, ...]:
    """Features of crops (B, 3, S, S) uint8, with gradients only if the encoder learns."""
    learns = any(p.requires_grad for p in model.image_encoder.parameters())
    pixels = model.normalise(images).to(memory_format=torch.channels_last)
    with nullcontext() if learns else torch.no_grad():
        features: tuple[Tensor, ...] = model.image_encoder(pixels)
    return features


def _losses(
    state: TrainingState,
    recipe: Recipe,
    batch: Batch,
    leaves: tuple[Tensor, ...],
    rounds: PromptRounds,
    cast: torch.autocast,
) -> Iterator[Tensor]:
    if recipe.dense_weight and leaves[0].requires_grad:
        with cast:
            dense = state.dense_head(leaves[0])
            maps = F.interpolate(dense.float(), size=batch.labels.shape[-2:], mode="bilinear")
            yield recipe.dense_weight * losses.dense_loss(maps, batch.labels)
    each = iter(rounds)
    for _ in range(1 + len(rounds.plan)):
        with cast:
            loss = next(each)
        yield loss


def _validate(state: TrainingState, validation: Validation | None, log: RunLog) -> None:
    if validation is None or state.step % validation.every:
        return
    score = validation.score(copy.deepcopy(state.average).eval())
    log.figure("validation/score", score, state.step)
    if score > state.best:
        weights = {k: v.detach().clone() for k, v in state.average.state_dict().items()}
        state.best, state.stale, state.best_weights = score, 0, weights
    else:
        state.stale += 1


def _is_over(state: TrainingState, validation: Validation | None) -> bool:
    return validation is not None and state.stale >= validation.patience


def origin_of(
    state: TrainingState, batches: CropBatches, validation: Validation | None
) -> dict[str, str]:
    """What a run must share with another, besides the recipe, to be the same run."""
    start = hashlib.sha256()
    for name, tensor in state.model.state_dict().items():
        start.update(name.encode())
        start.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    judged = "nothing"
    if validation:
        judged = f"{validation.digest} {validation.every} {validation.patience}"
    return {"data": batches.digest, "starting weights": start.hexdigest(), "validation": judged}


def save(
    state: TrainingState, recipe: Recipe, path: Path, origin: Mapping[str, str] | None = None
) -> None:
    """Write a checkpoint under a temporary name, then rename: a full disk leaves the last one.

    Raises:
        SamplatError: it cannot be written.
    """
    partial = path.with_suffix(".partial")
    content = {
        "model": state.model.state_dict(),
        "average": state.average.state_dict(),
        "dense_head": state.dense_head.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "step": state.step,
        "best": state.best,
        "stale": state.stale,
        "best_weights": state.best_weights,
        "recipe": asdict(recipe),
        "origin": dict(origin or {}),
    }
    try:
        with partial.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except (OSError, RuntimeError) as error:
        partial.unlink(missing_ok=True)
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
        raise SamplatError(
            f"cannot write {path}: {reason}; the last checkpoint is kept: free space and run the "
            "same command again"
        ) from error


def resume(
    state: TrainingState, recipe: Recipe, path: Path, origin: Mapping[str, str] | None = None
) -> None:
    """Load a checkpoint into `state` if there is one.

    Raises:
        InputError: it belongs to another recipe, or has another origin; names what differs.
    """
    if not path.exists():
        return
    device = next(state.model.parameters()).device
    try:
        saved: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:
        raise InputError(
            f"{path} is damaged or no checkpoint; move it away to start the run anew"
        ) from error
    mine = asdict(recipe)
    if differing := [k for k in mine if mine[k] != saved["recipe"].get(k)]:
        old = ", ".join(f"{k}={saved['recipe'].get(k)}" for k in differing)
        raise InputError(f"{path} is of a run with {old}; use that or another run directory")
    theirs = saved.get("origin", {})
    if other := [name for name, value in (origin or {}).items() if theirs.get(name) != value]:
        raise InputError(
            f"{path} is of a run with other {' and '.join(other)}; use the same, or another run "
            "directory"
        )
    for name in ("model", "average", "dense_head", "optimizer"):
        getattr(state, name).load_state_dict(saved[name])
    for name in ("step", "best", "stale", "best_weights"):
        setattr(state, name, saved[name])


def _loader(
    batches: CropBatches, recipe: Recipe, start: int, workers: int
) -> Iterator[list[Batch]]:
    """The batches of each step to come."""
    parts = recipe.accumulate
    loader = iter(
        DataLoader(
            Reported(batches),
            batch_size=None,
            sampler=range(start * parts, recipe.steps * parts),
            num_workers=workers,
            prefetch_factor=6,
        )
    )
    for _ in range(start, recipe.steps):
        yield [_usable(next(loader)) for _ in range(parts)]


def _usable(made: Batch | SamplatError) -> Batch:
    if isinstance(made, SamplatError):
        raise made
    return made


@torch.no_grad()
def _average(state: TrainingState, recipe: Recipe) -> None:
    decay = min(recipe.ema, (1 + state.step) / (10 + state.step))
    kept, new = state.average.state_dict(), state.model.state_dict()
    floats = [k for k in kept if kept[k].is_floating_point()]
    torch._foreach_lerp_([kept[k] for k in floats], [new[k] for k in floats], 1 - decay)
