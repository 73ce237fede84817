"""Models that the user trained: files in one folder, each loaded by its name."""

from __future__ import annotations

import os
import re
from pathlib import Path

from samplat.errors import CheckpointError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
SUFFIX = ".safetensors"


def models_folder() -> Path:
    """`own-models` in `$SAMPLAT_HOME`, else `models` in the user's data directory."""
    if chosen := os.environ.get("SAMPLAT_HOME"):
        return Path(chosen).expanduser() / "own-models"
    import platformdirs

    return platformdirs.user_data_path("samplat", appauthor=False) / "models"


def model_file(name: str) -> Path:
    """The file of a model of this name.

    Raises:
        CheckpointError: the name cannot be a file's.
    """
    if not NAME.fullmatch(name) or name.endswith(SUFFIX):
        raise CheckpointError(
            f"a model's name is made of letters, digits, '.', '_' and '-', got {name!r}; "
            f"leave {SUFFIX} away"
        )
    return models_folder() / f"{name}{SUFFIX}"


def model_files() -> dict[str, Path]:
    """The models that there are, by name."""
    try:
        found = sorted(models_folder().glob(f"*{SUFFIX}"))
    except OSError:
        return {}
    return {path.name.removesuffix(SUFFIX): path for path in found if not path.name.startswith(".")}
