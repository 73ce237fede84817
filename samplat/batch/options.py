"""Options of the commands that items are told, by name and value, as a manifest has them."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import typer

from samplat.errors import InputError, SamplatError
from samplat.hookspecs import JobKind
from samplat.job_command import JobOrder
from samplat.places import Place

OF_THE_BATCH = (
    "executor",
    "workers",
    "scheduler_address",
    "job_dir",
    "overwrite",
    "dry_run",
    "offline",
    "log_json",
    "out",
    "help",
)
"""Options of commands that concern all items; `out` is what a manifest calls `output`."""
YES, NO = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
UsageError: Any = typer.BadParameter.__bases__[0]
"""What is wrong with arguments, whoever found it."""


@dataclass(frozen=True)
class KindOptions:
    """The options of one kind of items, read off the command that does the same for one input."""

    kind: JobKind
    """Which."""

    @functools.cached_property
    def _command(self) -> Any:
        app = typer.Typer(add_completion=False, rich_markup_mode=None)
        app.command(self.kind.command)(self.kind.order)
        return typer.main.get_command(app)

    @functools.cached_property
    def _by_name(self) -> dict[str, Any]:
        found = {
            option.removeprefix("--").replace("-", "_"): parameter
            for parameter in self._command.params
            for option in parameter.opts
            if option.startswith("--")
        }
        return {name: each for name, each in found.items() if name not in OF_THE_BATCH}

    @property
    def names(self) -> tuple[str, ...]:
        """What they are called, words joined by _."""
        return tuple(self._by_name)

    def arguments(self, options: Mapping[str, Any]) -> list[str]:
        """Options as a shell would have them.

        Raises:
            InputError: a value is of no use; the message does not say whose.
        """
        found: list[str] = []
        for name, value in options.items():
            flag = f"--{name.replace('_', '-')}"
            if not getattr(self._by_name[name], "is_flag", False):
                found.append(f"{flag}={as_text(value)}")
            elif _is_true(value):
                found.append(flag)
        return found

    def order(
        self, image: str, outputs: Sequence[Place], options: Mapping[str, Any], job_dir: Place
    ) -> JobOrder:
        """What the command understands of an input, outputs and options.

        Raises:
            InputError: it does not, and why; the message names the option.
        """
        paths = self.kind.arguments(image, cast("Sequence[Path]", outputs))  # they name them only
        try:
            told = [*self.arguments(options), f"--job-dir={job_dir}", *paths]
            with self._command.make_context(self.kind.command, told) as context:
                order: JobOrder = self._command.invoke(context)
        except UsageError as error:
            raise InputError(error.format_message()) from error
        except SamplatError as error:
            raise InputError(str(error)) from error
        return order


def as_text(value: Any) -> str:
    """A value as a shell would have it; of JSON's lists and whole floats too."""
    if isinstance(value, list | tuple):
        return ",".join(map(as_text, value))
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _is_true(value: Any) -> bool:
    text = as_text(value).strip().lower()
    if text not in YES + NO:
        raise InputError(f"expected true or false, got {value!r}")
    return text in YES


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint at what a name may have been meant to be, or at what there is."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, 1)
    return f"did you mean {close[0]}?" if close else f"known: {', '.join(names)}"
