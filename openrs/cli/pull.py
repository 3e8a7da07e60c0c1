"""`openrs pull`: copies a run's files here, where its cluster keeps them out of sight."""

from __future__ import annotations

import time
from pathlib import Path

from openrs.cli.options import RUNS, Json, RunName, Runs


def command(run: RunName, runs: Runs = RUNS, json: Json = False) -> None:
    """Copy a run's files here, without checkpoints.

    On Kubernetes they are read through one of its pods, or one that is made for this. Other engines' runs are here already.
    """
    from openrs.cli.output import now_and_then, print_json
    from openrs.pull import pull
    from openrs.runs.record import load

    record = load(runs, run)
    here, began = Path(record.dir), time.time()
    with now_and_then(lambda: _progress(here, began)):
        count = pull(record)
    if json:
        print_json({"run": run, "dir": record.dir, "files": count or 0})
    elif count is None:
        print(f"{run}: its files are here already, in {record.dir}")
    else:
        print(f"{run}: {count} files copied to {record.dir}")


def _progress(directory: Path, since: float) -> str:
    """How many files were written there by now. They come and go meanwhile."""
    count = 0
    for path in directory.rglob("*"):
        try:
            count += path.is_file() and path.stat().st_mtime >= since
        except OSError:
            continue
    return f"{count} files so far" if count else "waiting for a pod that reads the files"
