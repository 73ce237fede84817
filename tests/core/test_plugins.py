from __future__ import annotations

import inspect
import pickle
import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy
import pytest
import typer

from core.oracle import NpyFactory
from samplat import hookspecs
from samplat.errors import InputError, PluginError
from samplat.hookspecs import hookimpl
from samplat.pixels import SourceSpec
from samplat.plugins import KINDS, Registry, collect, load_plugins, registry


@dataclass(frozen=True)
class Named:
    name: str
    suffixes: tuple[str, ...] = ()


@pytest.fixture
def module(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A plugin module that can be imported by name, and is empty."""
    made = ModuleType(f"plugin_of_{request.node.originalname}")
    monkeypatch.setitem(sys.modules, made.__name__, made)
    return made


def point(module: ModuleType | str, name: str = "mine") -> EntryPoint:
    value = module if isinstance(module, str) else module.__name__
    return EntryPoint(name=name, value=value, group="samplat.plugins")


def hook(module: ModuleType, kind: str, *items: Any) -> None:
    """Give a module an implementation that registers these objects."""

    def implementation(register: Any) -> None:
        for item in items:
            register(item)

    implementation.__name__ = f"register_{kind}"
    setattr(module, f"register_{kind}", hookimpl(implementation))


def test_every_hook_has_the_shape_that_the_design_promises() -> None:
    hooks = {n: f for n, f in vars(hookspecs).items() if n.startswith("register_")}
    assert set(hooks) == {*(f"register_{kind}" for kind in KINDS), "register_commands"}
    for name, function in hooks.items():
        expected = ["app"] if name == "register_commands" else ["register"]
        assert list(inspect.signature(function).parameters) == expected
        assert not getattr(function, "samplat_spec")["firstresult"]  # noqa: B009 set by pluggy


def test_the_core_registers_through_its_own_hooks() -> None:
    manager = load_plugins([]).manager
    manager.set_blocked("nothing")
    found = Registry()
    builtin = manager.get_plugin("samplat")
    for kind in ("rescalers", "segmenters", "executors"):
        getattr(builtin, f"register_{kind}")(lambda item, kind=kind: found.add(kind, "core", item))
    assert found.names("rescalers") == ("percentile", "range", "none")
    assert found.names("segmenters") == ("automatic", "prompted", "threshold")
    assert found.names("executors") == ("overlapping", "serial", "threads")


def manager_of(**modules: ModuleType) -> pluggy.PluginManager:
    manager = pluggy.PluginManager("samplat")
    manager.add_hookspecs(hookspecs)
    for name, module in modules.items():
        manager.register(module, name=name)
    return manager


@pytest.mark.parametrize("kind", KINDS)
def test_each_hook_hands_objects_over(kind: str, module: ModuleType) -> None:
    hook(module, kind, Named("a"), Named("b"))
    found = collect(manager_of(mine=module))
    assert found.names(kind) == ("a", "b")
    assert found.owners[kind, "a"] == "mine"


def test_segmenters_that_ask_for_them_get_the_models_of_plugins(module: ModuleType) -> None:
    from samplat.segmenters import AutomaticFactory

    hook(module, "models", Named("theirs"))
    hook(module, "segmenters", AutomaticFactory())
    factory = collect(manager_of(mine=module)).segmenter("automatic")
    assert isinstance(factory, AutomaticFactory)
    assert list(factory.models or ()) == ["theirs"]


def test_commands_are_added_to_the_app(module: ModuleType) -> None:
    def register_commands(app: typer.Typer) -> None:
        app.command("mine")(lambda: None)

    module.register_commands = hookimpl(register_commands)  # type: ignore[attr-defined]
    app = typer.Typer()
    manager_of(mine=module).hook.register_commands(app=app)
    assert [c.name for c in app.registered_commands] == ["mine"]


def test_a_name_that_two_plugins_register_names_both(module: ModuleType) -> None:
    other = ModuleType("other")
    hook(module, "exporters", Named("cog"))
    hook(other, "exporters", Named("cog"))
    with pytest.raises(PluginError, match="mine and theirs both register 'cog' in exporters"):
        collect(manager_of(mine=module, theirs=other))


def test_a_nameless_object_is_refused() -> None:
    with pytest.raises(PluginError, match="without a name"):
        Registry().add("exporters", "mine", object())


def test_a_plugin_without_its_extra_is_listed_with_the_remedy() -> None:
    (info,) = load_plugins([point("no_such_library_here", "raster")]).infos
    assert info.status == "missing extra"
    assert info.remedy == "pip install 'samplat[raster]'"


def test_a_plugin_may_name_the_libraries_that_it_imports_later(module: ModuleType) -> None:
    module.REQUIRES = ("json", "no_such_library_here")  # type: ignore[attr-defined]
    hook(module, "exporters", Named("cog"))
    loaded = load_plugins([point(module, "raster")])
    assert loaded.infos[0].status == "missing extra"
    assert loaded.manager.get_plugin("raster") is None


def test_a_broken_plugin_is_listed_and_takes_nothing_away(tmp_path: Path) -> None:
    (tmp_path / "plugin_that_breaks.py").write_text("1 / 0")
    sys.path.insert(0, str(tmp_path))
    try:
        loaded = load_plugins([point("plugin_that_breaks")])
    finally:
        sys.path.remove(str(tmp_path))
    assert loaded.infos[0].status == "broken"
    assert "division by zero" in loaded.infos[0].remedy
    assert loaded.manager.get_plugin("samplat") is not None


def test_an_unknown_hook_is_an_error_that_names_the_plugin(module: ModuleType) -> None:
    def register_dreams(register: Any) -> None:
        pass

    module.register_dreams = hookimpl(register_dreams)  # type: ignore[attr-defined]
    with pytest.raises(PluginError, match="mine.*register_dreams"):
        load_plugins([point(module)])


def test_a_wrong_argument_is_an_error_that_names_the_plugin(module: ModuleType) -> None:
    def register_exporters(add: Any) -> None:
        pass

    module.register_exporters = hookimpl(register_exporters)  # type: ignore[attr-defined]
    with pytest.raises(PluginError, match="mine"):
        load_plugins([point(module)])


def some_registry() -> Registry:
    found = Registry()
    found.add("sources", "mine", NpyFactory())
    found.add("exporters", "mine", Named("zarr", (".zarr",)))
    found.add("exporters", "mine", Named("nifti", (".nii", ".nii.gz")))
    found.add("exporters", "mine", Named("gzip", (".gz",)))
    return found


def test_exporters_are_chosen_by_the_longest_suffix() -> None:
    found = some_registry()
    assert found.exporter_for(Path("a/b.NII.GZ")).name == "nifti"
    assert found.exporter_for(Path("b.gz")).name == "gzip"
    assert found.exporter_for(Path("b.v1.zarr")).name == "zarr"


def test_the_longest_suffix_wins_whoever_came_first() -> None:
    for order in ((".zarr", ".ome.zarr"), (".ome.zarr", ".zarr")):
        found = Registry()
        for suffix in order:
            found.add("exporters", f"plugin of {suffix}", Named(suffix, (suffix,)))
        assert found.exporter_for(Path("cells.ome.zarr")).name == ".ome.zarr"
        assert found.exporter_for(Path("cells.zarr")).name == ".zarr"


def test_two_exporters_of_one_suffix_are_an_error_that_names_both() -> None:
    found = some_registry()
    with pytest.raises(PluginError, match=r"plugins mine and theirs both write \.nii\.gz"):
        found.add("exporters", "theirs", Named("nifti2", (".nii2", ".nii.gz")))
    assert found.exporter_for(Path("b.nii.gz")).name == "nifti"


@pytest.mark.parametrize("output", ["a.xyz", "a", "zarr"])
def test_an_unknown_suffix_lists_the_known_ones(output: str) -> None:
    with pytest.raises(InputError, match=r"known: \.gz \.nii \.nii\.gz \.zarr"):
        some_registry().exporter_for(Path(output))


def test_sources_are_found_by_path_and_opened_by_spec(tmp_path: Path) -> None:
    found = some_registry()
    assert found.source_for("a.npy").name == "npy"
    with pytest.raises(InputError, match="nothing installed can open a.tif; known readers: npy"):
        found.source_for("a.tif")
    with pytest.raises(InputError, match="there is no source called 'tiff'; known: npy"):
        found.open_source(SourceSpec(path="a.tif", factory="tiff"))


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match="there is no executor called 'dask'; known: none"):
        Registry().executor("dask")


def test_a_registry_pickles_as_the_other_processs_own() -> None:
    rebuild, arguments = Registry().__reduce__()
    assert (rebuild, arguments) == (registry, ())
    assert len(pickle.dumps(Registry())) < 200
