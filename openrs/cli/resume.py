"""`openrs resume`: sends what of a run is not done."""

from __future__ import annotations

from typing import Annotated

import typer

from openrs.cli.options import RUNS, Json, Overrides, RunName, Runs


def command(
    run: RunName,
    overrides: Overrides = None,
    allow_change: Annotated[
        bool,
        typer.Option(
            "--allow-change",
            help="Go on with a spec that differs in logging, retention, recovery or time limits.",
            show_default=False,
        ),
    ] = False,
    runs: Runs = RUNS,
    json: Json = False,
) -> None:
    """Send what of a run is not done.

    That is training from the newest complete checkpoint, and the cells that are missing. It goes on with the spec that was
    sent; a spec that differs is refused, unless no result depends on what differs and --allow-change says so.
    """
    from openrs import launch
    from openrs.cli.output import print_json, say
    from openrs.cli.submit import sent

    record = launch.resume(runs, run, overrides, allow_change=allow_change)
    fields = [] if overrides else launch.drifted(record)
    if fields and record.asked:
        names = ", ".join(fields[:3]) + (" …" if len(fields) > 3 else "")
        say(f"openrs: {record.asked.experiment} says otherwise by now ({names}); {run} goes on as it was sent")
    if json:
        print_json(sent(record))
    else:
        newest = record.submissions[-1]
        names = ", ".join(stage.name for stage in newest.stages)
        print(f"{run} resumed on {record.cluster.name}: {names} (submission {newest.number})")
