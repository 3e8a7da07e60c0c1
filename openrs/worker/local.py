"""`python -m openrs.worker.local stage.json`: one stage on this machine, when those before it have ended."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from openrs.runs.directory import RunDirectory
from openrs.runs.files import read_object, write_atomic
from openrs.runs.lease import start_ticks
from openrs.stage import CellsFile, StageFile, read
from openrs.worker.exits import DONE, INTERRUPTED
from openrs.worker.host import run_supervisor
from openrs.worker.ranks import wait_briefly
from openrs.worker.stop import StopRequest


def main() -> int:
    """Waits for its turn, runs every task of the stage, and writes `exit.json` beside the stage file."""
    here = Path(sys.argv[1]).resolve().parent
    stop = StopRequest()
    stop.install()
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
        code = run_supervisor(here / "stage.json", task, stop, handle=f"local-{stage.submission}")
        if code == INTERRUPTED:
            return code, _reason(directory, stage) or stop.reason
        if code != DONE and worst == DONE:
            worst, why = code, _reason(directory, stage)
    return worst, why


def _wait(before: list[Path], stop: StopRequest) -> bool:
    """Until every stage before has ended, well or not. False if asked to stop meanwhile."""
    while any(not (place / "exit.json").exists() and _runs(place) for place in before):
        if stop:
            return False
        wait_briefly()
    return not stop


def _runs(place: Path) -> bool:
    process = read_object(place / "process.json")
    if process is None:
        return True  # the client has not written it yet
    return bool(start_ticks(int(process["pid"])) == process["start"])


def _code(place: Path) -> int | None:
    code = (read_object(place / "exit.json") or {}).get("code")
    return code if isinstance(code, int) else None


def _reason(directory: RunDirectory, stage: StageFile) -> str:
    """How the newest attempt of this stage ended, in its own words."""
    ends = [event for event in directory.ledger() if event["event"] == "end" and event.get("stage") == stage.stage]
    return str(ends[-1].get("reason", "")) if ends else ""


if __name__ == "__main__":
    sys.exit(main())
