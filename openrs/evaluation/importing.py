"""Other people's results as a run directory that `openrs report` reads."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

from openrs.errors import BadInput
from openrs.evaluation.lighteval_results import Tree, read_tree, slug
from openrs.runs.files import write_atomic
from openrs.runs.record import IMPORTED
from openrs.spec.base import RUN_ID
from openrs.spec.paths import shortened


def import_lighteval(
    source: Path, runs: Path, run: str | None = None, metric: str | None = None, hardware: str | None = None
) -> dict[str, Any]:
    """Makes the run directory and returns what its `import.json` says. Raises BadInput; then nothing is left behind."""
    if not source.is_dir():
        what = "is not a directory" if source.exists() else "does not exist"
        raise BadInput(f"{shortened(str(source))} {what}; give the directory that lighteval wrote to (--output-dir)")
    name = _run_id(source) if run is None else run
    if not RUN_ID.fullmatch(name):
        raise BadInput(f"--run {name!r}: small letters, digits and '-', at most 32, starting with a letter")
    tree = read_tree(source, metric, hardware)
    if not tree.files:
        raise BadInput(f"{shortened(str(source))}: no results_*.json below it, as lighteval writes them")
    if not tree.cells:
        first = tree.left[0] if tree.left else None
        why = f", e.g. {first.where}: {first.why}" if first else ""
        raise BadInput(f"{shortened(str(source))}: none of {tree.files} result files holds a usable score{why}")
    summary = {"run": name, "dir": str(runs.absolute() / name), **_summary(source, tree)}
    _write(runs, name, tree.cells, summary)
    return summary


def _run_id(source: Path) -> str:
    stem = slug(source.resolve().name).replace(".", "-").replace("_", "-")
    return f"import-{stem}"[:32].rstrip("-")


def _summary(source: Path, tree: Tree) -> dict[str, Any]:
    repeats = sum(len(cell["source"]["repeated_in"]) for cell in tree.cells)
    return {
        "schema_version": 1,
        "format": "lighteval",
        "source": source.resolve().name,
        "time": round(time.time(), 3),
        "files": tree.files,
        "cells": len(tree.cells),
        "same_answers_again": repeats,
        "checkpoints": sorted({cell["checkpoint"] for cell in tree.cells}),
        "benchmarks": sorted({cell["benchmark"] for cell in tree.cells}),
        "not_recorded": dict(sorted(tree.absent.items())),
        "left_out": [{"where": one.where, "why": one.why} for one in tree.left],
    }


def _write(runs: Path, run: str, cells: list[dict[str, Any]], summary: dict[str, Any]) -> None:
    target, building = runs / run, runs / f".{run}.importing"
    if target.exists() or target.is_symlink():
        raise BadInput(f"--run {run}: that run exists already below {runs}; choose another id")
    try:
        runs.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(building, ignore_errors=True)
        for cell in cells:
            path = (
                building / "eval" / cell["checkpoint"] / cell["benchmark"] / f"{cell['seed']}-{cell['settings']}.json"
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            content = {"schema_version": 1, "state": "done", **cell}
            path.write_text(json.dumps(content, ensure_ascii=False, allow_nan=False) + "\n")
        write_atomic(building / IMPORTED, json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
        building.rename(target)
    except OSError as error:
        shutil.rmtree(building, ignore_errors=True)
        raise BadInput(f"--runs {runs}: cannot be written ({error.strerror})") from None
