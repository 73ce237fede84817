"""Who finds what points at the objects of an image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from samplat.object_prompts import ScenePrompts
from samplat.stack_prompts import StackPrompts

if TYPE_CHECKING:
    from samplat.pixels import ImageSource

AnyPrompts = ScenePrompts | StackPrompts


class Prompter(Protocol):
    """Finds what points at the objects of an image: a vector file, a detector, words."""

    @property
    def name(self) -> str:
        """Unique name."""
        ...

    def prompts(self, source: ImageSource, path: str, *args: Any, **options: Any) -> AnyPrompts:
        """The objects that are pointed at: `ScenePrompts`, best made with `gather_prompts`.

        `StackPrompts` for jobs that stack slices.

        It is called once, before anything is computed, and its answer is a part of what the job is.

        Args:
            source: the image, open.
            path: the file of prompts, as the user gave it.
            args: none.
            options: those of the job's `PromptSpec`.

        Raises:
            InputError: the file or an option is unusable.
        """
        ...
