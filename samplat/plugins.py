"""Find plugins, collect what they register, and hand it out by name."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import pluggy

from samplat import hookspecs
from samplat.errors import InputError, PluginError

if TYPE_CHECKING:
    from pathlib import Path

    from samplat.checkpoints import ModelSpec
    from samplat.executors import Executor, ExecutorFactory
    from samplat.hookspecs import Exporter, JobKind
    from samplat.job import JobResult, SegmenterFactory, SegmentJob
    from samplat.pixels import ImageSource, Rescaler, SourceFactory, SourceSpec
    from samplat.places import Place
    from samplat.progress import Progress
    from samplat.prompters import Prompter
    from samplat.queues import PictureQueue, QueueFactory

GROUP = "samplat.plugins"
"""Entry-point group of plugins, our own and others'."""

KINDS = (
    "models",
    "sources",
    "rescalers",
    "prompters",
    "segmenters",
    "exporters",
    "executors",
    "job_kinds",
    "queues",
)
"""What can be registered by name: `register_models` and so on."""

Status = Literal["ready", "missing extra", "broken"]


@dataclass(frozen=True, kw_only=True)
class PluginInfo:
    """One plugin that was found, whether or not it works."""

    name: str
    """Name of its entry point."""
    distribution: str
    """Name and version of the installed distribution."""
    status: Status
    """ready; missing extra: a library it needs is not installed; broken: it cannot be imported."""
    remedy: str = ""
    """The command that installs what is missing, or the error."""


@dataclass(frozen=True, kw_only=True)
class Plugins:
    """A plugin manager with what was found on the way."""

    manager: pluggy.PluginManager
    """Holds the plugins that are ready."""
    infos: tuple[PluginInfo, ...]
    """All plugins, by name."""


def load_plugins(points: Iterable[EntryPoint] | None = None) -> Plugins:
    """Import every plugin. One that cannot be imported is listed, not fatal.

    Args:
        points: entry points instead of the installed ones.

    Raises:
        PluginError: a plugin implements a hook that does not exist, or two have one name.
    """
    from samplat import builtin

    manager = pluggy.PluginManager("samplat")
    manager.add_hookspecs(hookspecs)
    manager.register(builtin, name="samplat")
    found = entry_points(group=GROUP) if points is None else points
    infos = [_load(manager, point) for point in sorted(found, key=lambda p: p.name)]
    try:
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise PluginError(f"plugin {_name_of(manager, error.plugin)}: {error}") from error
    return Plugins(manager=manager, infos=tuple(infos))


def _load(manager: pluggy.PluginManager, point: EntryPoint) -> PluginInfo:
    try:
        plugin = point.load()
        missing = [name for name in getattr(plugin, "REQUIRES", ()) if find_spec(name) is None]
    except ModuleNotFoundError as error:
        missing = [str(error.name)]
    except Exception as error:  # noqa: BLE001 another's fault must not take our commands away
        return _info(point, "broken", f"{type(error).__name__}: {error}")
    if missing:
        return _info(point, "missing extra", _install_command(point))
    _register(manager, plugin, point.name)
    return _info(point, "ready")


def _register(manager: pluggy.PluginManager, plugin: ModuleType, name: str) -> None:
    try:
        manager.register(plugin, name=name)
    except (ValueError, pluggy.PluginValidationError) as error:
        raise PluginError(f"plugin {name} cannot be registered: {error}") from error


def _info(point: EntryPoint, status: Status, remedy: str = "") -> PluginInfo:
    name = f"{point.dist.name} {point.dist.version}" if point.dist else "not installed"
    return PluginInfo(name=point.name, distribution=name, status=status, remedy=remedy)


def _install_command(point: EntryPoint) -> str:
    """Our plugins' extras bear their names; others say theirs in the entry point."""
    distribution = point.dist.name if point.dist else "samplat"
    extras = ",".join(point.extras) or (point.name if distribution == "samplat" else "")
    return f"pip install '{distribution}[{extras}]'" if extras else f"pip install {distribution}"


def _name_of(manager: pluggy.PluginManager, plugin: Any) -> str:
    return manager.get_name(plugin) or repr(plugin)


@dataclass(kw_only=True)
class Registry:
    """Everything that plugins registered, by kind and name."""

    found: dict[str, dict[str, Any]] = field(default_factory=lambda: {k: {} for k in KINDS})
    """Objects by kind and name, in order of registration."""
    owners: dict[tuple[str, str], str] = field(default_factory=dict)
    """Plugin that registered a kind and name."""

    def __reduce__(self) -> tuple[Callable[[], Registry], tuple[()]]:
        """Another process collects its own: the objects need not be picklable."""
        return registry, ()

    def add(self, kind: str, owner: str, item: Any) -> None:
        """Register an object under its name.

        Raises:
            PluginError: it has no name, or its name, or a suffix of an exporter, is taken.
        """
        name = getattr(item, "name", None)
        if not isinstance(name, str) or not name:
            raise PluginError(f"plugin {owner} registers one of {kind} without a name: {item!r}")
        if name in self.found[kind]:
            other = self.owners[kind, name]
            raise PluginError(
                f"plugins {other} and {owner} both register {name!r} in {kind}; "
                "uninstall one of them"
            )
        if kind == "exporters":
            self._check_suffixes(owner, item)
        self.found[kind][name] = item
        self.owners[kind, name] = owner

    def _check_suffixes(self, owner: str, item: Exporter) -> None:
        for name, other in self.found["exporters"].items():
            for suffix in set(item.suffixes) & set(other.suffixes):
                raise PluginError(
                    f"plugins {self.owners['exporters', name]} and {owner} both write {suffix}; "
                    "uninstall one of them"
                )

    def names(self, kind: str) -> tuple[str, ...]:
        """The names of a kind, in order of registration."""
        return tuple(self.found[kind])

    def _get(self, kind: str, name: str) -> Any:
        if name not in self.found[kind]:
            known = ", ".join(sorted(self.found[kind])) or "none"
            raise InputError(f"there is no {kind[:-1]} called {name!r}; known: {known}")
        return self.found[kind][name]

    def models(self) -> Mapping[str, ModelSpec]:
        """All registered models, and those that the user installed, at any later time too."""
        from samplat.checkpoints import KnownModels

        return KnownModels(self.found["models"])

    def rescaler(self, name: str) -> Rescaler:
        """The rescaler of this name."""
        found: Rescaler = self._get("rescalers", name)
        return found

    def prompter(self, name: str) -> Prompter:
        """The prompter of this name."""
        found: Prompter = self._get("prompters", name)
        return found

    def segmenter(self, name: str) -> SegmenterFactory:
        """The segmenter factory of this name."""
        found: SegmenterFactory = self._get("segmenters", name)
        return found

    def executor(self, name: str) -> ExecutorFactory:
        """The executor factory of this name."""
        found: ExecutorFactory = self._get("executors", name)
        return found

    def job_kinds(self) -> tuple[JobKind, ...]:
        """What can be an item of a batch, in order of registration."""
        return tuple(self.found["job_kinds"].values())

    def open_queue(self, folder: Path, **options: Any) -> PictureQueue:
        """The queue of pictures in a folder, opened by the first factory that accepts it.

        Raises:
            InputError: none does, or its files are damaged.
        """
        factory: QueueFactory
        for factory in self.found["queues"].values():
            if factory.accepts(folder):
                return factory.open(folder, **options)
        known = ", ".join(self.found["queues"]) or "none; see `samplat plugins`"
        raise InputError(
            f"{folder} holds no pictures to annotate that anything installed knows ({known}); make "
            "a project with `samplat engine create`"
        )

    def exporter_for(self, output: Place) -> Exporter:
        """The exporter that claims this output's suffix, the longest first.

        Raises:
            InputError: none does.
        """
        suffixes = {s: e for e in self.found["exporters"].values() for s in e.suffixes}
        for suffix in sorted(suffixes, key=len, reverse=True):
            if output.name.lower().endswith(suffix):
                exporter: Exporter = suffixes[suffix]
                return exporter
        known = " ".join(sorted(suffixes)) or "none"
        raise InputError(f"cannot tell the format of {output} by its suffix; known: {known}")

    def source_for(self, path: str) -> SourceFactory:
        """The first registered factory that accepts a path.

        Raises:
            InputError: none does.
        """
        factory: SourceFactory
        for factory in self.found["sources"].values():
            if factory.accepts(path):
                return factory
        known = ", ".join(self.found["sources"]) or "none; see `samplat plugins`"
        raise InputError(f"nothing installed can open {path}; known readers: {known}")

    def open_source(self, spec: SourceSpec) -> ImageSource:
        """Open an image from its spec."""
        factory: SourceFactory = self._get("sources", spec.factory)
        return factory.open(spec.path, **spec.options)


def collect(manager: pluggy.PluginManager) -> Registry:
    """Call every hook of every plugin once.

    Raises:
        PluginError: two plugins register one name.
    """
    result = Registry()
    everyone = manager.get_plugins()
    for name, plugin in manager.list_name_plugin():
        for kind in KINDS:
            hook = manager.subset_hook_caller(f"register_{kind}", everyone - {plugin})
            hook(register=functools.partial(result.add, kind, name))
    for name, segmenter in result.found["segmenters"].items():
        if hasattr(segmenter, "with_models"):
            result.found["segmenters"][name] = segmenter.with_models(result.models())
    return result


@functools.cache
def plugins() -> Plugins:
    """The installed plugins, imported once per process."""
    return load_plugins()


def plugin_versions() -> dict[str, str]:
    """What a process computes with: the distribution of each plugin that is ready, by name.

    The core is `samplat`. Processes that share a job should agree on those that it needs.
    """
    from importlib.metadata import version

    ready = {info.name: info.distribution for info in plugins().infos if info.status == "ready"}
    return {"samplat": f"samplat {version('samplat')}", **ready}


@functools.cache
def registry() -> Registry:
    """What the installed plugins register, collected once per process."""
    return collect(plugins().manager)


def segment(
    job: SegmentJob,
    *,
    executor: Executor | None = None,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> JobResult:
    """Segment a whole image with the installed plugins; resumes when the job directory holds it.

    Args:
        job: what to do.
        executor: runs the tiles; one after the other without one.
        progress: told how far it is; nobody without one.
        overwrite: discard another job that the directory holds.

    Raises:
        InputError: the image or a parameter is unusable.
        JobError: the directory holds another job, is in use, or damaged; or every tile failed.
    """
    from samplat.pipeline import SERIAL, SILENT, run_job

    return run_job(
        job,
        tools=registry(),
        executor=executor or SERIAL,
        progress=progress or SILENT,
        overwrite=overwrite,
    )
