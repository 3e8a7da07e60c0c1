"""Sending, resuming and cancelling runs: what the commands do, without their printing."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from openrs import plan as planning
from openrs.data.load import model_path
from openrs.engines import (
    Artifacts,
    Engine,
    Job,
    JobInfo,
    JobState,
    Place,
    RemoteEngine,
    StillStopping,
    engine_for,
    is_remote,
)
from openrs.errors import BadInput, OpenRSError
from openrs.resources import shipped
from openrs.runs import record
from openrs.runs.directory import RunDirectory
from openrs.runs.files import write_atomic
from openrs.spec.base import RUN_ID
from openrs.spec.canonical import pretty
from openrs.spec.change import changed, check_change, with_overrides
from openrs.spec.cluster import Cluster
from openrs.spec.experiment import Experiment, Spec
from openrs.spec.load import PACKAGE, load_experiment
from openrs.stage import Cell, read_spec
from openrs.status import all_jobs, finished_cells, jobs, stage_states

PLACEHOLDER = "RUN"
"""The run id in what is rendered without one."""


def new_run_id(spec: Spec) -> str:
    """`<experiment>-<yymmddhhmmss>-<4 hex>`, cut so that it stays a run id."""
    stem = "".join(char if char.isalnum() else "-" for char in spec.name.lower()).strip("-")
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


def check_local_files(spec: Spec) -> None:
    """Raises BadInput for a model directory or data file that the spec names and that is not there."""
    for model in spec.models:
        model_path(model)
    sources = {"data": spec.data} if isinstance(spec, Experiment) else {}
    sources |= {f"evaluation.benchmarks.{b.name}.data": b.data for b in spec.evaluation.benchmarks}
    for where, data in sources.items():
        if data.type == "jsonl" and not Path(data.path).is_file():
            raise BadInput(f"{where}.path: the file {data.path} does not exist")


def render(spec: Spec, cluster: Cluster, runs: Path, run: str | None = None) -> Artifacts:
    """Everything that `submit` would send, with `RUN` for a run id that is not given. Touches nothing."""
    place = place_of(cluster, runs, PLACEHOLDER if run is None else check_run_id(run))
    return engine_for(cluster).render(spec, planning.make_plan(spec, cluster), place)


def submit(
    spec: Spec,
    cluster: Cluster,
    runs: Path,
    run: str | None = None,
    asked: record.Asked | None = None,
    as_they_land: bool = False,
) -> record.Record:
    """Sends a new run and returns its record. Raises BadInput or OpenRSError; then nothing is left behind.

    With `as_they_land`, the checkpoints' cells are held back until `evals.land` finds their checkpoints.
    """
    engine = engine_for(cluster)
    if not is_remote(cluster):
        check_local_files(spec)
    run = new_run_id(spec) if run is None else check_run_id(run)
    place = place_of(cluster, runs, run)
    plan = planning.make_plan(spec, cluster, hold_steps=as_they_land)
    artifacts = engine.render(spec, plan, place)
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
            experiment=spec.name,
            hash=plan.hash,
            steps=plan.steps,
            cluster=cluster,
            dir=str(here),
            asked=asked,
            as_they_land=as_they_land,
            submissions=[],
        )
        write_atomic(here / "spec.json", pretty(spec))
        return _send(engine, artifacts, spec, new, runs)
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
    with alone(runs, run):
        known = record.load(runs, run)
        engine = engine_for(known.cluster)
        infos = engine.inspect(list(jobs(known).values()))
        alive = [name for name, stage in stage_states(known, infos).items() if not stage.state.ended]
        if alive:
            raise BadInput(
                f"run {run}: stage {alive[0]} has not ended; `openrs status {run}` shows it, "
                f"`openrs cancel {run}` stops it"
            )
        directory = RunDirectory(Path(known.dir))
        sent = spec_of(known)
        # The run's own spec, which somebody may have edited, with the benchmarks that `openrs eval` has added since.
        own = read_spec(directory.path / "spec.json")
        evaluation = own.evaluation.model_copy(update={"benchmarks": sent.evaluation.benchmarks})
        spec = with_overrides(own.model_copy(update={"evaluation": evaluation}), overrides or [])
        changes = check_change(run, sent, spec, allow_change)
        plan = _remaining(spec, known, infos)
        if not plan.stages:
            raise BadInput(f"run {run} is complete; there is nothing to resume")
        if isinstance(engine, RemoteEngine):
            engine.retire(all_jobs(known))
        resumed = send_more(known, runs, spec, plan)
        if changes:
            number = resumed.submissions[-1].number
            write_atomic(directory.path / "spec.json", pretty(spec))
            directory.log(f"resume-{number}", "changed", submission=number, fields=changes)
        return resumed


def drifted(known: record.Record) -> list[str]:
    """Fields in which what the run was asked for says something else by now than when it was first sent."""
    if known.asked is None:
        return []
    try:
        first = RunDirectory(Path(known.dir)).submission(1) / "spec.json"
        return list(changed(read_spec(first), load_experiment(known.asked.experiment, known.asked.overrides)))
    except BadInput:  # its file is gone, or broken: what was sent is on record
        return []


@contextlib.contextmanager
def alone(runs: Path, run: str) -> Iterator[None]:
    """Keeps a second `resume`, `eval` or `cancel` of the run out (flock(2)): two sendings at once would lose one.

    Where the file system knows no locks, it goes on with a warning.
    """
    try:
        descriptor = os.open(runs / run / ".sending", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise _unwritable(runs, error) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise BadInput(
            f"run {run}: another resume, eval or cancel of it is under way; try again when that has ended"
        ) from None
    except OSError as error:  # NFS without its lock daemon, Lustre without -o flock
        print(
            f"openrs: warning: {runs / run}: no locks on this file system ({error.strerror}); see that nobody else sends "
            f"this run at the same time",
            file=sys.stderr,
        )
    try:
        yield
    finally:
        os.close(descriptor)


def spec_of(known: record.Record) -> Spec:
    """What the run was sent with, and the benchmarks that later sendings have added. Raises BadInput."""
    directory = RunDirectory(Path(known.dir))
    newest = directory.submission(max([0, *directory.submissions()])) / "spec.json"
    return read_spec(newest if newest.exists() else directory.path / "spec.json")


def own_benchmarks(known: record.Record, spec: Spec) -> set[str]:
    """Names of those that a run began with: what `openrs eval` has added is for the checkpoints that it was asked for."""
    first = RunDirectory(Path(known.dir)).submission(1) / "spec.json"  # an older openrs left none on Kubernetes
    return {benchmark.name for benchmark in (read_spec(first) if first.exists() else spec).evaluation.benchmarks}


def send_more(known: record.Record, runs: Path, spec: Spec, plan: planning.Plan) -> record.Record:
    """Sends another plan of a run. Raises BadInput and OpenRSError."""
    engine = engine_for(known.cluster)
    directory = RunDirectory(Path(known.dir))
    place = place_of(known.cluster, runs, known.run, max([0, *directory.submissions()]) + 1)
    try:
        known = known.model_copy(update={"hash": plan.hash})
        return _send(engine, engine.render(spec, plan, place), spec, known, runs)
    except OSError as error:
        raise _unwritable(runs, error) from None


def _remaining(spec: Spec, known: record.Record, infos: dict[str, JobInfo]) -> planning.Plan:
    """What is not done, as far as it is known: sending more than that is harmless, for what is done is not done again."""
    directory, cluster = RunDirectory(Path(known.dir)), known.cluster
    done: set[str] = set()
    trained = not isinstance(spec, Experiment) or directory.is_complete("train")
    for _, sent in known.newest().values():
        info = infos.get(sent.handle, JobInfo(JobState.UNKNOWN))
        done |= finished_cells(known, sent, info)
        trained |= sent.tasks is None and is_remote(cluster) and info.state == JobState.SUCCEEDED
    # Each cell goes out again as part of the stage that it was last part of.
    stage_of: dict[str, str] = {}
    wanted: dict[str, Cell] = {}
    for submission in known.submissions:
        for sent in submission.stages:
            for cell in sent.cells:
                current = planning.current_cell(spec, cell)
                if current is not None:
                    wanted[current.path], stage_of[current.path] = current, sent.name
    steps = sorted(spec.evaluation.at_steps) if trained or not known.as_they_land else []
    own = own_benchmarks(known, spec)
    for name, cells in (("base", planning.base_cells(spec)), ("eval", planning.cells(spec, steps))):
        for cell in (cell for cell in cells if cell.benchmark in own):
            wanted.setdefault(cell.path, cell)
            stage_of.setdefault(cell.path, name)
    missing: dict[str, list[Cell]] = {}
    for path, cell in wanted.items():
        if path not in done and directory.cell(cell) is None:
            missing.setdefault(stage_of[path], []).append(cell)
    stages = [] if trained or not isinstance(spec, Experiment) else [planning.train_stage(spec, cluster)]
    for name, cells in missing.items():
        after = ["train"] if any(cell.step is not None for cell in cells) else []
        ordered = sorted(cells, key=lambda cell: (cell.step is not None, cell.step or 0, cell.checkpoint))
        stages += planning.cell_stages(name, ordered, after, spec, cluster)
    return planning.assemble(
        spec, cluster, sorted(stages, key=lambda stage: (bool(stage.after), stage.kind == "train"))
    )


def cancel(runs: Path, run: str) -> record.Record:
    """Stops a run for good: marks it first, so that nobody requeues it, then asks, waits for the save, removes."""
    record.load(runs, run)
    with alone(runs, run):
        known = record.load(runs, run)
        engine = engine_for(known.cluster)
        directory = RunDirectory(Path(known.dir))
        states = stage_states(known, engine.inspect(list(jobs(known).values())))
        alive = {name: job for name, job in jobs(known).items() if not states[name].state.ended}
        if not alive:
            raise BadInput(f"run {run} has ended already; `openrs status {run}` says how")
        newest = known.newest()
        new = {newest[name][0] for name in alive if not directory.is_cancelled(newest[name][0])}
        grace = spec_of(known).recovery.grace_seconds
        remote = isinstance(engine, RemoteEngine)
        try:
            for submission in new:
                directory.cancel(submission)
        except OSError as error:
            raise _unwritable(runs, error) from None
        try:
            # There, also what earlier sendings have left is an object that somebody must remove.
            engine.cancel(all_jobs(known) if remote else list(alive.values()), grace)
        except OpenRSError as error:
            if remote and not isinstance(error, StillStopping):
                # Its pods go on and never saw the mark, which would hide how they end.
                for submission in new:
                    directory.cancel_marker(submission).unlink(missing_ok=True)
            raise
        return known


def _send(engine: Engine, artifacts: Artifacts, spec: Spec, known: record.Record, runs: Path) -> record.Record:
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
        write_atomic(target / "spec.json", pretty(spec))  # not every engine has it among its files
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
            sizes=[len(task) for task in stage.tasks or []],
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
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    shutil.copytree(shipped("slurm"), target / "slurm")  # a training job may send cells itself
    return copy


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
