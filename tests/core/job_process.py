"""Run by the tests as a process of its own, to be killed: one job, or the whole command line.

It names each event of its progress and waits until it is let go on, so that a test decides between
which two events it dies.
"""

from __future__ import annotations

import os
import sys
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.rasters import Counted, Given, threshold
from core import oracle
from core.test_nested import BitsFactory
from core.test_prompted import ConnectedFactory
from samplat import cli, plugins, progress
from samplat.errors import SamplatError
from samplat.pipeline import run_job
from volume.followers import PatchFactory

COMMANDS = ("tile-segment", "volume-segment", "export")


def main(test: Connection, log: str, first: str, *rest: str) -> None:
    """What the process does: it says that it is ready, and what it prints goes to a file."""
    with Path(log).open("w", encoding="utf-8") as file:
        for standard in (1, 2):
            os.dup2(file.fileno(), standard)
    steps = Steps(test)
    steps.tell("ready")
    if first in COMMANDS:
        command_line(steps, first, *rest)
    else:
        job(steps, first, *rest)


class Steps:
    """Says which stage something happened in, and waits."""

    def __init__(self, test: Connection) -> None:
        self.test = test

    def start(self, stage: str, total: int) -> None:
        self.tell(stage)

    def advance(self, stage: str, steps: int = 1) -> None:
        self.tell(stage)

    def finish(self, stage: str) -> None:
        self.tell(stage)

    def message(self, text: str) -> None:
        pass

    def tell(self, stage: str) -> None:
        self.test.send(stage)
        self.test.recv()


def job(steps: Steps, image: str, job_dir: str, delay: str) -> None:
    options = {"delay": float(delay)}
    given = oracle.oracle_job(Path(job_dir), image, segmenter_options=options)
    try:
        run_job(given, tools=oracle.oracle_tools(), progress=steps)
    except SamplatError as error:
        sys.exit(str(error))


def command_line(steps: Steps, *arguments: str) -> None:
    """With the installed plugins and segmenters that need no model."""
    manager = plugins.load_plugins().manager
    manager.register(oracle, name="oracle")
    tools = plugins.collect(manager)
    tools.add("segmenters", "test", BitsFactory(name="bits"))
    tools.add("segmenters", "test", ConnectedFactory())
    tools.add("segmenters", "test", PatchFactory())
    tools.add("segmenters", "test", Given(Counted(threshold), name="textures"))
    plugins.registry = lambda: tools
    progress.choose_progress = lambda *stream, **options: steps
    cli.main(list(arguments))
