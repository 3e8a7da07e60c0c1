"""Sending, resuming and cancelling runs: what the commands do, without their printing."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from openrs import plan as planning
from openrs.data.load import model_path
from openrs.engines import Artifacts, Engine, Job, JobInfo, JobState, Place, RemoteEngine, engine_for, is_remote
from openrs.errors import BadInput
from openrs.runs import record
from openrs.runs.directory import RunDirectory
from openrs.runs.files import write_atomic
from openrs.spec.base import RUN_ID
from openrs.spec.canonical import pretty
from openrs.spec.change import changed, check_change, with_overrides
from openrs.spec.cluster import Cluster
from openrs.spec.experiment import Experiment
from openrs.spec.load import PACKAGE, load_experiment
from openrs.stage import read
from openrs.status import all_jobs, finished_cells, jobs, stage_states

PLACEHOLDER = "RUN"
"""The run id in what is rendered without one."""


def new_run_id(experiment: Experiment) -> str:
    """`<experiment>-<yymmddhhmmss>-<4 hex>`, cut so that it stays a run id."""
    stem = "".join(char if char.isalnum() else "-" for char in experiment.name.lower()).strip("-")
    stem = stem if stem[:1].isalpha() else f"x{stem}"
    return f"{stem[:14].rstrip('-')}-{time.strftime('%y%m%d%H%M%S')}-{secrets.token_hex(2)}"


def check_run_id(run: str) -> str:
    """`run`, if it is a run id. Raises BadInput."""
    if not RUN_ID.match(run) or run.endswith("\n"):
        raise BadInput(f"--run {run!r}: small letters, digits and '-', at most 32, starting with a letter")
    return run


def local_directory(cluster: Cluster, runs: Path, place: Place) -> Path:
    """Where the client sees the run: its run directory, or else a directory of its own with what was sent and pulled."""
    return runs.absolute() / place.run if is_remote(cluster) else place.directory


def place_of(cluster: Cluster, runs: Path, run: str, submission: int = 1) -> Place:
    """Where that sending of the run stands."""
    root = Path(cluster.shared_root) / "runs" if cluster.shared_root else runs.absolute()
    return Place(run, root / run, submission)


def check_local_files(experiment: Experiment) -> None:
    """Raises BadInput for a model directory or data file that the spec names and that is not there."""
    model_path(experiment.model)
    sources = {"data": experiment.data}
    sources |= {f"evaluation.benchmarks.{b.name}.data": b.data for b in experiment.evaluation.benchmarks}
    for where, data in sources.items():
        if data.type == "jsonl" and not Path(data.path).is_file():
            raise BadInput(f"{where}.path: the file {data.path} does not exist")


def render(experiment: Experiment, cluster: Cluster, runs: Path, run: str | None = None) -> Artifacts:
    """Everything that `submit` would send, with `RUN` for a run id that is not given. Touches nothing."""
    place = place_of(cluster, runs, PLACEHOLDER if run is None else check_run_id(run))
    return engine_for(cluster).render(experiment, planning.make_plan(experiment, cluster), place)


def submit(
    experiment: Experiment,
    cluster: Cluster,
    runs: Path,
    run: str | None = None,
    asked: record.Asked | None = None,
) -> record.Record:
    """Sends a new run and returns its record. Raises BadInput or OpenRSError; then nothing is left behind."""
    engine = engine_for(cluster)
    if not is_remote(cluster):
        check_local_files(experiment)
    run = new_run_id(experiment) if run is None else check_run_id(run)
    place = place_of(cluster, runs, run)
    plan = planning.make_plan(experiment, cluster)
    artifacts = engine.render(experiment, plan, place)
    here = local_directory(cluster, runs, place)
    claimed: list[Path] = []
    made: list[Path] = []
    try:
        for directory in dict.fromkeys([runs.absolute() / run, here]):
            made += _make_root(directory.parent)
            directory.mkdir()
            claimed.append(directory)
        new = record.Record(
            run=run,
            experiment=experiment.name,
            hash=plan.hash,
            steps=plan.steps,
            cluster=cluster,
            dir=str(here),
            asked=asked,
            submissions=[],
        )
        write_atomic(here / "spec.json", pretty(experiment))
        return _send(engine, artifacts, new, runs)
    except BaseException as error:
        for directory in claimed:
            shutil.rmtree(directory, ignore_errors=True)
        for directory in made:
            with contextlib.suppress(OSError):
                directory.rmdir()  # only if it is still empty
        if isinstance(error, FileExistsError):
            raise BadInput(
                f"--run {run}: that run exists already below {runs}; choose another id, or `openrs resume {run}`"
            ) from None
        if isinstance(error, OSError):
            raise _unwritable(runs, error) from None
        raise


def resume(runs: Path, run: str, overrides: list[str] | None = None, *, allow_change: bool = False) -> record.Record:
    """Sends what of a run is not done: training from its newest checkpoint, and the cells that are missing.

    With `overrides` and `allow_change` it goes on with another logging, retention and the like. Raises BadInput if it is
    still running or already complete, and if the spec is not the one that was sent.
    """
    record.load(runs, run)
    with _alone(runs, run):
        known = record.load(runs, run)
        engine = engine_for(known.cluster)
        directory = RunDirectory(Path(known.dir))
        infos = engine.inspect(list(jobs(known).values()))
        alive = [name for name, stage in stage_states(known, infos).items() if not stage.state.ended]
        if alive:
            raise BadInput(
                f"run {run}: stage {alive[0]} has not ended; `openrs status {run}` shows it, "
                f"`openrs cancel {run}` stops it"
            )
        submissions = directory.submissions()
        experiment = with_overrides(read(Experiment, directory.path / "spec.json"), overrides or [])
        changes: dict[str, tuple[Any, Any]] = {}
        if submissions:
            sent = read(Experiment, directory.submission(submissions[-1]) / "spec.json")
            changes = check_change(run, sent, experiment, allow_change)
        number = max([0, *submissions]) + 1
        plan = _remaining(experiment, known, infos)
        if not plan.stages:
            raise BadInput(f"run {run} is complete; there is nothing to resume")
        place = place_of(known.cluster, runs, run, number)
        try:
            if isinstance(engine, RemoteEngine):
                engine.retire(all_jobs(known))
            known = known.model_copy(update={"hash": plan.hash})
            resumed = _send(engine, engine.render(experiment, plan, place), known, runs)
            if changes:
                write_atomic(directory.path / "spec.json", pretty(experiment))
                directory.log(f"resume-{number}", "changed", submission=number, fields=changes)
            return resumed
        except OSError as error:
            raise _unwritable(runs, error) from None


def drifted(known: record.Record) -> list[str]:
    """Fields in which what the run was asked for says something else by now than what was sent."""
    if known.asked is None:
        return []
    try:
        now = load_experiment(known.asked.experiment, known.asked.overrides)
        return list(changed(read(Experiment, Path(known.dir) / "spec.json"), now))
    except BadInput:  # its file is gone, or broken: what was sent is on record
        return []


@contextlib.contextmanager
def _alone(runs: Path, run: str) -> Iterator[None]:
    """Keeps a second `resume` or `cancel` of the run out (flock(2)): two sendings at once would lose one."""
    try:
        descriptor = os.open(runs / run / ".sending", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise _unwritable(runs, error) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise BadInput(
            f"run {run}: another resume or cancel of it is under way; try again when that has ended"
        ) from None
    try:
        yield
    finally:
        os.close(descriptor)


def _remaining(experiment: Experiment, known: record.Record, infos: dict[str, JobInfo]) -> planning.Plan:
    """What is not done, as far as it is known: sending more than that is harmless, for what is done is not done again."""
    base: list[int | None] = [None] if experiment.evaluation.base else []
    steps: list[int | None] = [*sorted(experiment.evaluation.at_steps)]
    directory, cluster = RunDirectory(Path(known.dir)), known.cluster
    done: set[str] = set()
    trained = directory.is_complete("train")
    for _, sent in known.newest().values():
        info = infos.get(sent.handle, JobInfo(JobState.UNKNOWN))
        done |= finished_cells(known, sent, info)
        trained |= sent.tasks is None and is_remote(cluster) and info.state == JobState.SUCCEEDED
    missing = {
        name: [
            cell
            for cell in planning.cells(experiment, wanted)
            if cell.path not in done and directory.cell(cell) is None
        ]
        for name, wanted in (("base", base), ("eval", steps))
    }
    stages = [
        *planning.cell_stages("base", missing["base"], [], experiment, cluster),
        *([] if trained else [planning.train_stage(experiment, cluster)]),
        *planning.cell_stages("eval", missing["eval"], ["train"], experiment, cluster),
    ]
    return planning.assemble(experiment, cluster, stages)


def cancel(runs: Path, run: str) -> record.Record:
    """Stops a run for good: marks it first, so that nobody requeues it, then asks, waits for the save, removes."""
    record.load(runs, run)
    with _alone(runs, run):
        known = record.load(runs, run)
        engine = engine_for(known.cluster)
        directory = RunDirectory(Path(known.dir))
        states = stage_states(known, engine.inspect(list(jobs(known).values())))
        alive = {name: job for name, job in jobs(known).items() if not states[name].state.ended}
        if not alive:
            raise BadInput(f"run {run} has ended already; `openrs status {run}` says how")
        newest = known.newest()
        try:
            for submission in {newest[name][0] for name in alive}:
                directory.cancel(submission)
        except OSError as error:
            raise _unwritable(runs, error) from None
        grace = read(Experiment, directory.path / "spec.json").recovery.grace_seconds
        # There, also what earlier sendings have left is an object that somebody must remove.
        engine.cancel(all_jobs(known) if isinstance(engine, RemoteEngine) else list(alive.values()), grace)
        return known


def _send(engine: Engine, artifacts: Artifacts, known: record.Record, runs: Path) -> record.Record:
    """Writes a submission, sends it, and adds it to the record."""
    from openrs.runs import provenance  # not needed to render, and slow to import

    directory = RunDirectory(Path(known.dir))
    target = directory.submission(artifacts.place.submission)
    target.parent.mkdir(exist_ok=True)
    target.mkdir()  # before the clean-up below: one that is there already is not ours to remove
    try:
        for name, content in artifacts.files.items():
            (target / name).parent.mkdir(exist_ok=True)
            write_atomic(target / name, content)
        for stage in artifacts.plan.stages:
            (target / stage.name).mkdir(exist_ok=True)
            (directory.path / "logs" / stage.name).mkdir(parents=True, exist_ok=True)
        code = PACKAGE
        if not isinstance(engine, RemoteEngine):  # there, the image holds the code
            code = _snapshot(target / "code")
        write_atomic(target / "source.json", provenance.source_json(code))
        handles = engine.submit(artifacts)
        try:
            return _recorded(artifacts, handles, known, runs)
        except BaseException:
            # What is not on record would run unseen.
            engine.cancel([Job(known.run, handle, None, target / name) for name, handle in handles.items()], grace=0)
            raise
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise


def _recorded(artifacts: Artifacts, handles: dict[str, str], known: record.Record, runs: Path) -> record.Record:
    """The record with this submission added, saved."""
    sent = [
        record.SentStage(
            name=stage.name,
            handle=handles[stage.name],
            tasks=None if stage.tasks is None else len(stage.tasks),
            cells=[cell for task in stage.tasks or [] for cell in task],
        )
        for stage in artifacts.plan.stages
    ]
    submission = record.Submission(number=artifacts.place.submission, time=time.time(), stages=sent)
    updated = known.model_copy(update={"submissions": [*known.submissions, submission]})
    record.save(runs, updated)
    return updated


def _unwritable(runs: Path, error: OSError) -> BadInput:
    """An OSError in one line; shutil.Error holds the reasons of many files."""
    reason = error.strerror or str(error)
    if isinstance(error, shutil.Error) and error.args and isinstance(error.args[0], list):
        reason = str(error.args[0][0][-1])
    return BadInput(f"--runs {runs}: cannot write there ({reason})")


def _snapshot(target: Path) -> Path:
    """The package as it is now: every attempt of this submission runs it, whatever is edited since."""
    copy = target / PACKAGE.name
    return Path(shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__", "*.pyc")))


def _make_root(root: Path) -> list[Path]:
    """Makes `root`, and says which directories were new, deepest first."""
    new = [path for path in (root, *root.parents) if not path.exists()]
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"--runs {root}: cannot be made ({error.strerror})") from None
    if not os.access(root, os.W_OK | os.X_OK):
        raise BadInput(f"--runs {root}: not writable for this user; choose another with --runs or OPENRS_RUNS")
    return new
