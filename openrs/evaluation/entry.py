"""One task of an evaluation array: its cells one after the other, each stored as soon as it is finished."""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from itertools import groupby
from pathlib import Path
from typing import Any, NoReturn

from openrs.data.load import commit, model_path
from openrs.errors import BadInput, OpenRSError
from openrs.evaluation.runner import CellRunner, Subject
from openrs.runs.directory import RunDirectory
from openrs.runs.lease import LeaseLost
from openrs.spec.experiment import Experiment
from openrs.stage import Cell, CellsFile, StageFile, read
from openrs.training import checkpoint
from openrs.training.entry import rank_of_environment, read_experiment
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
    experiment = read_experiment(stage)
    rank = rank_of_environment()
    todo = [cell for cell in tasks[task] if run.cell(cell) is None]
    if not todo:
        return DONE
    report = _Report(run, rank, len(tasks[task]), len(tasks[task]) - len(todo))
    runner: CellRunner | None = None
    for _, group in groupby(todo, key=lambda cell: cell.checkpoint):
        if rank.stop_requested():
            raise StopRequested
        cells = list(group)
        try:
            subject = _subject(run, experiment, cells[0])
        except checkpoint.Invalid as reason:
            for cell in cells:
                report.failed(cell, f"checkpoint {cell.checkpoint}: {reason}", state="skipped")
            continue
        if runner is None:  # only now: it imports torch
            quiet(experiment.evaluation.resources.gpus)
            from openrs.evaluation.sampled import SampledRunner

            runner = SampledRunner(experiment, rank.stop_requested)
        for cell, outcome in runner.evaluate(subject, cells):
            if isinstance(outcome, Exception):
                report.failed(cell, _line(outcome), error=outcome)
            else:
                report.done(cell, {**outcome, "experiment_hash": stage.experiment_hash})
    return FAILED if report.failures else DONE


def _subject(run: RunDirectory, experiment: Experiment, cell: Cell) -> Subject:
    """What a cell evaluates. Raises Invalid for a checkpoint that is not whole, BadInput for an unusable base model."""
    if cell.step is not None:
        path = run.checkpoint(cell.step)
        # Optimizer state is large and not read here: its checksums are left alone.
        manifest = checkpoint.verify(
            path, checksums=lambda name: name.endswith((".safetensors", ".json", ".txt", ".model"))
        )
        identity = {"checkpoint": cell.checkpoint, "trained_by": manifest.get("trains")}
        return Subject(str(path), None, identity)
    name, revision = model_path(experiment.model)
    identity = {"name": name, "revision": revision}
    if experiment.model.type == "hub":
        identity["commit"] = commit(experiment.model)
    else:
        identity["name"] = experiment.model.path
    return Subject(name, revision, identity)


class _Report:
    """Stores outcomes in the run directory and prints a progress line for each."""

    def __init__(self, run: RunDirectory, rank: Rank, total: int, finished: int) -> None:
        self._run, self._rank, self._total, self._finished = run, rank, total, finished
        self.failures = 0

    def done(self, cell: Cell, result: dict[str, Any]) -> None:
        self._rank.check_lease()
        self._run.write_cell(cell, result)
        self._finished += 1
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
        progress = {"done": self._finished, "failed": self.failures, "total": self._total}
        print(json.dumps({"cell": place, **facts, "cells": progress}, ensure_ascii=False), flush=True)


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, OpenRSError) else f"{type(error).__name__}: {text}"[:500]
