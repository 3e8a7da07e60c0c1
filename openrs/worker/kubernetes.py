"""`python -m openrs.worker.kubernetes DIR`: a supervisor as a pod's first process. DIR holds what the Job is told.

Kubernetes asks it to stop by TERM, and reads its exit code by the Job's podFailurePolicy. Who sent the Job need not see the
run directory: this is the first to write there.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from openrs.errors import BadInput
from openrs.runs import provenance
from openrs.runs.directory import RunDirectory
from openrs.runs.files import write_atomic
from openrs.spec.canonical import pretty
from openrs.spec.change import changed, is_harmless
from openrs.spec.experiment import Experiment
from openrs.spec.load import PACKAGE
from openrs.stage import StageFile, read
from openrs.worker.exits import CONFIGURATION, DONE, FAILED
from openrs.worker.stop import StopRequest
from openrs.worker.supervisor import Supervisor

TERMINATION_LOG = Path("/dev/termination-log")
"""What stands there ends up in the pod's status (Kubernetes, "Determine the Reason for Pod Failure")."""

LAST_WORDS = 2000
"""Characters of a reason; Kubernetes keeps 4,096 bytes."""


def main() -> int:
    """Makes one attempt, releases what waited for it, and returns the exit code."""
    stop = StopRequest()
    stop.install()
    config = Path(sys.argv[1])
    supervisor: Supervisor | None = None
    try:
        stage, path = settle(config)
        supervisor = Supervisor(path, _task(stage), stop)
        code, reason = supervisor.run(), supervisor.reason
        if code == DONE:
            code, reason = _release(stage, reason)
    except BadInput as error:
        code, reason = CONFIGURATION, str(error)
        print(f"openrs: {reason}", file=sys.stderr, flush=True)
    words: dict[str, Any] = {"code": code, "reason": reason[:LAST_WORDS]}
    if supervisor is not None:
        words |= {"attempt": supervisor.attempt, "step": supervisor.step}
    with contextlib.suppress(OSError):
        TERMINATION_LOG.write_text(json.dumps(words) + "\n")
    return code


def settle(config: Path) -> tuple[StageFile, Path]:
    """Writes what the Job is told into the run directory, where the others look for it; gives the stage file there.

    Raises BadInput where it cannot be written, or where the directory is another run's.
    """
    stage = read(StageFile, config / "stage.json")
    run, submission = RunDirectory(Path(stage.run_dir)), stage.directory.parent
    spec = (config / "spec.json").read_text(encoding="utf-8")
    try:
        stage.directory.mkdir(parents=True, exist_ok=True)
        known = run.path / "spec.json"
        if known.exists() and known.read_text(encoding="utf-8") != spec:
            _go_on_with(known, read(Experiment, config / "spec.json"))
        # Other Jobs of the run may do the same at the same time, with the same content.
        told = {known: spec, submission / "spec.json": spec}
        told |= {stage.directory / file.name: file.read_text(encoding="utf-8") for file in config.glob("*.json")}
        for target, content in told.items():
            if not target.exists():
                write_atomic(target, content)
        if not (submission / "source.json").exists():
            write_atomic(submission / "source.json", provenance.source_json(PACKAGE))
    except OSError as error:
        raise BadInput(
            f"the run directory {run.path} cannot be written ({error.strerror}, as user {os.getuid()}): shared_root must be "
            f"on a volume of the profile that this user may write to"
        ) from None
    return stage, stage.directory / "stage.json"


def _go_on_with(known: Path, experiment: Experiment) -> None:
    """Replaces the spec of the run by one that differs in nothing that a result depends on. Raises BadInput for another."""
    if not all(is_harmless(field) for field in changed(read(Experiment, known), experiment)):
        raise BadInput(
            f"{known.parent} is the directory of another run, with another spec; choose another id with --run, or remove it"
        )
    write_atomic(known, pretty(experiment))


def _task(stage: StageFile) -> int | None:
    return None if stage.cells_file is None else int(os.environ["JOB_COMPLETION_INDEX"])


def _release(stage: StageFile, reason: str) -> tuple[int, str]:
    """Lets the Jobs go that waited for this stage; without that it has not done its part."""
    if not stage.releases:
        return DONE, reason
    from openrs.engines.kubernetes.api import Api, release

    try:
        release(Api.in_pod(), stage.releases)
    except Exception as error:  # whatever it is, a retry finds training complete and comes here at once
        reason = f"training is complete, but {', '.join(stage.releases)} could not be released: {error}"
        print(f"openrs: {reason}", file=sys.stderr, flush=True)
        return FAILED, reason
    return DONE, reason


if __name__ == "__main__":
    sys.exit(main())
