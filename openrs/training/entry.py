"""The start of a training rank: arguments and markers before anything that is slow, and errors as exit codes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from openrs.drill import executioner
from openrs.errors import BadInput, OpenRSError
from openrs.runs.directory import RunDirectory
from openrs.runs.lease import LeaseLost
from openrs.spec.canonical import sha256
from openrs.spec.experiment import Experiment
from openrs.stage import StageFile, read
from openrs.training import start
from openrs.worker.exits import CONFIGURATION, DONE, FAILED, INTERRUPTED
from openrs.worker.rank import Rank


def main(arguments: list[str]) -> int:
    """Trains the stage and returns the exit code. Whatever is not the user's to mend is raised."""
    try:
        if len(arguments) != 1:
            raise BadInput("usage: python -m openrs.training STAGE.json")
        return train(Path(arguments[0]))
    except OpenRSError as error:
        print(f"openrs: {' '.join(str(error).split())}", file=sys.stderr)
        return CONFIGURATION
    except LeaseLost:
        # Another attempt may be writing already: leave at once and silently.
        os._exit(INTERRUPTED)


def train(stage_path: Path) -> int:
    """Runs one rank of the stage to its end or to a stop. Raises OpenRSError and LeaseLost."""
    stage = read(StageFile, stage_path)
    run = RunDirectory(Path(stage.run_dir))
    if run.is_complete(stage.stage):
        return DONE
    experiment = read_experiment(stage)
    rank = rank_of_environment()
    if rank.rank == 0 and rank.stop_requested():
        start.tell(rank, None)
        return INTERRUPTED
    executioner.arm(run, rank)
    from openrs.training.session import run_session

    try:
        return run_session(stage, experiment, run, rank)
    except OSError as error:
        # Storage that is gone, read-only or over a quota is nobody's defect: one line, and the next attempt may do better.
        if not str(error.filename or "").startswith(stage.run_dir):
            raise
        print(f"openrs: {error.filename}: {error.strerror}; what is complete there stays", file=sys.stderr)
        return FAILED


def read_experiment(stage: StageFile) -> Experiment:
    """The spec of the stage's submission. Raises BadInput where it is not the one that the stage was made from."""
    experiment = read(Experiment, stage.spec_path)
    if sha256(experiment) != stage.experiment_hash:
        raise BadInput(f"{stage.spec_path}: not the experiment that this stage was made from; submit it again")
    return experiment


def rank_of_environment() -> Rank:
    """The rank that this process is. Raises BadInput where no supervisor started it."""
    try:
        return Rank.from_environment()
    except KeyError as error:
        raise BadInput(f"{error.args[0]} is not set: this program is started by `python -m openrs.worker`") from None
