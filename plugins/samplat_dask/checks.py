"""Whether all workers can do a job, found out before any of it is done."""

from __future__ import annotations

import json
import os
import pickle
import platform
import socket
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from samplat import InputError, JobError, Place, Plan, SamplatError, place, plugin_versions

if TYPE_CHECKING:
    from distributed import Client

TEMPORARY = ".samplat-tmp"
"""What a killed client leaves of this is removed by the next run."""


def check_versions(client: Client) -> None:
    """Compare Python and samplat of scheduler and workers with ours.

    Raises:
        InputError: one has another version, or none.
    """
    from importlib.metadata import version

    found = client.get_versions(check=False, packages=["samplat"])
    ours = (_minor(platform.python_version()), version("samplat"))
    others = {"the scheduler": found["scheduler"]}
    others |= {f"worker {address}": each for address, each in found["workers"].items()}
    for name, each in others.items():
        packages = (each or {}).get("packages", {})
        theirs = (_minor(packages.get("python", "?")), packages.get("samplat"))
        if theirs != ours:
            raise InputError(
                f"{name} has {_called(*theirs)}, here is {_called(*ours)}; "
                "install the same everywhere"
            )


def _minor(python: str) -> str:
    return ".".join(python.split(".")[:2])


def _called(python: str, samplat: str | None) -> str:
    return f"{f'samplat {samplat}' if samplat else 'no samplat'} on Python {python}"


def check_job(client: Client, plan: Plan, tools: Any) -> None:
    """Let every worker open the image, name the segmenter, and write into the job directory.

    Raises:
        InputError: one cannot, and why.
    """
    folder, token = place(plan.job.job_dir), uuid.uuid4().hex
    ours = folder / f".{token}.client{TEMPORARY}"
    try:
        ours.write_bytes(token.encode())
        probe = pickle.dumps(Probe(plan=plan, tools=tools, token=token))
        replies = client.run(_probe, probe, on_error="return")
        for address, reply in replies.items():
            _check_reply(address, reply, folder, token, _needed(plan, tools))
    finally:
        for left in folder.iterdir():
            if left.name.startswith(f".{token}."):
                left.unlink(missing_ok=True)


def _needed(plan: Plan, tools: Any) -> dict[str, str]:
    """Distributions of the plugins that a job needs."""
    owners, here = getattr(tools, "owners", {}), plugin_versions()
    names = (("sources", plan.job.source.factory), ("segmenters", plan.job.segmenter))
    used = {owners.get(name) for name in names}
    return {plugin: here[plugin] for plugin in used if plugin in here}


def _check_reply(
    address: str, reply: Any, folder: Place, token: str, needed: Mapping[str, str]
) -> None:
    if isinstance(reply, SamplatError):
        raise InputError(f"worker {address} cannot do this job: {reply}") from reply
    if isinstance(reply, OSError):
        return  # it is gone; others take its place
    if isinstance(reply, BaseException):
        raise InputError(
            f"worker {address} cannot do this job: {type(reply).__name__}: {reply}"
        ) from reply
    for plugin, distribution in needed.items():
        theirs = reply["plugins"].get(plugin)
        if theirs != distribution:
            raise InputError(
                f"worker {address} has {theirs or 'nothing'} for the plugin {plugin}, here is "
                f"{distribution}; install the same everywhere"
            )
    if _content(folder / reply["file"]) != token:
        raise InputError(
            f"what worker {address} on {reply['host']} writes to {folder} does not arrive here: "
            "put the job directory (--job-dir) on storage that all workers share"
        )


def _content(path: Place) -> str | None:
    """Of a file, if there is one."""
    try:
        return path.read_bytes().decode()
    except OSError:
        return None


def _probe(payload: bytes) -> dict[str, Any]:
    probe: Probe = pickle.loads(payload)  # noqa: S301 of our own client
    return probe()


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What a worker tries of a job."""

    plan: Plan
    """The job."""
    tools: Any
    """What its names stand for."""
    token: str
    """Content of the files."""

    def __call__(self) -> dict[str, Any]:
        """What it has and wrote.

        Raises:
            InputError: it cannot do the job.
        """
        self._check_directory()
        self._check_segmenter()
        self._check_image()
        return {"plugins": plugin_versions(), "host": socket.gethostname(), "file": self._leave()}

    def _check_directory(self) -> None:
        folder = place(self.plan.job.job_dir)
        if _content(folder / f".{self.token}.client{TEMPORARY}") != self.token:
            raise InputError(
                f"{socket.gethostname()} does not see the job directory {folder}: put it "
                "(--job-dir) on storage that all workers share"
            )

    def _leave(self) -> str:
        folder = place(self.plan.job.job_dir)
        name = f".{self.token}.{socket.gethostname()}-{os.getpid()}{TEMPORARY}"
        try:
            (folder / name).write_bytes(self.token.encode())
        except (OSError, JobError) as error:
            raise InputError(
                f"{socket.gethostname()} cannot write to the job directory {folder}: "
                f"{getattr(error, 'strerror', error)}; let it, or choose another --job-dir"
            ) from error
        return name

    def _check_image(self) -> None:
        job = self.plan.job
        source = self.tools.open_source(job.source)
        try:
            digest = source.digest
        finally:
            source.close()
        if digest != self.plan.identity["image"]:
            raise InputError(
                f"{job.source.path} on {socket.gethostname()} is not the image that is here: "
                "put it on storage that all workers share"
            )

    def _check_segmenter(self) -> None:
        job = self.plan.job
        options = dict(job.segmenter_options)
        found = self.tools.segmenter(job.segmenter).identity(job.model, **options)
        told = {"name": job.segmenter, **found, **options}
        if _plain(told) != _plain(self.plan.identity["segmenter"]):
            raise InputError(
                f"the segmenter {job.segmenter} or its model is another one on "
                f"{socket.gethostname()}: install the same models there"
            )


def _plain(value: Mapping[str, Any]) -> str:
    return json.dumps(value, sort_keys=True, default=str)
