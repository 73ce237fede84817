"""One plugin that uses every hook: what it registers is found where it is used."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import typer

from samplat import hookspecs
from samplat.hookspecs import hookimpl
from samplat.plugins import Registry, collect, load_plugins


@dataclass(frozen=True)
class Thing:
    name: str
    suffixes: tuple[str, ...] = (".mine",)

    def accepts(self, path: str | Path) -> bool:
        return str(path).startswith("mine:")

    def open(self, path: str | Path) -> str:
        return f"opened {path}"


class Everything:
    """The hooks, one method each."""

    @hookimpl
    def register_models(self, register):
        register(Thing("my-model"))

    @hookimpl
    def register_sources(self, register):
        register(Thing("my-source"))

    @hookimpl
    def register_rescalers(self, register):
        register(Thing("my-rescaler"))

    @hookimpl
    def register_prompters(self, register):
        register(Thing("my-prompter"))

    @hookimpl
    def register_segmenters(self, register):
        register(Thing("my-segmenter"))

    @hookimpl
    def register_exporters(self, register):
        register(Thing("my-exporter"))

    @hookimpl
    def register_executors(self, register):
        register(Thing("my-executor"))

    @hookimpl
    def register_job_kinds(self, register):
        register(Thing("my-kind"))

    @hookimpl
    def register_queues(self, register):
        register(Thing("my-queue"))

    @hookimpl
    def register_commands(self, app):
        app.command("my-command")(lambda: None)


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A registry and a manager that hold the plugin, found through an entry point."""
    module = ModuleType("plugin_of_everything")
    for name in dir(Everything):
        if name.startswith("register_"):
            setattr(module, name, getattr(Everything(), name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    point = EntryPoint(name="everything", value=module.__name__, group="samplat.plugins")
    manager = load_plugins([point]).manager
    return SimpleNamespace(registry=collect(manager), manager=manager)


def test_the_plugin_uses_every_hook() -> None:
    hooks = {name for name in vars(hookspecs) if name.startswith("register_")}
    assert {name for name in vars(Everything) if name.startswith("register_")} == hooks


def test_objects_are_found_where_they_are_used(loaded: SimpleNamespace) -> None:
    found: Registry = loaded.registry
    assert found.models()["my-model"].name == "my-model"
    assert found.source_for("mine:1").open("mine:1") == "opened mine:1"  # type: ignore[comparison-overlap]
    assert found.rescaler("my-rescaler").name == "my-rescaler"
    assert found.prompter("my-prompter").name == "my-prompter"
    assert found.segmenter("my-segmenter").name == "my-segmenter"
    assert found.exporter_for(Path("labels.mine")).name == "my-exporter"
    assert found.executor("my-executor").name == "my-executor"
    assert found.open_queue(Path("mine:2")) == "opened mine:2"  # type: ignore[comparison-overlap]
    assert [kind.name for kind in found.job_kinds()] == ["my-kind"]


def test_commands_are_added(loaded: SimpleNamespace) -> None:
    app = typer.Typer()
    loaded.manager.hook.register_commands(app=app)
    assert "my-command" in [command.name for command in app.registered_commands]
