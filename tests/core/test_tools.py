"""The script that looks for Debian packages, with another Python and other system tools."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "tools" / "system-packages.sh"
PYTHON = """#!/bin/bash
case "$*" in
    *{lacks}*) exit 1 ;;
    *version_info*) echo python3.99-venv ;;
esac
"""


def executable(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("lacks", "status", "told"),
    [
        ("nothing", 0, ""),
        ("libexpat", 1, "please install first: libexpat1\n"),
        ("ensurepip", 1, "please install first: python3.99-venv\n"),
    ],
)
def test_what_a_python_lacks_is_named(lacks: str, status: int, told: str, tmp_path: Path) -> None:
    python = executable(tmp_path / "python3.99", PYTHON.format(lacks=lacks))
    executable(tmp_path / "id", "#!/bin/bash\necho 1000\n")  # not root, so nothing is installed
    search = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["/bin/bash", str(SCRIPT)],
        env={**os.environ, "PYTHON": str(python), "PATH": search},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (status, told)
