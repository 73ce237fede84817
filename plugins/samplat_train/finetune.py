"""Fine-tuning: any model, on one's own labels, judged on pictures held out."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

import samplat
from samplat import InputError, Sam
from samplat_train import lora
from samplat_train.data.pictures import PictureSource, split
from samplat_train.recipe import Recipe
from samplat_train.samples import CropBatches, Share, pictures_digest
from samplat_train.trainer import StepReport, Validation, train
from samplat_train.validation import Figures, measure

Part = Literal["decoder", "lora", "all"]
"""What learns: prompt encoder and mask decoder, with its second look; these and low-rank adapters
of the image encoder; everything."""
PARTS: tuple[Part, ...] = get_args(Part)
RATES: dict[Part, float] = {"decoder": 2e-4, "lora": 4e-4, "all": 1e-4}
"""Peak learning rates that suit each."""


LEAST_APART = 5
"""Held-out pictures from which on some of them choose the weights and the others are reported."""


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings:
    """What a fine-tuning does."""

    part: Part = "decoder"
    """What learns."""
    steps: int = 200
    """Optimiser steps."""
    images: int = 4
    """Crops per step."""
    prompts: int = 8
    """Prompted objects per crop."""
    learning_rate: float | None = None
    """Peak of the schedule; None: what suits the part."""
    rank: int = 8
    """Of the adapters."""
    held_out: float = 0.2
    """Share of the pictures that the model is judged on and never trained on."""
    validate_every: int = 50
    """Steps between two looks at the held-out pictures; the best weights of them are kept."""
    patience: int = 4
    """Looks without a better score after which the run ends."""
    seed: int = 0
    """The same seed gives the same run."""

    def __post_init__(self) -> None:
        if self.part not in PARTS:
            raise InputError(f"part must be one of {', '.join(PARTS)}, got {self.part!r}")
        for name in ("steps", "images", "prompts", "rank", "validate_every", "patience"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be >= 1, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class Finetuned:
    """A fine-tuned network and what came of it."""

    sam: Sam
    """The network; plain weights, adapters merged. The original's if nothing was better."""
    before: Figures
    """The original model on the pictures held out for the report."""
    after: Figures
    """This one on them."""
    trained_on: int
    """Pictures."""
    held_out: int
    """Pictures of the report."""
    chosen_on: int
    """Pictures that chose the best weights; 0: too few were held out, and those of the report
    chose them too, so that `after` is a little too good."""
    learned: int
    """Parameters that learned."""
    seconds: float
    """Wall time of this call, figures included."""


def finetune(
    model: samplat.Model,
    source: PictureSource,
    run_dir: Path,
    settings: FinetuneSettings,
    *,
    save_every: int = 50,
    on_step: Callable[[StepReport], None] = lambda report: None,
    on_figures: Callable[[str, Figures], None] = lambda when, figures: None,
) -> Finetuned:
    """Fine-tune a model, or resume that.

    Args:
        model: any model; it is not changed.
        source: labelled pictures, at least two.
        run_dir: where the checkpoint and the log are kept.
        settings: what to do.
        save_every: steps between checkpoints.
        on_step: told about every step.
        on_figures: told the figures "before" training and "after".

    Raises:
        InputError: too few pictures, none with objects, or `run_dir` holds another run.
        samplat.SamplatError: the loss became NaN, or the disk is full.
    """
    began = time.monotonic()
    torch.manual_seed(settings.seed)
    learning, choosing, held = _parts(source, settings)
    before = measure(model, held)
    on_figures("before", before)
    sam = copy.deepcopy(model.sam)
    learned = prepare(sam, settings)
    recipe = recipe_for(model, settings)

    def score(candidate: Sam) -> float:
        return measure(_as_model(merged(candidate, model.sam), model), choosing).score

    trained = train(
        recipe,
        CropBatches([Share(source=learning)], recipe),
        run_dir,
        on_step=on_step,
        model=sam,
        save_every=save_every,
        validation=Validation(
            digest=pictures_digest(choosing),
            score=score,
            every=settings.validate_every,
            patience=settings.patience,
        ),
        device=str(model.device),
    )
    result = merged(trained, model.sam)
    after = measure(_as_model(result, model), held)
    on_figures("after", after)
    return Finetuned(
        sam=result,
        before=before,
        after=after,
        trained_on=len(learning),
        held_out=len(held),
        chosen_on=0 if choosing is held else len(choosing),
        learned=learned,
        seconds=time.monotonic() - began,
    )


def _parts(
    source: PictureSource, settings: FinetuneSettings
) -> tuple[PictureSource, PictureSource, PictureSource]:
    """Pictures to learn from, to choose the best weights by, and to report on."""
    learning, held = split(source, share=settings.held_out, seed=settings.seed)
    if len(held) < LEAST_APART:
        return learning, held, held
    reporting, choosing = split(held, share=0.4, seed=settings.seed + 1)
    return learning, choosing, reporting


def prepare(sam: Sam, settings: FinetuneSettings) -> int:
    """Choose what of a network learns, in place; returns the number of parameters."""
    sam.requires_grad_(False)
    if settings.part == "lora":
        lora.adapt(sam, rank=settings.rank, alpha=settings.rank, targets=_targets(sam))
    if settings.part == "all":
        sam.requires_grad_(True)
    for module in (sam.prompt_encoder, sam.mask_decoder, sam.mask_refiner):
        if module is not None:
            module.requires_grad_(True)
    return sum(p.numel() for p in sam.parameters() if p.requires_grad)


def _targets(sam: Sam) -> tuple[str, ...]:
    """Queries and values of a ViT, all layers of another encoder."""
    fused = any(name.endswith(".qkv") and "blocks" in name for name, _ in sam.named_modules())
    return lora.QUERIES_AND_VALUES if fused else lora.ENCODER


def merged(sam: Sam, original: Sam) -> Sam:
    """The original network with what another one learned, adapters folded in."""
    plain = copy.deepcopy(original)
    plain.load_state_dict(plain_state(sam))
    return plain.requires_grad_(False).eval()


def plain_state(sam: Sam) -> dict[str, Tensor]:
    """The state of a network as if it had no adapters, but computed with them.

    `lora.merge` would change the network's class, which its copies share.
    """
    marker = ".parametrizations."
    state = {n: t for n, t in sam.state_dict().items() if marker not in n}
    adapted = {n.split(marker)[0] for n in sam.state_dict() if marker in n}
    return state | {f"{n}.weight": sam.get_submodule(n).weight.detach() for n in adapted}  # type: ignore[operator]


def recipe_for(model: samplat.Model, settings: FinetuneSettings) -> Recipe:
    """The recipe of a fine-tuning: short, gentle, without the helps of a start from nothing."""
    size = model.sam.image_size
    return Recipe(
        architecture=model.architecture,
        image_size=size,
        crop=size,
        fit=True,
        steps=settings.steps,
        images=settings.images,
        prompts=settings.prompts,
        corrections=0,
        late_from=0.5,
        late_corrections=1,
        learning_rate=settings.learning_rate or RATES[settings.part],
        warmup=min(20, settings.steps // 10 + 1),
        balanced_weight=0.5,
        late_balanced_weight=0.5,
        dense_weight=0.0,
        freeze_statistics=True,
        ema=0.98,
        bf16=model.precision == "bf16",
        seed=settings.seed,
    )


def _as_model(sam: Sam, like: samplat.Model) -> samplat.Model:
    return replace(like, sam=sam, weights_sha256="")
