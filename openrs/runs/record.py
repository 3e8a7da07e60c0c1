"""The client record: what was sent where, kept below `--runs` on the user's side."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from openrs.errors import BadInput
from openrs.runs.files import write_atomic
from openrs.spec.base import RUN_ID, Line, Name, PathLine, Strict
from openrs.spec.canonical import pretty
from openrs.spec.cluster import Cluster
from openrs.spec.explain import nearest
from openrs.spec.paths import shortened
from openrs.stage import Cell, RunId, read

RECORD = "record.json"

IMPORTED = "import.json"
"""Says that a run directory was imported, from where, and what was found."""

Count = Annotated[int, Field(ge=0, le=10**9)]


class SentStage(Strict):
    """One stage of one sending."""

    name: Name
    handle: Line
    """The scheduler's id, in its engine's words."""
    tasks: Count | None
    """Array tasks; none for a single job."""
    cells: list[Cell]
    """What it evaluates."""
    sizes: list[Count] = []
    """How many of these each task evaluates, in turn; by default one."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.tasks is not None and self.tasks != len(self.sizes or self.cells):
            raise ValueError(f"tasks: there are {self.tasks}, with cells for {len(self.sizes or self.cells)}")
        return self

    def task_cells(self, task: int) -> list[Cell]:
        """What a task evaluates."""
        sizes = self.sizes or [1] * len(self.cells)
        start = sum(sizes[:task])
        return self.cells[start : start + sizes[task]]


class Submission(Strict):
    """One sending of some stages."""

    number: Count
    time: Annotated[float, Field(ge=0.0, le=1e12)]
    """Seconds since the epoch, on the client."""
    stages: list[SentStage]


class Asked(Strict):
    """What a user asked for, as it was said."""

    experiment: str
    """Name or file."""
    overrides: list[str]
    """Values of `--set`."""


class Record(Strict):
    """A run as its user sees it."""

    schema_version: Literal[1] = 1
    run: RunId
    experiment: Line
    hash: Line
    steps: Count
    cluster: Cluster
    """The profile as it was when the run was sent."""
    dir: PathLine
    """The run directory; where the client does not see it, its own, with what was sent and pulled."""
    asked: Asked | None = None
    """What `openrs diff` compares with."""
    as_they_land: bool = False
    """The cells of a checkpoint are sent when it is there, not after training."""
    submissions: list[Submission]

    def stage_directory(self, submission: int, stage: str) -> Path:
        """Where the artefacts of a stage of a sending stand."""
        return Path(self.dir) / "submission" / str(submission) / stage

    def newest(self) -> dict[str, tuple[int, SentStage]]:
        """Stage name → (submission, stage) of its newest sending, in the order of the first one."""
        stages: dict[str, tuple[int, SentStage]] = {}
        for submission in self.submissions:
            for stage in submission.stages:
                stages[stage.name] = (submission.number, stage)
        return stages


def save(runs: Path, record: Record) -> None:
    """Writes the record. Raises OSError."""
    write_atomic(runs / record.run / RECORD, pretty(record))


def run_names(runs: Path) -> list[str]:
    """Ids of all runs below `runs`, sorted. Raises BadInput where the directory cannot be read."""
    try:
        found = [path.name for path in runs.iterdir() if RUN_ID.fullmatch(path.name)]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise BadInput(f"--runs {runs}: cannot be read ({error.strerror})") from None
    return sorted(name for name in found if os.path.lexists(runs / name / RECORD))


def load(runs: Path, run: str) -> Record:
    """The record of a run. Raises BadInput for an id that is not one or that does not exist."""
    if not RUN_ID.fullmatch(run):
        raise BadInput(
            f"run id {shortened(run)!r} is not one: small letters, digits and '-', at most 32, starting with a letter"
        )
    if not os.path.lexists(runs / run / RECORD):
        if os.path.lexists(runs / run / IMPORTED):
            raise BadInput(f"run {run} was imported and never sent; `openrs report {run}` shows what it holds")
        known = run_names(runs)
        hint = nearest(run, known) or ("; `openrs status` shows all" if known else "; there are no runs yet")
        raise BadInput(f"run {run!r} does not exist below {runs}{hint}")
    return read(Record, runs / run / RECORD)
