"""How long a person waits for the first mask of a large volume: from its path to a mask."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import samplat
from benchmarks.evaluation.objects import mask_box
from samplat_volume.intensity import WindowRescaler
from samplat_volume.model_slices import ModelSlices
from samplat_volume.planes import plane_of
from samplat_volume.propagation import Settings, propagate
from samplat_volume.slices import SlicePrompt
from samplat_volume.source import VolumeSource
from samplat_volume.views import SourceStack

SHAPE = (400, 512, 512)
"""Voxels (z, y, x) of a CT of the abdomen."""
ROUNDS = 7
"""Of each measurement; the median counts."""
SUFFIXES = (".nii", ".nii.gz")


def first_mask(model: Any, folder: Path, shape: tuple[int, int, int] = SHAPE) -> dict[str, float]:
    """Seconds, medians of several rounds.

    encode: one slice, bare. For each format: from the path to the first mask of a propagation by
    one box, which is a draft, and how much of it is not the encoding; the same until that mask is
    finished. prompt: what the whole answer to a box takes, which is a part of it. The model is
    loaded, the file in the system's memory, and what is compressed ingested: a person has opened
    it before.
    """
    box = write_scan(folder, shape)
    shown = opened(folder / "scan.nii", model)[1](shape[0] // 2)
    prompts = samplat.Prompts(boxes=[box])
    works: dict[str, Any] = {
        "encode": lambda: samplat.embed(model, shown),
        "prompt": lambda: answered(model, shown, prompts),
    }
    for suffix in SUFFIXES:
        for name, hears in (("", "on_draft"), (" finished", "on_slice")):
            path = folder / f"scan{suffix}"
            works[suffix + name] = partial(until_first_mask, path, model, box, shape, hears)
    seconds = timed(works)
    figures = {"encode": seconds["encode"], "prompt": seconds["prompt"] - seconds["encode"]}
    for name in list(works)[2:]:
        figures |= {name: seconds[name], f"{name} over": seconds[name] - seconds["encode"]}
    return figures


def answered(model: Any, pixels: Any, prompts: samplat.Prompts) -> Any:
    """A prompt on a picture that was not seen before."""
    return samplat.predict(model, samplat.embed(model, pixels), prompts, multimask=False)


def timed(works: dict[str, Any]) -> dict[str, float]:
    """Medians of rounds in which each work is done once: what disturbs meets them alike."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        work()  # what is compressed is ingested
    for _ in range(ROUNDS):
        for name, work in works.items():
            began = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - began)
    return {name: median(each) for name, each in seconds.items()}


def opened(path: Path, model: Any) -> tuple[VolumeSource, SourceStack, ModelSlices]:
    """A volume, as an interface opens it: grey values of a window, slices, nothing encoded."""
    source = VolumeSource(str(path))
    plane = plane_of(source.geometry, "axial")
    stack = SourceStack(source, plane, WindowRescaler().fit(source, window="soft-tissue"))
    return source, stack, ModelSlices(model, stack)


def until_first_mask(path: Path, model: Any, box: Any, shape: Any, hears: str) -> None:
    """Open it, prompt its middle slice, stop when `on_draft` or `on_slice` hears of a mask.

    Raises:
        AssertionError: another slice was encoded as well, or none.
    """
    source, stack, slices = opened(path, model)
    heard: list[Any] = []

    def hear(index: int, result: Any) -> bool:
        heard.append((index, result.mask.any()))
        return False

    asked, settings = {shape[0] // 2: SlicePrompt(box=box)}, Settings(steps=stack.steps)
    hearing: Any = {hears: hear}
    propagate(slices, asked, settings=settings, pixels=stack, **hearing)
    source.close()
    if slices.encoded != 1 or heard != [(shape[0] // 2, True)]:
        raise AssertionError(f"{slices.encoded} slices were encoded before the first mask: {heard}")


def write_scan(folder: Path, shape: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """A body with an organ and noise, in both formats; the organ's box on the middle slice."""
    import SimpleITK

    z, y, x = np.ogrid[: shape[0], : shape[1], : shape[2]]
    z, y, x = (2 * g / n - 1 for g, n in zip((z, y, x), shape, strict=True))
    body = (y / 0.8) ** 2 + (x / 0.9) ** 2 < 1
    organ = ((y + 0.1) / 0.25) ** 2 + ((x + 0.2) / 0.3) ** 2 + (z / 0.3) ** 2 < 1
    noise = np.random.default_rng(0).normal(0, 12, (16, *shape[1:])).astype(np.int16)
    values = np.empty(shape, np.int16)
    for k in range(shape[0]):
        values[k] = np.where(body[0], np.where(organ[k], 130, 40), -1000) + noise[k % 16]
    image = SimpleITK.GetImageFromArray(values)
    image.SetSpacing((0.8, 0.8, 1.0))
    for suffix in SUFFIXES:
        SimpleITK.WriteImage(image, str(folder / f"scan{suffix}"), suffix == ".nii.gz", 1)
    return mask_box(organ[shape[0] // 2])
