"""The state of runs: what the schedulers say, and what the run directories show."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from pydantic import Field

from openrs.engines import FORGOTTEN, Job, JobInfo, JobState, engine_for, is_remote
from openrs.errors import OpenRSError
from openrs.runs.directory import RunDirectory
from openrs.runs.record import Record, SentStage
from openrs.spec.base import Strict
from openrs.spec.canonical import canonical
from openrs.stage import Cell
from openrs.worker.exits import DONE, INTERRUPTED


class CellCount(Strict):
    """Evaluation cells of a stage."""

    done: int
    failed: int
    total: int


class StageStatus(Strict):
    """One stage, by its newest handle."""

    name: str
    state: JobState
    handle: str
    reason: str
    cells: CellCount


class RunStatus(Strict):
    """One run. The JSON of `openrs status --json` is made of these."""

    run: str
    experiment: str
    cluster: str
    state: JobState
    step: int
    steps: int
    attempts: int
    """Starts of the training stage."""
    saved: int = Field(default=0, exclude=True)
    """Newest step whose checkpoint the scheduler's side knows to be complete, where the client does not see them."""
    stages: list[StageStatus]


def status(records: list[Record]) -> list[RunStatus]:
    """The status of every run, by one query for each cluster."""
    by_cluster: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        by_cluster[canonical(record.cluster)].append(record)
    infos: dict[int, dict[str, JobInfo]] = {}
    for group in by_cluster.values():
        asked = [job for record in group for job in jobs(record).values()]
        try:
            answer = engine_for(group[0].cluster).inspect(asked)
        except OpenRSError as error:
            if len(by_cluster) == 1:
                raise
            # One cluster that does not answer must not hide the others.
            answer = {job.handle: JobInfo(JobState.UNKNOWN, str(error)) for job in asked}
        for record in group:
            infos[id(record)] = answer
    return [_run_status(record, infos[id(record)]) for record in records]


def stage_states(record: Record, infos: dict[str, JobInfo]) -> dict[str, StageStatus]:
    """Stage name → status, of one run, from what its engine said of its jobs."""
    return {stage.name: stage for stage in _run_status(record, infos).stages}


def jobs(record: Record) -> dict[str, Job]:
    """Stage name → its newest job."""
    return {
        name: Job(record.run, sent.handle, sent.tasks, record.stage_directory(number, name))
        for name, (number, sent) in record.newest().items()
    }


def all_jobs(record: Record) -> list[Job]:
    """The jobs of all sendings, oldest first."""
    return [
        Job(record.run, sent.handle, sent.tasks, record.stage_directory(submission.number, sent.name))
        for submission in record.submissions
        for sent in submission.stages
    ]


def _run_status(record: Record, infos: dict[str, JobInfo]) -> RunStatus:
    directory = RunDirectory(Path(record.dir))
    remote = is_remote(record.cluster)
    step, attempts = int(directory.progress().get("step", 0)), len(directory.attempts("train"))
    events, saved = directory.ledger(), 0
    stages = []
    for name, (submission, sent) in record.newest().items():
        info = infos.get(sent.handle, JobInfo(JobState.UNKNOWN, FORGOTTEN))
        done = finished_cells(record, sent, info)
        failed = sum(cell.path not in done and directory.cell_failed(cell).exists() for cell in sent.cells)
        failed = max(failed, sum(map(len, _tasks_in(record, sent, info, JobState.FAILED))))
        complete = len(done) == len(sent.cells) if sent.tasks is not None else directory.is_complete(name)
        if remote and info.state == JobState.SUCCEEDED:
            complete = True
        state, reason = _stage_state(info, complete, directory.is_cancelled(submission))
        if state in (JobState.FAILED, JobState.INTERRUPTED) or (state == JobState.UNKNOWN and _forgotten(info)):
            state, reason = _in_its_own_words(state, reason, name, submission, events)
        if sent.tasks is None:
            step = max(step, record.steps if remote and complete else info.step or 0)
            attempts, saved = max(attempts, info.attempts or 0), info.saved or 0
        count = CellCount(done=len(done), failed=failed, total=len(sent.cells))
        stages.append(StageStatus(name=name, state=state, handle=sent.handle, reason=reason, cells=count))
    return RunStatus(
        run=record.run,
        experiment=record.experiment,
        cluster=record.cluster.name,
        state=overall([stage.state for stage in stages]),
        step=step,
        steps=record.steps,
        attempts=attempts,
        saved=saved,
        stages=stages,
    )


def finished_cells(record: Record, sent: SentStage, info: JobInfo) -> set[str]:
    """Paths of a stage's finished cells: as the run directory shows them, and as the scheduler says of their tasks."""
    directory = RunDirectory(Path(record.dir))
    said = {cell.path for task in _tasks_in(record, sent, info, JobState.SUCCEEDED) for cell in task}
    # A copy that was pulled and is no finished cell knows better than the scheduler.
    broken = {path for path in said if (directory.path / path).exists()}
    return {cell.path for cell in sent.cells if cell.path in said - broken or directory.cell(cell) is not None}


def _tasks_in(record: Record, sent: SentStage, info: JobInfo, state: JobState) -> list[list[Cell]]:
    """The cells of each array task that a scheduler whose results we cannot see says to be in that state."""
    if not is_remote(record.cluster):
        return []
    indexes = range(sent.tasks or 0) if info.state == state == JobState.SUCCEEDED else info.tasks
    return [sent.task_cells(i) for i in indexes if info.tasks.get(i, info.state) == state]


def _stage_state(info: JobInfo, complete: bool, cancelled: bool) -> tuple[JobState, str]:
    """The disk knows what is done, also when the scheduler has forgotten; the scheduler knows the rest."""
    if info.state in (JobState.PENDING, JobState.RUNNING):
        return info.state, info.reason
    if complete:
        return JobState.SUCCEEDED, info.reason if info.state == JobState.SUCCEEDED else ""
    if cancelled:
        return JobState.CANCELLED, "cancelled by openrs cancel"
    if info.state == JobState.SUCCEEDED:
        return JobState.FAILED, "the job says that it is done, but its results are not there"
    return info.state, info.reason


def _forgotten(info: JobInfo) -> bool:
    """Whether the scheduler knows no such job any more; else it gave a state that we do not know."""
    return FORGOTTEN in info.reason or JobState.UNKNOWN in info.tasks.values()


def _in_its_own_words(
    state: JobState, reason: str, stage: str, submission: int, events: list[dict[str, Any]]
) -> tuple[JobState, str]:
    """How the newest attempts say that they ended.

    A scheduler only knows an exit code, and calls 75 a failure; after some time it knows nothing.
    """
    mine = [event for event in events if event.get("stage") == stage and event.get("submission") == submission]
    newest = {str(event.get("task")): event for event in mine if event["event"] in ("start", "end")}
    ended = [event for event in newest.values() if event["event"] == "end"]
    bad = [event for event in ended if event.get("code") != DONE]
    failed = [event for event in bad if event.get("code") != INTERRUPTED]
    silent = len(ended) < len(newest)  # killed too hard to say anything
    if not bad or (silent and not failed):
        if state == JobState.UNKNOWN:
            return JobState.INTERRUPTED, f"the scheduler {FORGOTTEN}"
        return state, reason
    if state != JobState.INTERRUPTED:
        state = JobState.FAILED if failed else JobState.INTERRUPTED
    return state, str((failed or bad)[-1].get("reason", reason))


def overall(states: list[JobState]) -> JobState:
    """State of a run from its stages: what still moves wins, then what went wrong."""
    if not states:
        return JobState.UNKNOWN
    for state in (JobState.RUNNING, JobState.PENDING):
        if state in states:
            # A stage that waits between others makes no run that has not begun.
            return JobState.RUNNING if state == JobState.PENDING and JobState.SUCCEEDED in states else state
    # A stage that never started because of another's end is CANCELLED: the other's word counts.
    for state in (JobState.FAILED, JobState.INTERRUPTED, JobState.CANCELLED, JobState.UNKNOWN):
        if state in states:
            return state
    return JobState.SUCCEEDED
