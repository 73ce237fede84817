"""Masked pretraining of a ViT encoder on unlabelled pictures, with exact resume.

The recipe is that of masked autoencoders (He et al. 2022, arXiv 2111.06377, appendix A.1), from
which the paper starts (section 3, "Image encoder").
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader

from samplat import InputError, SamplatError
from samplat_train.logs import RunLog
from samplat_train.masked_autoencoder import (
    MaskedAutoencoder,
    hollow_sam,
    patch_statistics,
    patchify,
    random_order,
    unpatchify,
)
from samplat_train.transplant import initialise_encoder, whole_file, write_encoder
from samplat_train.unlabelled import CropLoader, Crops, Pictures

__all__ = ["PretrainRecipe", "PretrainReport", "initialise_encoder", "pretrain", "write_encoder"]

SHEET_ROWS = 6
GREY = 128


@dataclass(frozen=True, kw_only=True)
class PretrainRecipe:
    """Hyperparameters of a pretraining; the defaults are those of masked autoencoders."""

    architecture: str = "vit_b"
    """Name of a builder of `samplat` with a plain ViT: vit_b, vit_l or vit_h."""
    image_size: int = 224
    """Side of a crop in pixels, a multiple of 16; positions are interpolated afterwards."""
    steps: int = 100_000
    """Optimiser steps."""
    images: int = 64
    """Crops per forward pass."""
    accumulate: int = 1
    """Forward passes whose gradients are summed for one step."""
    learning_rate: float = 1.5e-4
    """Peak of the schedule for 256 crops per step; scaled by the crops that there are."""
    warmup: float = 0.05
    """Share of the steps with a linear warm-up; a cosine down to zero follows."""
    weight_decay: float = 0.05
    """Of AdamW; not of norms, biases and the mask token."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    mask_share: float = 0.75
    """Share of the patches that the encoder does not see."""
    decoder_dim: int = 512
    """Channels of the decoder."""
    decoder_depth: int = 8
    """Blocks of the decoder."""
    decoder_heads: int = 16
    """Attention heads of the decoder."""
    smallest_crop: float = 0.2
    """Least share of a picture's area in a crop."""
    bf16: bool = True
    """Autocast to bfloat16."""
    seed: int = 0
    """Of weights, crops and masks; the same seed gives the same run."""

    def __post_init__(self) -> None:
        for name in ("steps", "images", "accumulate", "decoder_depth", "decoder_heads"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be >= 1, got {getattr(self, name)}")
        if self.decoder_dim % 4 or self.decoder_dim % self.decoder_heads or self.decoder_dim < 4:
            raise InputError(
                f"decoder_dim must be a multiple of 4 and of decoder_heads {self.decoder_heads}, "
                f"got {self.decoder_dim}"
            )
        if not 0 < self.smallest_crop <= 1:
            raise InputError(f"smallest_crop must be in (0, 1], got {self.smallest_crop}")
        if not 0 <= self.warmup < 1:
            raise InputError(f"warmup must be a share in [0, 1), got {self.warmup}")

    @property
    def batch(self) -> int:
        """Crops per optimiser step."""
        return self.images * self.accumulate


@dataclass(frozen=True, kw_only=True)
class PretrainReport:
    """What one step did."""

    step: int
    loss: float
    """Mean squared error on masked patches; 1 is what predicting each patch's mean gives."""
    gradient: float
    """Norm of the gradient before it was clipped."""
    rate: float
    """Learning rate."""
    seconds: float
    """Wall time of the step."""


@dataclass(kw_only=True)
class PretrainState:
    """All that changes while pretraining; what a checkpoint holds."""

    network: MaskedAutoencoder
    optimizer: torch.optim.Optimizer
    step: int = 0


def pretrain(
    recipe: PretrainRecipe,
    pictures: Pictures,
    run_dir: Path,
    *,
    on_step: Callable[[PretrainReport], None] = lambda report: None,
    on_skip: Callable[[Path, str], None] = lambda path, reason: None,
    save_every: int = 500,
    sheet_every: int = 500,
    device: str = "",
    workers: int = 1,
) -> MaskedAutoencoder:
    """Pretrain, or resume the run in `run_dir`.

    A run that was stopped and resumed ends with the bits of one that was not, on a processor; on a
    GPU too, where `torch.use_deterministic_algorithms` is on.

    Args:
        recipe: every number of the run.
        pictures: its data.
        run_dir: where `checkpoint.pt`, `log.csv` and `sheets/` are kept.
        on_step: told about every step.
        on_skip: told once about every damaged picture that was drawn.
        save_every: steps between checkpoints; the last step always gets one.
        sheet_every: steps between sheets of reconstructions; 0: none.
        device: cpu, cuda, ...; empty takes a GPU if there is one.
        workers: processes that read pictures; 0 reads in this one. No influence on the result.

    Raises:
        InputError: `run_dir` holds another run, or no picture can be read.
        SamplatError: loss or gradient became NaN or infinite, or the disk is full; the last good
            checkpoint is kept.
    """
    if save_every < 1:
        raise InputError(f"save_every must be >= 1, got {save_every}")
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    state = new_state(recipe, place)
    checkpoint = run_dir / "checkpoint.pt"
    resume(state, recipe, pictures, checkpoint)
    crops = crop_loader(recipe, pictures)
    batches, skipped = _batches(crops, recipe, state.step, workers), set[Path]()
    with RunLog(run_dir, state.step) as log:
        while state.step < recipe.steps:
            group = next(batches)
            _tell(group, skipped, on_skip)
            report = pretrain_step(state, recipe, [crop.images.to(place) for crop in group])
            log.add(report)
            on_step(report)
            if state.step % save_every == 0 and state.step < recipe.steps:
                save(state, recipe, pictures, checkpoint)
            if sheet_every and state.step % sheet_every == 0:
                write_sheet(state, recipe, crops, run_dir)
    save(state, recipe, pictures, checkpoint)
    return state.network.eval()


def new_state(recipe: PretrainRecipe, device: torch.device | None = None) -> PretrainState:
    """Random weights and an optimiser for a recipe.

    Raises:
        InputError: the architecture has no plain ViT, or the image size does not suit it.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        network = MaskedAutoencoder(
            hollow_sam(recipe.architecture),
            image_size=recipe.image_size,
            mask_share=recipe.mask_share,
            decoder_dim=recipe.decoder_dim,
            decoder_depth=recipe.decoder_depth,
            decoder_heads=recipe.decoder_heads,
        ).to(device)
    weights = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [
            {"params": weights, "weight_decay": recipe.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=recipe.learning_rate,
        betas=(0.9, 0.95),
    )
    return PretrainState(network=network, optimizer=optimizer)


def crop_loader(recipe: PretrainRecipe, pictures: Pictures) -> CropLoader:
    """The crops of a whole run."""
    return CropLoader(
        pictures,
        batches=recipe.steps * recipe.accumulate,
        images=recipe.images,
        size=recipe.image_size,
        smallest=recipe.smallest_crop,
        seed=recipe.seed,
    )


def pretrain_step(
    state: PretrainState, recipe: PretrainRecipe, group: list[Tensor]
) -> PretrainReport:
    """One optimiser step.

    Args:
        state: changed in place, unless the step fails.
        recipe: the run's.
        group: `recipe.accumulate` tensors (B, 3, S, S) uint8.

    Raises:
        SamplatError: loss or gradient became NaN or infinite.
    """
    started = time.perf_counter()
    state.network.train()
    rate = learning_rate(recipe, state.step)
    for settings in state.optimizer.param_groups:
        settings["lr"] = rate
    state.optimizer.zero_grad(set_to_none=True)
    loss = sum(_backward(state, recipe, images, part) for part, images in enumerate(group))
    gradient = float(nn.utils.clip_grad_norm_(state.network.parameters(), recipe.clip))
    if not math.isfinite(loss) or not math.isfinite(gradient):
        raise SamplatError(
            f"at step {state.step} the loss is {loss:.4g} and the norm of its gradient "
            f"{gradient:.4g}; the last checkpoint is kept: begin anew with a lower learning_rate"
        )
    state.optimizer.step()
    state.step += 1
    seconds = time.perf_counter() - started
    return PretrainReport(step=state.step, loss=loss, gradient=gradient, rate=rate, seconds=seconds)


def learning_rate(recipe: PretrainRecipe, step: int) -> float:
    """Linear warm-up to the rate for the recipe's batch, then a cosine to zero."""
    peak = recipe.learning_rate * recipe.batch / 256
    warmup = recipe.warmup * recipe.steps
    if step < warmup:
        return peak * min(1.0, (step + 1) / warmup)
    done = (step - warmup) / (recipe.steps - warmup)
    return peak * (1 + math.cos(math.pi * done)) / 2


def draw_order(
    recipe: PretrainRecipe, network: MaskedAutoencoder, images: int, part: int
) -> Tensor:
    """(images, N) which patches are visible in forward pass `part` of the run: the same always."""
    generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + part)
    return random_order(images, network.tokens, generator)


def save(state: PretrainState, recipe: PretrainRecipe, pictures: Pictures, path: Path) -> None:
    """Write a checkpoint, whole or not at all.

    Raises:
        SamplatError: it cannot be written; the last one is kept.
    """
    content = {
        "network": state.network.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "step": state.step,
        "recipe": asdict(recipe),
        "pictures": pictures.digest,
    }
    with whole_file(path) as partial, partial.open("wb") as file:
        torch.save(content, file)


def resume(state: PretrainState, recipe: PretrainRecipe, pictures: Pictures, path: Path) -> None:
    """Load a checkpoint into `state` if there is one.

    Raises:
        InputError: it is damaged, or belongs to another recipe or other pictures.
    """
    if not path.exists():
        return
    device = state.network.pixel_mean.device
    try:
        saved: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        _check_same(saved, recipe, pictures, path)
        state.network.load_state_dict(saved["network"])
        state.optimizer.load_state_dict(saved["optimizer"])
        state.step = int(saved["step"])
    except InputError:
        raise
    except Exception as error:  # damaged files fail in any of the reader's layers
        raise InputError(
            f"{path} is damaged or no checkpoint; move it away to begin anew"
        ) from error


@torch.no_grad()
def write_sheet(
    state: PretrainState, recipe: PretrainRecipe, crops: CropLoader, run_dir: Path
) -> None:
    """Write `sheets/STEP.png`: original, masked and reconstruction of the run's first crops.

    Raises:
        SamplatError: it cannot be written.
    """
    network = state.network
    images = crops[0].images[:SHEET_ROWS].to(network.pixel_mean.device)
    order = draw_order(recipe, network, len(images), 0).to(images.device)
    panels = (images.float(), *reconstruct(network, images, order))
    sheet = torch.cat([torch.cat(list(panel), dim=1) for panel in panels], dim=2)
    with whole_file(run_dir / "sheets" / f"{state.step:07d}.png") as partial:
        Image.fromarray(_to_bytes(sheet)).save(partial, format="PNG")


@torch.no_grad()
def reconstruct(network: MaskedAutoencoder, images: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
    """What the encoder sees, and that with the masked patches as predicted.

    The prediction is relative to each patch's mean and deviation, which are taken from the truth:
    pixels normalised patch by patch cannot be shown otherwise.

    Args:
        network: the autoencoder.
        images: (B, 3, S, S) 0..255.
        order: (B, N) permutation of the patches.

    Returns:
        two tensors (B, 3, S, S), 0..255; masked patches are grey in the first.
    """
    x = network.normalise(images)
    patches, masked = patchify(x, network.patch), network.masked(order)[..., None]
    mean, deviation = patch_statistics(patches)
    filled = torch.where(masked, network(x, order).float() * deviation + mean, patches)
    seen = torch.where(
        masked, torch.full_like(patches, GREY), patchify(images.float(), network.patch)
    )
    shown = unpatchify(filled, network.patch) * network.pixel_std + network.pixel_mean
    return unpatchify(seen, network.patch), shown.clamp(0, 255)


def _backward(state: PretrainState, recipe: PretrainRecipe, images: Tensor, part: int) -> float:
    """Add the gradients of one forward pass; returns its share of the loss."""
    network = state.network
    number = state.step * recipe.accumulate + part
    order = draw_order(recipe, network, len(images), number).to(images.device)
    with torch.autocast(images.device.type, torch.bfloat16, enabled=recipe.bf16):
        loss = network.loss(network.normalise(images), order) / recipe.accumulate
    loss.backward()  # type: ignore[no-untyped-call]
    return float(loss.detach())


def _batches(
    crops: CropLoader, recipe: PretrainRecipe, start: int, workers: int
) -> Iterator[list[Crops]]:
    """The forward passes of each step to come."""
    loader = DataLoader(
        crops,
        batch_size=None,
        sampler=range(start * recipe.accumulate, len(crops)),
        num_workers=workers,
        prefetch_factor=4 if workers else None,
    )
    return iter(zip(*[iter(loader)] * recipe.accumulate, strict=True))  # type: ignore[arg-type]


def _tell(group: list[Crops], known: set[Path], on_skip: Callable[[Path, str], None]) -> None:
    """Report pictures that were skipped for the first time.

    Raises:
        InputError: all of them were.
    """
    for crop in group:
        for path, reason in crop.skipped.items():
            if path not in known:
                known.add(path)
                on_skip(path, reason)
        if not len(crop.images):
            first = next(iter(crop.skipped.values()))
            raise InputError(
                f"none of {len(crop.skipped)} pictures can be read to its end; the first: {first}"
            )


def _check_same(
    saved: dict[str, Any], recipe: PretrainRecipe, pictures: Pictures, path: Path
) -> None:
    mine, theirs = asdict(recipe), saved["recipe"]
    if differing := [k for k in mine if mine[k] != theirs.get(k)]:
        old = ", ".join(f"{k}={theirs.get(k)}" for k in differing)
        raise InputError(f"{path} is of a run with {old}; use that or another run directory")
    if saved["pictures"] != pictures.digest:
        raise InputError(
            f"{path} is of a run on other pictures; use the same ones, or another run directory"
        )


def _to_bytes(image: Tensor) -> NDArray[np.uint8]:
    return image.round().byte().permute(1, 2, 0).cpu().numpy()
