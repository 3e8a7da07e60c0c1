"""One task of an evaluation array: its cells one after the other, each stored as soon as it is finished."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import traceback
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NoReturn

from openrs.data.load import commit, model_path
from openrs.errors import BadInput, OpenRSError
from openrs.evaluation.runner import CellRunner, Subject
from openrs.plan import model_id
from openrs.runs.directory import RunDirectory
from openrs.runs.lease import LeaseLost
from openrs.spec.canonical import sha256
from openrs.spec.experiment import Spec
from openrs.stage import Cell, CellsFile, StageFile, read, read_spec
from openrs.training import checkpoint
from openrs.training.entry import rank_of_environment
from openrs.training.quiet import quiet
from openrs.training.stop import StopRequested
from openrs.worker.exits import CONFIGURATION, DONE, FAILED, INTERRUPTED
from openrs.worker.rank import Rank


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise BadInput(f"python -m openrs.evaluation: {message}")


def main(arguments: list[str]) -> int:
    """Evaluates the task's cells and returns the exit code. Whatever is not the user's to mend is raised."""
    parser = _Parser(prog="python -m openrs.evaluation", add_help=False)
    parser.add_argument("stage", type=Path)
    parser.add_argument("--task", type=int, required=True)
    try:
        options = parser.parse_args(arguments)
        return evaluate(options.stage, options.task)
    except StopRequested:
        return INTERRUPTED
    except OpenRSError as error:
        print(f"openrs: {_line(error)}", file=sys.stderr)
        return CONFIGURATION
    except LeaseLost:
        # Another attempt may be writing already: leave at once and silently.
        os._exit(INTERRUPTED)


def evaluate(stage_path: Path, task: int) -> int:
    """Runs what is not done yet of a task's cells. Raises OpenRSError, StopRequested and LeaseLost."""
    stage = read(StageFile, stage_path)
    run = RunDirectory(Path(stage.run_dir))
    if stage.cells_file is None:
        raise BadInput(f"{stage_path}: this stage has no cells")
    tasks = read(CellsFile, run.path / stage.cells_file).tasks
    if not 0 <= task < len(tasks):
        raise BadInput(f"--task {task}: the cells file has tasks 0 to {len(tasks) - 1}")
    spec = read_spec(stage.spec_path)
    if sha256(spec) != stage.experiment_hash:
        raise BadInput(f"{stage.spec_path}: not the spec that this stage was made from; submit it again")
    rank = rank_of_environment()
    _own_gpu(rank)
    # Each process of the task has its share of the cells, and an engine of its own.
    todo = [cell for cell in tasks[task][rank.rank :: rank.world] if run.cell(cell) is None]
    if not todo:
        return DONE
    report = _Report(run, rank, tasks[task])
    runner: CellRunner | None = None
    for _, group in groupby(todo, key=lambda cell: cell.checkpoint):
        if rank.stop_requested():
            raise StopRequested
        cells = list(group)
        try:
            subject = _subject(run, spec, cells[0])
        except checkpoint.Invalid as reason:
            for cell in cells:
                report.failed(cell, f"checkpoint {cell.checkpoint}: {reason}", state="skipped")
            continue
        if runner is None:  # only now: it imports torch
            quiet(spec.evaluation.resources.gpus)
            runner = _runner(spec, rank)
        for cell, outcome in runner.evaluate(subject, cells):
            if isinstance(outcome, Exception):
                report.failed(cell, _line(outcome), error=outcome)
            else:
                report.done(cell, {**outcome, "experiment_hash": stage.experiment_hash})
    return FAILED if report.failures else DONE


def _own_gpu(rank: Rank) -> None:
    """Of the GPUs that the processes of a task share out, each sees one. Must come before torch."""
    given = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    if rank.world > 1 and len(given) >= rank.world:
        os.environ["CUDA_VISIBLE_DEVICES"] = given[rank.rank]


def _runner(spec: Spec, rank: Rank) -> CellRunner:
    """The runner that the spec names. Raises BadInput where its packages are missing."""
    if spec.evaluation.runner == "sampled":
        from openrs.evaluation.sampled import SampledRunner

        return SampledRunner(spec, rank.stop_requested)
    wanted = [("eval", "lighteval"), *([("vllm", "vllm"), ("vllm", "ray")] if spec.evaluation.resources.gpus else [])]
    for extra, package in wanted:
        if importlib.util.find_spec(package) is None:
            raise BadInput(f"{sys.executable} has no {package}; install openrs[{extra}] there, then resume the run")
    from openrs.evaluation.lighteval_runner import LightevalRunner

    return LightevalRunner(spec, rank.stop_requested)


def _subject(run: RunDirectory, spec: Spec, cell: Cell) -> Subject:
    """What a cell evaluates. Raises Invalid for a checkpoint that is not whole, BadInput for an unusable model."""
    if cell.step is not None:
        path = run.checkpoint(cell.step)
        # Optimizer state is large and not read here: its checksums are left alone.
        manifest = checkpoint.verify(
            path, checksums=lambda name: name.endswith((".safetensors", ".json", ".txt", ".model"))
        )
        identity = {"checkpoint": cell.checkpoint, "trained_by": manifest.get("trains")}
        return Subject(str(path), None, identity)
    model = next((model for model in spec.models if model_id(model) == cell.checkpoint), None)
    if model is None:
        raise BadInput(f"cell {cell.path}: none of the spec's models is {cell.checkpoint}; submit it again")
    name, revision = model_path(model)
    identity = {"name": name if model.type == "hub" else model.path, "revision": revision}
    if model.type == "hub":
        identity["commit"] = commit(model)
    return Subject(name, revision, identity)


class _Report:
    """Stores outcomes in the run directory and prints a progress line for each."""

    def __init__(self, run: RunDirectory, rank: Rank, cells: Sequence[Cell]) -> None:
        self._run, self._rank, self._cells = run, rank, cells
        self.failures = 0

    def done(self, cell: Cell, result: dict[str, Any]) -> None:
        self._rank.check_lease()
        self._run.write_cell(cell, result, completions=result.pop("completions"))
        self._print(cell, state="done", score=result["score"], n=result["n"], seconds=result["seconds"])

    def failed(self, cell: Cell, reason: str, *, state: str = "failed", error: Exception | None = None) -> None:
        self._rank.check_lease()
        if error is not None and not isinstance(error, OpenRSError):
            traceback.print_exception(error)
        self._run.write_cell(cell, {"state": state, "reason": reason, "attempt": self._rank.attempt}, failed=True)
        self.failures += 1
        self._print(cell, state=state, reason=reason)

    def _print(self, cell: Cell, **facts: Any) -> None:
        place = {"checkpoint": cell.checkpoint, "benchmark": cell.benchmark, "seed": cell.seed}
        done = sum(self._run.cell(one) is not None for one in self._cells)
        progress = {"done": done, "failed": self.failures, "total": len(self._cells)}
        print(json.dumps({"cell": place, **facts, "cells": progress}, ensure_ascii=False), flush=True)


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, OpenRSError) else f"{type(error).__name__}: {text}"[:500]
