"""Every page's examples run, every hook has its page and its signature there."""

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from docs.warm import warm_commands
from samplat import hookspecs

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"^```(python|bash)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PAGES = sorted(p.name for p in DOCS.glob("*.md") if BLOCK.search(p.read_text()))
HOOKS = [n for n in vars(hookspecs) if n.startswith("register_")]


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    with warm_commands(tmp_path_factory.mktemp("commands")) as place:
        yield place


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.timeout(600)
def test_examples_run(page, commands, tmp_path):
    """Blocks of a page share a directory; its Python blocks share one namespace, too."""
    script = [_as_python(kind, code) for kind, code in BLOCK.findall((DOCS / page).read_text())]
    file = tmp_path / "page.py"
    file.write_text("import subprocess\n" + "\n".join(script))
    search = os.pathsep.join([str(commands), str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        [commands / "run-script", file],
        cwd=tmp_path,
        env={**os.environ, "PATH": search, "OMP_WAIT_POLICY": "passive"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _as_python(kind: str, code: str) -> str:
    if kind == "python":
        return code
    return f"subprocess.run(['bash', '-euo', 'pipefail', '-c', {code!r}], check=True)\n"


@pytest.mark.parametrize("hook", HOOKS)
def test_hooks_are_documented_with_their_signature(hook):
    signature = str(inspect.signature(getattr(hookspecs, hook))).replace("'", "")
    assert f"## `{hook}{signature}`" in (DOCS / "hooks.md").read_text()
