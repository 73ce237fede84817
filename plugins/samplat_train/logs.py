"""Logs of a run: `log.csv`, `figures.csv`, and TensorBoard's files if tensorboardX is there."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from samplat import SamplatError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


class RunLog:
    """Writes one line, and one point per curve, for every step.

    A resumed run goes on in the same files; steps that it repeats are written once.

    Args:
        run_dir: the run's directory.
        start: steps that the run has done already; later lines are of an interrupted attempt.

    Raises:
        SamplatError: the disk is full or the directory cannot be written; of every method.
    """

    def __init__(self, run_dir: Path, start: int = 0) -> None:
        self.path, self.figures = run_dir / "log.csv", run_dir / "figures.csv"
        with _telling(self.path):
            run_dir.mkdir(parents=True, exist_ok=True)
            _cut(self.path, start)
            _cut(self.figures, start)
            self.board = _board(run_dir, start)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.board is not None:
            self.board.close()

    def add(self, report: DataclassInstance) -> None:
        """Write a step: a report whose first field is `step`, the others numbers."""
        row = asdict(report)
        with _telling(self.path):
            fresh = not self.path.exists()
            with self.path.open("a", newline="") as file:
                writer = csv.DictWriter(file, fieldnames=list(row))
                if fresh:
                    writer.writeheader()
                writer.writerow({k: f"{v:.7g}" for k, v in row.items()})
            if self.board is not None:
                for name in row.keys() - {"step"}:
                    self.board.add_scalar(f"train/{name}", row[name], row["step"])

    def figure(self, name: str, value: float, step: int) -> None:
        """One point of another curve, such as a validation's score; a line of `figures.csv`."""
        with _telling(self.figures):
            fresh = not self.figures.exists()
            with self.figures.open("a", newline="") as file:
                writer = csv.writer(file)
                if fresh:
                    writer.writerow(["step", "figure", "value"])
                writer.writerow([step, name, f"{value:.7g}"])
        if self.board is not None:
            self.board.add_scalar(name, value, step)


@contextmanager
def _telling(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SamplatError(
            f"cannot write {path}: {error.strerror or error}; the last checkpoint is kept: free "
            "space and run the same command again"
        ) from error


def _cut(path: Path, start: int) -> None:
    """Drop the lines of steps after `start`: they are going to be done again."""
    if not path.exists():
        return
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    kept = [row for row in rows[1:] if row and row[0].isdigit() and int(row[0]) <= start]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([*rows[:1], *kept])


def _board(run_dir: Path, start: int) -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(run_dir / "tensorboard"), purge_step=start + 1)
