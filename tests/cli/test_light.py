"""The command line starts fast: nothing heavy is imported that a command does not need."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

HEAVY = {
    "torch",
    "transformers",
    "trl",
    "datasets",
    "kubernetes",
    "submitit",
    "matplotlib",
    "scipy",
    "numpy",
    "math_verify",
}
REPORT = """
import atexit, json, sys
atexit.register(lambda: json.dump(sorted({name.partition(".")[0] for name in sys.modules}), open(sys.argv[1], "w")))
from openrs.cli.app import main
main(sys.argv[2:])
"""


def imported(where: Path, *args: str) -> set[str]:
    report = where / "modules.json"
    command = [sys.executable, "-c", REPORT, str(report), *args]
    done = subprocess.run(command, cwd=where, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(report.read_text()))


@pytest.mark.parametrize(
    "line",
    [
        "--help",
        "submit --help",
        "list",
        "list --json",
        "images list",
        "images build --help",
        "show exp3",
        "check smoke",
        "schema experiment",
        "status",
        "plan exp3 --cluster slurm",
        "render smoke --cluster local",
        "render exp3 --cluster slurm",
    ],
)
def test_nothing_heavy_is_imported(line: str, workdir: Path) -> None:
    # What gain an evaluation can show is a quantile of Student's t.
    heavy = HEAVY - {"scipy", "numpy"} if line.startswith("plan ") else HEAVY
    assert not imported(workdir, *line.split()) & heavy


def test_help_needs_neither_pydantic_nor_rich(workdir: Path) -> None:
    assert not imported(workdir, "--help") & {"pydantic", "yaml", "jinja2", "rich"}


def test_rich_can_be_imported_afterwards() -> None:
    code = "import openrs.cli.app, rich.live, sys; assert sys.modules['rich'] is not None"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_help_comes_at_once(workdir: Path) -> None:
    """It takes 0.13 s on an idle machine; the bound is for a machine that is busy with other tests."""
    start = time.monotonic()
    subprocess.run([sys.executable, "-m", "openrs", "--help"], check=True, capture_output=True, timeout=60)
    assert time.monotonic() - start < 5
