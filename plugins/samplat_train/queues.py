"""Projects of the data engine for windows. The engine is imported when one is opened."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from samplat_train.engine.project import Load
    from samplat_train.engine.queue import EngineQueue

SETTINGS = "project.json"
"""What makes a folder a project."""


class EngineQueues:
    """Opens projects.

    Args:
        load: what turns a model's name into an assistant; the engine's own if not given.
    """

    name = "engine"

    def __init__(self, load: Load | None = None) -> None:
        self._load = load

    def accepts(self, folder: Path) -> bool:
        """Whether it has a project's settings."""
        return (folder / SETTINGS).is_file()

    def open(self, folder: Path, *, annotator: str = "") -> EngineQueue:
        """The project in a folder.

        Args:
            folder: of the project.
            annotator: who works; user@host when empty.

        Raises:
            InputError: its files are damaged.
        """
        from samplat_train.engine.assistants import load_assistant
        from samplat_train.engine.project import Project
        from samplat_train.engine.queue import EngineQueue

        load = self._load or load_assistant
        return EngineQueue(Project.open(folder, annotator=annotator, load=load))
