from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

import samplat

DOCS = Path(__file__).parents[2] / "docs"
NAMED = re.findall(r"^::: (samplat\.\S+)$", (DOCS / "reference.md").read_text(), re.MULTILINE)

FACE = "samplat.xarray."
"""A module whose names are used with its own, and may be the same as those of the package."""


@pytest.mark.parametrize("name", samplat.__all__)
def test_every_public_name_is_in_the_reference_once(name: str) -> None:
    ours = [path.rpartition(".") for path in NAMED if not path.startswith(FACE)]
    assert [own for _, _, own in ours].count(name) == 1


@pytest.mark.parametrize("path", NAMED)
def test_the_reference_names_what_there_is(path: str) -> None:
    module, _, name = path.rpartition(".")
    home = vars(import_module(module))
    assert name in home
    if name in samplat.__all__ and not path.startswith(FACE):
        assert home[name] is getattr(samplat, name)


def test_every_module_has_a_row_in_the_design() -> None:
    rows = [line for line in (DOCS / "design.md").read_text().splitlines() if line[:3] == "| `"]
    told = {name for row in rows for name in re.findall(r"`(\w+)/?`", row.split("|")[1])}
    package = Path(samplat.__file__).parent
    found = {path.stem for path in package.glob("[!_]*.py")}
    found |= {path.parent.name for path in package.glob("*/__init__.py")}
    assert told == found
