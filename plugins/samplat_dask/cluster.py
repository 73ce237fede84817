"""The cluster that does the work: one that is there, or processes of this machine."""

from __future__ import annotations

import asyncio
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from samplat import InputError

if TYPE_CHECKING:
    from distributed import Client, LocalCluster

CONNECT = 10.0
"""Seconds in which a scheduler has to answer."""
LOOPBACK = "127.0.0.1"


def configured_address() -> str | None:
    """The scheduler that Dask's own configuration names, such as by DASK_SCHEDULER_ADDRESS."""
    import dask

    found: str | None = dask.config.get("scheduler-address", None)
    return found


def local_cluster(workers: int | None) -> LocalCluster:
    """Processes of one thread each on this machine, that listen to nobody else.

    Raises:
        InputError: they cannot be started.
    """
    from distributed import LocalCluster

    try:
        return LocalCluster(
            n_workers=workers or os.cpu_count() or 1,
            threads_per_worker=1,
            processes=True,
            host=LOOPBACK,
            protocol="tcp://",
            dashboard_address=f"{LOOPBACK}:0",
            worker_dashboard_address=f"{LOOPBACK}:0",
            # what a person has to know, errors say
            silence_logs=logging.CRITICAL,
        )
    except (OSError, RuntimeError, TimeoutError) as error:
        raise InputError(
            f"cannot start worker processes: {error}; a script has to start them below "
            '`if __name__ == "__main__":`'
        ) from error


def connect(address: str | None, cluster: LocalCluster | None) -> Client:
    """A client of a scheduler.

    Raises:
        InputError: nobody answers there.
    """
    from distributed import Client

    try:
        if address is not None:
            _knock(address)
        return Client(cluster or address, timeout=CONNECT, set_as_default=False, name="samplat")
    except (OSError, TimeoutError, ValueError) as error:
        raise InputError(
            f"no Dask scheduler answers at {address} within {CONNECT:g} s"
            f"{f' ({error})' if str(error) else ''}; start one with `dask scheduler`, mend "
            "--scheduler-address or DASK_SCHEDULER_ADDRESS, or leave both out for processes of "
            "this machine"
        ) from error


def _knock(address: str) -> None:
    """See that something which speaks Dask listens; a client itself would wait for minutes."""
    from distributed.comm import connect as open_comm
    from distributed.security import Security

    async def knock() -> None:
        arguments = Security().get_connection_args("client")
        comm = await open_comm(address, timeout=CONNECT, **arguments)
        await comm.close()

    # in a thread: here a loop may be running already, as in a notebook
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, asyncio.wait_for(knock(), CONNECT)).result()


def threads_of(client: Client) -> int:
    """How many tasks the workers run at once, all together."""
    return sum(client.nthreads().values())


def offers(client: Client, resource: str) -> bool:
    """Whether a worker has some of a resource."""
    workers = client.scheduler_info()["workers"].values()
    return any(worker.get("resources", {}).get(resource, 0) >= 1 for worker in workers)
