"""One rank's session: find what to go on from, put the trainer together, train, and say how it ended."""

from __future__ import annotations

import os

from openrs.data.load import commit, fingerprint, load
from openrs.errors import BadInput
from openrs.runs.directory import RunDirectory
from openrs.runs.files import clean
from openrs.runs.lease import LeaseLost
from openrs.spec.change import identity
from openrs.spec.experiment import Experiment
from openrs.stage import StageFile
from openrs.training import checkpoint, observe, start
from openrs.training.generation.waiting import await_server, server_address
from openrs.training.quiet import quiet
from openrs.training.stop import StopRequested
from openrs.worker.exits import DONE, INTERRUPTED
from openrs.worker.rank import Rank


def run_session(stage: StageFile, experiment: Experiment, run: RunDirectory, rank: Rank) -> int:
    """Trains from the newest complete checkpoint to the end (0) or to a stop (75). Raises OpenRSError, LeaseLost."""
    problems = load(experiment.data)
    try:
        found = _lead(stage, experiment, problems, run, rank) if rank.rank == 0 else _follow(run, rank)
        if found is None or found.step < experiment.training.steps:
            address = server_address() if experiment.has_server else None
            quiet(experiment.resources.gpus)
            _tell_accelerate(rank)
            from openrs.training.trainer import train

            train(stage, experiment, problems, run, rank, found, address)
    except StopRequested:
        return INTERRUPTED
    if rank.rank == 0:
        rank.check_lease()
        run.mark_complete(stage.stage, step=experiment.training.steps)
    return DONE


def _lead(
    stage: StageFile, experiment: Experiment, problems: list[dict[str, str]], run: RunDirectory, rank: Rank
) -> checkpoint.Found | None:
    """What to go on from, once all that training needs is there; the other ranks are told, also of a stop.

    Raises StopRequested, BadInput, LeaseLost, and TimeoutError where the generation server does not answer.
    """
    try:
        found, rejected = checkpoint.newest_valid(
            run.checkpoints, checkpoint.Identity(stage.run, identity(experiment), rank.world)
        )
        step = found.step if found else 0
        _begin(experiment, problems, run, rank, step, rejected)
        if step < experiment.training.steps:
            if experiment.has_server:
                await_server(f"http://{server_address()}/health", rank.stop_requested)
            if rank.stop_requested():
                raise StopRequested
    except (StopRequested, LeaseLost):  # after any other the supervisor ends them at once
        start.tell(rank, None)
        raise
    start.tell(rank, step)
    return found


def _follow(run: RunDirectory, rank: Rank) -> checkpoint.Found | None:
    """What rank 0 goes on from: it alone looks, so that no two see different things. Raises StopRequested."""
    step = start.told(rank)
    return checkpoint.Found(run.checkpoint(step), step) if step else None


def _begin(
    experiment: Experiment,
    problems: list[dict[str, str]],
    run: RunDirectory,
    rank: Rank,
    step: int,
    rejected: list[checkpoint.Rejected],
) -> None:
    rank.check_lease()
    run.checkpoints.mkdir(parents=True, exist_ok=True)
    stale = checkpoint.clean(run.checkpoints)
    aside = checkpoint.set_aside(run.checkpoints, rejected)
    for directory, name in ((run.journal, "*"), (run.path / "completions", "*"), (run.path, run.metrics.name)):
        clean(directory, name)
    had = run.progress().get("step", 0)
    observe.cut_metrics(run.metrics, step)
    model, data = experiment.model, experiment.data
    digest = fingerprint(problems)
    before = [event["data_sha256"] for event in run.ledger() if event["event"] == "training"]
    if before and before[0] != digest:
        raise BadInput(
            "data: not the problems that this run began with; pin data.revision, restore the file, or submit anew"
        )
    run.log(
        "trainer",
        "training",
        attempt=rank.attempt,
        from_step=step,
        had_step=had,
        rejected=[{"checkpoint": entry.checkpoint, "reason": entry.reason} for entry in rejected],
        removed=stale,
        set_aside=aside,
        model_commit=commit(model) if model.type == "hub" else None,
        data_commit=commit(data) if data.type == "hub" else None,
        data_sha256=digest,
        problems=len(problems),
    )


def _tell_accelerate(rank: Rank) -> None:
    """Lets accelerate see what there is: one plain process, or DeepSpeed, be it on CPUs.

    It would open a process group for one process, and would leave DeepSpeed out where it is told to use CPUs.
    """
    several = ("ACCELERATE_USE_CPU",)
    alone = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
    for name in alone if rank.world == 1 else several:
        os.environ.pop(name, None)
