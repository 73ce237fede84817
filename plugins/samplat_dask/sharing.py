"""One cluster for the stages of many jobs at once."""

from __future__ import annotations

import functools
import json
import pickle
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from samplat import ExecutorError, InputError, Plan, plugin_versions

if TYPE_CHECKING:
    from samplat_dask.executor import DaskExecutor

T = TypeVar("T")

SMALL = 2**15
"""Bytes of a task that travels with each index: to tell all workers of it costs more."""
FEW = 64
"""Indices of a stage for which that holds."""


class SharedDask:
    """The executor as jobs of a batch see it; called from several threads.

    Stages of small jobs are told to nobody beforehand: with thousands of them, telling all workers
    of each would take longer than the work. Their tasks travel with the indices.
    """

    def __init__(self, executor: DaskExecutor) -> None:
        self._executor = executor
        self._stages = 0
        self._checked: set[str] = set()
        self._lock = threading.Lock()

    def check(self, plan: Plan, tools: Any) -> None:
        """Find out whether the workers can do a job, once for all jobs that need the same.

        Raises:
            InputError: they cannot do this one.
            ExecutorError: nor did they any before, so that it is not the job.
        """
        from samplat_dask.checks import check_job

        job = plan.job
        needs = [job.source.factory, job.segmenter, plan.identity["segmenter"]]
        key = json.dumps(needs, sort_keys=True, default=str)
        with self._lock:
            if key in self._checked:
                return
            try:
                check_job(self._executor.client, plan, tools)
            except InputError as error:
                if self._checked:
                    raise
                raise ExecutorError(str(error)) from error
            self._checked.add(key)

    def map(self, task: Callable[[int], T], indices: Sequence[int]) -> Iterator[T]:
        """Results as they come; as `DaskExecutor.map`.

        Raises:
            ExecutorError: workers or the scheduler were lost.
        """
        from samplat_dask.waves import Waves
        from samplat_dask.worker import run_carried, run_index

        if not len(indices):
            return
        resources, payload = self._executor.needed(task), pickle.dumps(task)
        waves = functools.partial(
            Waves,
            client=self._executor.client,
            task=task,
            resources=resources,
            among=lambda: max(1, self._stages),
        )
        with self._counted():
            if len(payload) <= SMALL and len(indices) <= FEW:
                told: dict[str, Any] = {
                    "payload": payload,
                    "expected": plugin_versions()["samplat"],
                }
                run = functools.partial(run_carried, **told)
                yield from waves(token=uuid.uuid4().hex[:8], run=run).results(indices)
            else:
                with self._executor.told(task, resources) as token:
                    yield from waves(token=token, run=run_index).results(indices)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        with self._lock:
            self._stages += 1
        try:
            yield
        finally:
            with self._lock:
                self._stages -= 1
