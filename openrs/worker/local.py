"""`python -m openrs.worker.local stage.json`: one stage on this machine, when those before it have ended."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from openrs.runs.directory import RunDirectory
from openrs.runs.files import read_object, write_atomic
from openrs.runs.lease import start_ticks
from openrs.stage import CellsFile, StageFile, read
from openrs.worker.exits import DONE, INTERRUPTED
from openrs.worker.host import run_supervisor
from openrs.worker.stop import TURN_SECONDS, StopRequest

PATIENCE_SECONDS = 60
"""A stage before this one that has not even started by then never will."""


def main() -> int:
    """Waits for its turn, runs every task of the stage, and writes `exit.json` beside the stage file."""
    here = Path(sys.argv[1]).resolve().parent
    stop = StopRequest()
    stop.install()
    write_atomic(here / "process.json", json.dumps({"pid": os.getpid(), "start": start_ticks(os.getpid())}) + "\n")
    code, reason = _run(here, stop)
    write_atomic(here / "exit.json", json.dumps({"code": code, "reason": reason}) + "\n")
    return INTERRUPTED if code is None else code


def _run(here: Path, stop: StopRequest) -> tuple[int | None, str]:
    stage = read(StageFile, here / "stage.json")
    command = json.loads((here / "command.json").read_bytes())
    directory = RunDirectory(Path(stage.run_dir))
    if not _wait([here.parent / name for name in command["follows"]], stop):
        return INTERRUPTED, f"stopped before its turn ({stop.reason})"
    failed = [name for name in command["needs"] if _code(here.parent / name) != DONE]
    if failed:
        return None, f"stage {failed[0]} before it did not succeed"
    (here / "started").touch()
    tasks: list[int | None] = [None]
    if stage.cells_file is not None:
        tasks = list(range(len(read(CellsFile, directory.path / stage.cells_file).tasks)))
    worst, why = DONE, ""
    for task in tasks:
        code, reason = _attempts(here / "stage.json", stage, task, stop, directory)
        if code == INTERRUPTED:
            return code, reason
        if code != DONE and worst == DONE:
            worst, why = code, reason
    return worst, why


def _attempts(
    path: Path, stage: StageFile, task: int | None, stop: StopRequest, directory: RunDirectory
) -> tuple[int, str]:
    """Attempts at a task until it is done, has failed, or a person stopped it: there is no scheduler to requeue it."""
    while True:
        code = run_supervisor(path, task, stop, handle=f"local-{stage.submission}")
        if code < 0:
            return INTERRUPTED, f"its supervisor was killed by {signal.Signals(-code).name}"
        if code != INTERRUPTED or stop or directory.is_cancelled(stage.submission):
            return code, _reason(directory, stage, task) or stop.reason


def _wait(before: list[Path], stop: StopRequest) -> bool:
    """Until every stage before has ended, well or not. False if asked to stop meanwhile, or if the run was removed."""
    began = time.monotonic()
    while any(place.is_dir() and not (place / "exit.json").exists() and _runs(place, began) for place in before):
        if stop:
            return False
        time.sleep(TURN_SECONDS)
    if not all(place.is_dir() for place in before):
        sys.exit("openrs: the run directory was removed")
    return not stop


def _runs(place: Path, began: float) -> bool:
    process = read_object(place / "process.json")
    if process is None:
        return time.monotonic() - began < PATIENCE_SECONDS
    return bool(start_ticks(int(process["pid"])) == process["start"])


def _code(place: Path) -> int | None:
    code = (read_object(place / "exit.json") or {}).get("code")
    return code if isinstance(code, int) else None


def _reason(directory: RunDirectory, stage: StageFile, task: int | None) -> str:
    """How the newest attempt at this task ended, in its own words."""
    ends = [
        event
        for event in directory.ledger()
        if event["event"] == "end"
        and (event.get("stage"), event.get("submission"), event.get("task")) == (stage.stage, stage.submission, task)
    ]
    return str(ends[-1].get("reason", "")) if ends else ""


if __name__ == "__main__":
    sys.exit(main())
