"""`transformers`' SamModel as an independent implementation, on the same random weights."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from model import seeding
from samplat.dialects import to_official
from samplat.model.sam import Sam, build_vit, build_vit_b

transformers = pytest.importorskip("transformers", reason="transformers (extra 'bench') is missing")

TOLERANCE = 1e-4
"""Relative L2 in fp32."""
CUTS = {
    "vit_b": {"dim": 768, "heads": 12, "depth": 3, "global_blocks": (1,), "image_size": 256},
    "vit_b, whole windows": {
        "dim": 768, "heads": 12, "depth": 2, "global_blocks": (0,), "image_size": 224,
    },
    "vit_l": {"dim": 1024, "heads": 16, "depth": 2, "global_blocks": (1,), "image_size": 256},
    "vit_h": {"dim": 1280, "heads": 16, "depth": 2, "global_blocks": (0,), "image_size": 320},
}  # fmt: skip


@pytest.mark.parametrize("name", CUTS)
def test_cut_networks_agree(name: str) -> None:
    cut = CUTS[name]
    theirs = hugging_face(**cut)
    ours = with_weights_of(theirs, build_vit(**cut))
    errors = compare(ours, theirs, cut["image_size"], kinds=seeding.prompts(64))
    assert max(errors.values()) < TOLERANCE, errors


@pytest.mark.timeout(3600)  # half a minute on two idle cores; shared ones take what they take
@pytest.mark.slow
def test_full_vit_b_agrees() -> None:
    theirs = hugging_face(dim=768, heads=12, depth=12, global_blocks=(2, 5, 8, 11), image_size=1024)
    ours = with_weights_of(theirs, build_vit_b())
    errors = compare(ours, theirs, 1024, kinds=["points", "boxes", "masks", "all"], forwards=1)
    assert max(errors.values()) < TOLERANCE, errors


def hugging_face(
    *, dim: int, heads: int, depth: int, global_blocks: tuple[int, ...], image_size: int
) -> "transformers.SamModel":
    """Their network, filled by the names of the official one."""
    vision = {
        "hidden_size": dim, "num_hidden_layers": depth, "num_attention_heads": heads,
        "image_size": image_size, "global_attn_indexes": list(global_blocks),
    }  # fmt: skip
    config = transformers.SamConfig(
        vision_config=vision,
        prompt_encoder_config={"image_size": image_size},
        # As in the official code; the default here, 1e-6, moves the logits by 1e-4.
        mask_decoder_config={"layer_norm_eps": 1e-5},
    )
    model = transformers.SamModel(config)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            (official,) = to_official({"vision_encoder.": torch.empty(0), name: tensor}).keys() - {
                "image_encoder."
            }
            tensor.copy_(torch.from_numpy(seeding.values(official, tuple(tensor.shape))))
    return model.eval()


def with_weights_of(theirs: "transformers.SamModel", ours: Sam) -> Sam:
    ours.load_state_dict(to_official(theirs.state_dict()))
    return ours.eval()


def compare(
    ours: Sam,
    theirs: "transformers.SamModel",
    size: int,
    kinds: Mapping[str, object] | list[str],
    forwards: int = 2,
) -> dict[str, float]:
    """Relative L2 by output; of the second forward, since a process's first may be off by 1e-4."""
    image = ours.preprocess(seeding.pixels(size))
    with torch.inference_mode():
        for _ in range(forwards):
            embedding = theirs.get_image_embeddings(image)
            features = ours.image_encoder(image)
        errors = {"embedding": relative_l2(features[0], embedding)}
        for kind, prompts in seeding.prompts(size).items():
            if kind in kinds:
                logits, iou = ours.decode(features, **prompts)
                their_logits, their_iou = decode(theirs, embedding, prompts)
                errors[f"{kind}: logits"] = relative_l2(logits, their_logits)
                errors[f"{kind}: iou"] = relative_l2(iou, their_iou)
    return errors


def decode(
    model: "transformers.SamModel", embedding: Tensor, prompts: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """All four masks; each prompt is one image of a batch, since a mask belongs to an image."""
    count = len(next(iter(prompts.values())))
    arguments = {
        "image_embeddings": embedding.expand(count, -1, -1, -1),
        "input_points": prompts["points"][:, None] if "points" in prompts else None,
        "input_labels": prompts["labels"][:, None] if "labels" in prompts else None,
        "input_boxes": prompts["boxes"][:, None] if "boxes" in prompts else None,
        "input_masks": prompts.get("masks"),
    }
    single, three = (model(**arguments, multimask_output=m) for m in (False, True))
    logits = torch.cat([single.pred_masks, three.pred_masks], dim=2)
    return logits[:, 0], torch.cat([single.iou_scores, three.iou_scores], dim=2)[:, 0]


def relative_l2(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours - theirs).norm() / theirs.norm())
