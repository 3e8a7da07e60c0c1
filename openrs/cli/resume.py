"""`openrs resume`: sends what of a run is not done."""

from __future__ import annotations

from openrs.cli.options import RUNS, Json, RunName, Runs


def command(run: RunName, runs: Runs = RUNS, json: Json = False) -> None:
    """Send what of a run is not done.

    That is training from the newest complete checkpoint, and the cells that are missing.
    """
    from openrs import launch
    from openrs.cli.output import print_json
    from openrs.cli.submit import sent

    record = launch.resume(runs, run)
    if json:
        print_json(sent(record))
    else:
        newest = record.submissions[-1]
        names = ", ".join(stage.name for stage in newest.stages)
        print(f"{run} resumed on {record.cluster.name}: {names} (submission {newest.number})")
