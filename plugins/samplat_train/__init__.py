"""Training: simulated prompts, the paper's losses, drawn scenes, and the commands that use them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from samplat import hookimpl

if TYPE_CHECKING:
    from collections.abc import Callable

    import typer

    from samplat import QueueFactory

REQUIRES = ("skimage",)


@hookimpl
def register_queues(register: Callable[[QueueFactory], None]) -> None:
    """Projects of the data engine."""
    from samplat_train.queues import EngineQueues

    register(EngineQueues())


@hookimpl
def register_commands(app: typer.Typer) -> None:
    """Add `samplat train`, `finetune`, `pretrain`, `draw-scenes` and `engine`."""
    from samplat_train.commands import add_commands
    from samplat_train.engine_commands import add_engine
    from samplat_train.finetune_commands import add_commands as add_finetuning
    from samplat_train.pretrain_commands import add_commands as add_pretraining

    add_commands(app)
    add_finetuning(app)
    add_pretraining(app)
    add_engine(app)
