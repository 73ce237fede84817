"""Where the evaluation data lie, and how a benchmark tells where it is. Imports nothing heavy."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def default_root() -> Path:
    """$SAMPLAT_DATA/eval, or ../shared/data/eval beside the repository."""
    if data := os.environ.get("SAMPLAT_DATA"):
        return Path(data) / "eval"
    return Path(__file__).resolve().parents[3] / "shared" / "data" / "eval"


def say(line: str) -> None:
    """Progress, on stderr."""
    print(line, file=sys.stderr, flush=True)
