"""What racing processes run; imports little, because each of them imports it anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from samplat.errors import JobError
from samplat.store import JobStore


def compete(job_dir: str, gate: Any, answers: Any) -> None:
    """Try for the lease when the gate opens; hold it until everyone has tried."""
    gate.wait()
    try:
        with JobStore(path=Path(job_dir)).lease():
            answers.put("won")
            gate.wait()
    except JobError as error:
        answers.put(str(error))
        gate.wait()
