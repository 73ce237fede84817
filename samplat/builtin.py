"""What the core itself registers, through the hooks that every plugin uses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from samplat.hookspecs import hookimpl

if TYPE_CHECKING:
    from collections.abc import Callable

    from samplat.checkpoints import ModelSpec
    from samplat.executors import ExecutorFactory
    from samplat.job import SegmenterFactory
    from samplat.pixels import Rescaler


@hookimpl
def register_models(register: Callable[[ModelSpec], None]) -> None:
    """The bundled model and the published ones."""
    from samplat.checkpoints import shipped_models

    for spec in shipped_models().values():
        register(spec)


@hookimpl
def register_rescalers(register: Callable[[Rescaler], None]) -> None:
    """A percentile stretch, one between given values, and none."""
    from samplat.pixels import IdentityRescaler, PercentileRescaler, RangeRescaler

    register(PercentileRescaler())
    register(RangeRescaler())
    register(IdentityRescaler())


@hookimpl
def register_segmenters(register: Callable[[SegmenterFactory], None]) -> None:
    """The grid of points, prompts that a job brings, and a threshold."""
    from samplat.segmenters import AutomaticFactory, PromptedFactory, ThresholdFactory

    register(AutomaticFactory())
    register(PromptedFactory())
    register(ThresholdFactory())


@hookimpl
def register_executors(register: Callable[[ExecutorFactory], None]) -> None:
    """One thread, or a few of them."""
    from samplat.executors import OverlappingFactory, SerialFactory, ThreadsFactory

    register(OverlappingFactory())
    register(SerialFactory())
    register(ThreadsFactory())
