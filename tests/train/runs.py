"""What tests of training share: a quick recipe, its batches, and the weights of a network."""

from pathlib import Path

import torch

from samplat_train.data.folders import PictureFolder
from samplat_train.recipe import Recipe
from samplat_train.samples import CropBatches, Share

QUICK = Recipe(steps=4, images=2, prompts=2, crop=64, image_size=64, bf16=False)


def batches(folder: Path, recipe: Recipe = QUICK) -> CropBatches:
    return CropBatches([Share(source=PictureFolder.open(folder))], recipe)


def weights(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([v.flatten().double() for v in model.state_dict().values()])
