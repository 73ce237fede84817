"""The executor `dask`: tiles as tasks of a scheduler, a few at a time."""

from __future__ import annotations

import logging
import pickle
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Self, TypeVar

from samplat import ExecutorError, InputError, Plan, plugin_versions
from samplat_dask.cluster import configured_address, connect, local_cluster, offers, threads_of

if TYPE_CHECKING:
    from distributed import Client, WorkerPlugin

    from samplat_dask.sharing import SharedDask

log = logging.getLogger(__name__)

T = TypeVar("T")

TOLD = 5
"""How often one tries to tell all workers of a stage."""
MOST_JOBS = 64
"""Jobs that this process leads at once: each has a thread here, and an open image."""
GPU = "GPU"
"""The resource that workers with a graphics processor offer: `dask worker --resources GPU=1`."""


class DaskExecutor:
    """Runs tasks on the workers of a Dask cluster. A context manager, or closed with `close`."""

    def __init__(self, *, address: str | None = None, workers: int | None = None) -> None:
        """Connect to a scheduler, or start processes of this machine.

        Args:
            address: of the scheduler; None: as Dask is configured, otherwise processes of our own.
            workers: how many processes of our own.

        Raises:
            InputError: nobody answers there.
        """
        address = address or configured_address()
        if address is not None and workers is not None:
            raise InputError(
                f"the workers of {address} are as many as they are; leave out the number"
            )
        self._cluster = local_cluster(workers) if address is None else None
        try:
            self.client: Client = connect(address, self._cluster)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the scheduler, and end the processes of our own."""
        for part in (getattr(self, "client", None), self._cluster):
            if part is not None:
                with suppress(TimeoutError, OSError):
                    part.close()

    def check(self, plan: Plan, tools: Any) -> None:
        """Find out whether all workers can do a job.

        Raises:
            InputError: one cannot, and why; or there is none.
        """
        from samplat_dask.checks import check_job, check_versions
        from samplat_dask.waves import wait_for_workers

        wait_for_workers(self.client)
        check_versions(self.client)
        check_job(self.client, plan, tools)

    def map(self, task: Callable[[int], T], indices: Sequence[int]) -> Iterator[T]:
        """Results as they come.

        What Dask knows at once of the tasks is a few for each thread of a worker. When the
        iterator is closed, what waits is cancelled, and what runs is waited for.

        Raises:
            JobError: workers or the scheduler were lost, and what to do.
        """
        from samplat_dask.waves import Waves

        if not len(indices):
            return
        resources = self.needed(task)
        with self.told(task, resources) as token:
            waves = Waves(client=self.client, task=task, token=token, resources=resources)
            yield from waves.results(indices)

    def needed(self, task: Any) -> dict[str, float]:
        """What a worker has to offer for a task."""
        inferring = getattr(task, "infers", False) and offers(self.client, GPU)
        return {GPU: 1} if inferring else {}

    @property
    def jobs_at_once(self) -> int:
        """One for each thread of a worker, and some that are opened, merged or written."""
        return min(MOST_JOBS, threads_of(self.client) + 2)

    @contextmanager
    def shared(self) -> Iterator[SharedDask]:
        """For a while the workers of several jobs at once; they keep models that these share.

        Raises:
            InputError: there are no workers, or they have other versions.
        """
        from samplat_dask.checks import check_versions
        from samplat_dask.sharing import SharedDask
        from samplat_dask.waves import wait_for_workers
        from samplat_dask.worker import SharingPlugin

        wait_for_workers(self.client)
        check_versions(self.client)
        name = f"samplat-sharing-{uuid.uuid4().hex[:8]}"
        try:
            self.register(SharingPlugin(), name)
            yield SharedDask(self)
        finally:
            self._unregister(name)

    @contextmanager
    def told(self, task: Callable[[int], Any], resources: dict[str, float]) -> Iterator[str]:
        """All workers know the task, for a while, by a name."""
        from samplat_dask.worker import StagePlugin

        token = uuid.uuid4().hex[:8]
        plugin = StagePlugin(
            token=token,
            payload=pickle.dumps(task),
            expected=plugin_versions()["samplat"],
            resources=resources,
        )
        name = f"samplat-{token}"
        try:
            self.register(plugin, name)
            yield token
        finally:
            self._unregister(name)

    def register(self, plugin: WorkerPlugin, name: str) -> None:
        """Tell all workers something, those too that come later.

        Raises:
            ExecutorError: they cannot be reached.
        """
        for attempt in range(TOLD):
            try:
                self.client.register_plugin(plugin, name=name)
            except (OSError, TimeoutError) as error:
                # a worker died meanwhile; those that come later are told by the scheduler
                if attempt == TOLD - 1:
                    raise ExecutorError(
                        f"the workers of {self.client.scheduler.address} cannot be reached "
                        f"({error}); mend that and run the same command again, it resumes"
                    ) from error
                time.sleep(1)
            else:
                return

    def _unregister(self, name: str) -> None:
        try:
            self.client.unregister_worker_plugin(name)
        except Exception as error:  # noqa: BLE001 done is done, whoever could not be told
            # such as a worker that just begins, or a scheduler that was lost
            log.debug("a worker was not told that %s is over: %s", name, error)


class DaskFactory:
    """Makes executors on Dask."""

    name = "dask"

    def create(
        self, *, workers: int | None = None, scheduler_address: str | None = None
    ) -> DaskExecutor:
        """Connect, or start processes: see `DaskExecutor`."""
        return DaskExecutor(address=scheduler_address, workers=workers)
