"""Rounds of prompting in one training step (paper, appendix A, "Training algorithm").

The first prompt is a point or a box; each further round gets the logits of the one before and,
unless it is a refinement, one more point out of the error region.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from samplat import Draft, Prompted, Sam
from samplat_train import clicks, losses
from samplat_train.recipe import Recipe
from samplat_train.second_look import SecondLook

SINGLE_SHARE, OTHER_SHARE = 0.15, 0.25
"""Shares of first points whose single mask, and whose mask at random, is looked at again; of the
others it is the best of three. Boxes always get the single one."""


def plan_rounds(corrections: int, refinements: int, generator: torch.Generator) -> list[bool]:
    """For each round after the first, whether it gets a new point.

    As in the paper, one refinement is always the last; the others lie at random places before.
    """
    early = max(0, refinements - 1)
    rounds = [True] * corrections + [False] * early
    order = torch.randperm(len(rounds), generator=generator)
    return [rounds[i] for i in order.tolist()] + [False] * (refinements - early)


class PromptRounds:
    """Prompts of all objects of a batch: points accumulate, logits feed back.

    Args:
        model: the network; its prompt encoder may look at the image and place crops.
        recipe: losses and prompts.
        masks: (N, S, S) bool, objects of B images in order, equally many of each.
        generator: source of randomness, on the CPU.
        late: the run is in its last part.
    """

    def __init__(
        self,
        model: Sam,
        recipe: Recipe,
        masks: Tensor,
        generator: torch.Generator,
        *,
        late: bool,
    ) -> None:
        self.model, self.recipe, self.generator = model, recipe, generator
        self.guided = bool(model.prompt_encoder.guided)
        weight = recipe.late_balanced_weight if late else recipe.balanced_weight
        self.weights = {
            "focal": recipe.focal_weight,
            "dice": recipe.dice_weight,
            "balanced": weight,
        }
        corrections = recipe.late_corrections if late else recipe.corrections
        refinements = recipe.late_refinements if late else recipe.refinements
        self.plan = plan_rounds(corrections, refinements, generator)
        self.target = F.avg_pool2d(masks[:, None].float(), recipe.loss_stride)[:, 0] >= 0.5
        self.masks = masks
        self.figures: dict[str, float] = {}
        self._first_prompts(masks)

    def _first_prompts(self, masks: Tensor) -> None:
        count = len(masks)
        chance = torch.rand(2, count, generator=self.generator).to(masks.device)
        if not self.guided:
            # The paper's encoder gives boxes other tokens than points: one kind at a time.
            chance[0] = chance[0, 0]
        boxed, noisy = (
            chance[0] < self.recipe.box_share,
            chance[1, :, None] < self.recipe.noisy_boxes,
        )
        tight = clicks.boxes_of(masks)
        boxes = torch.where(noisy, clicks.noisy_boxes(tight, self.generator), tight)
        self.boxes = torch.where(boxed[:, None], boxes, torch.nan)
        self.points = self._to_pixels(self._first_points())[:, None]
        self.labels = torch.where(boxed, -1.0, 1.0)[:, None]
        self.logits: Tensor | None = None

    def _first_points(self) -> Tensor:
        share = self.recipe.central_points
        return clicks.first_points(self.target, self.generator, central=share)

    def place(self, features: tuple[Tensor, ...], images: int) -> None:
        """Take the features, and draw where in the model's input each of the crops lies."""
        self.features = features
        tokens = self.model.prompt_encoder.embedding_size
        rows, columns = features[0].shape[-2:]
        room = torch.tensor([tokens - columns + 1, tokens - rows + 1])
        corner = (torch.rand(images, 2, generator=self.generator) * room).long()
        grid = self.model.prompt_encoder.dense_pe()[0]
        places = corner.tolist()
        self.pe = torch.stack([grid[:, y : y + rows, x : x + columns] for x, y in places])
        stride = self.model.frame_size // tokens
        per_image = len(self.points) // images
        origin = (corner * stride).float().repeat_interleave(per_image, dim=0)
        self.origin = origin.to(self.points.device)

    def __iter__(self) -> Iterator[Tensor]:
        """The loss of each round, after which the next prompt is placed."""
        for i in range(1 + len(self.plan)):
            draft = self.decode()
            loss, best = self._draft_loss(draft, first=i == 0)
            chosen = self._chosen(draft, best) if i == 0 else best
            one = draft.take(chosen[:, None])
            logits = one.logits
            if self.model.mask_refiner is not None:
                second = self._look_again(one)
                meant = (chosen == best) | (chosen == 0)
                loss = loss + second.loss(self.masks, meant)
                self._note(second.logits, second.refined.iou, meant, first=i == 0)
                logits = second.logits
            yield loss * (1.0 if i == 0 else self.recipe.later_weight)
            if i < len(self.plan):
                self.logits = logits.detach().float()
                if self.plan[i]:
                    self._correct()

    def decode(self) -> Draft:
        """Masks for the prompts so far."""
        sparse, dense = self._encode_prompts()
        draft: Draft = self.model.mask_decoder(self.features, self.pe, sparse, dense)
        return draft

    def _encode_prompts(self) -> tuple[Tensor, Tensor]:
        encoder, image = self.model.prompt_encoder, self.features[0]
        if self.guided:
            return encoder(  # type: ignore[no-any-return]
                image, self.points, self.labels, self.boxes, self.logits, self.origin
            )
        boxed = bool(self.boxes.isfinite().all())
        points, labels = (t[:, int(boxed) :] for t in (self.points, self.labels))
        given = points.shape[1] > 0
        return encoder(  # type: ignore[no-any-return]
            image,
            points if given else None,
            labels if given else None,
            self.boxes if boxed else None,
            self.logits,
        )

    def _to_pixels(self, points: Tensor) -> Tensor:
        """Centres of pixels at the loss's resolution as pixels of the crop."""
        return (points + 0.5) * self.recipe.loss_stride - 0.5

    def _at_loss_size(self, logits: Tensor) -> Tensor:
        return F.interpolate(logits.float(), size=self.target.shape[-2:], mode="bilinear")

    def _draft_loss(self, draft: Draft, *, first: bool) -> tuple[Tensor, Tensor]:
        """Loss of the decoder's masks, and which mask of each prompt comes closest (N,)."""
        full, target = self._at_loss_size(draft.logits), self.target[:, None].float()
        loss = losses.mask_loss(full, target, **self.weights)
        iou = losses.mask_iou(full, target)
        iou_error = (draft.iou.float() - iou).square().mean(dim=1)
        self._note_draft(iou, draft.iou, first=first)
        single = loss[:, 0]
        if not first:
            return (single + iou_error).mean(), torch.zeros_like(single, dtype=torch.long)
        least = loss[:, 1:].min(dim=1)
        loss = least.values + iou_error
        if self.recipe.single_first:
            loss = loss + single
        return loss.mean(), least.indices + 1

    def _chosen(self, draft: Draft, best: Tensor) -> Tensor:
        """Which mask of each first prompt goes on (N,): looked at again, then the mask prompt.

        Without a second look the one that the model prefers; else a mixture to learn from.
        """
        if self.model.mask_refiner is None:
            return draft.iou[:, 1:].argmax(dim=1) + 1
        kind = torch.rand(len(best), generator=self.generator)
        other = torch.randint(1, draft.iou.shape[1], (len(best),), generator=self.generator)
        kind, other = kind.to(best.device), other.to(best.device)
        chosen = torch.where(kind < OTHER_SHARE, other, best)
        boxed = self.boxes.isfinite().all(dim=1)
        return torch.where(boxed | (kind > 1 - SINGLE_SHARE), 0, chosen)

    def _look_again(self, one: Draft) -> SecondLook:
        prompts = Prompted(self.points, self.labels, self.boxes)
        return SecondLook(self.model, self.features, one, prompts, self.generator)

    def _note_draft(self, iou: Tensor, predicted_iou: Tensor, *, first: bool) -> None:
        if first:
            self.figures["iou"] = float(iou[:, 1:].amax(dim=1).mean())
            self.figures["iou_error"] = float((predicted_iou.detach() - iou).abs().mean())
        self.figures["last_iou"] = float(iou[:, 0].mean())

    @torch.no_grad()
    def _note(self, logits: Tensor, predicted_iou: Tensor, meant: Tensor, *, first: bool) -> None:
        """The same of what was looked at again; `meant` are those that stand for the object."""
        iou = losses.mask_iou(self._at_loss_size(logits)[:, 0], self.target.float())
        mean = float(iou[meant].mean())
        if first:
            self.figures["iou"] = mean
            self.figures["iou_error"] = float((predicted_iou - iou).abs().mean())
        self.figures["last_iou"] = mean

    @torch.no_grad()
    def _correct(self) -> None:
        """Click into the error of the mask that was kept."""
        if self.logits is None:
            return
        points, labels = clicks.corrective_points(
            self._at_loss_size(self.logits)[:, 0], self.target, self.generator
        )
        self.points = torch.cat([self.points, self._to_pixels(points)[:, None]], dim=1)
        self.labels = torch.cat([self.labels, labels[:, None]], dim=1)
