"""`openrs watch`: shows a run's progress to its end, and lets go what waits for that."""

from __future__ import annotations

import typer

from openrs.cli.options import RUNS, Json, RunName, Runs


def command(run: RunName, runs: Runs = RUNS, json: Json = False) -> None:
    """Show a run's progress until it has ended, then its results.

    Of a run that was sent with --as-they-land, it sends each checkpoint's cells when the checkpoint is there. On Kubernetes it
    also lets the evaluation begin when training is complete (profiles with release = "watch" need it for that), and copies
    the run's files here at the end. Ctrl-C stops the watching, not the run. With --json: what `status --json` then says.
    """
    from openrs.cli.output import print_json, say
    from openrs.cli.progress import watch_run
    from openrs.errors import OpenRSError
    from openrs.runs.record import load
    from openrs.status import status

    record = load(runs, run)
    if not record.submissions:
        raise OpenRSError(f"run {run}: nothing of it has been sent; `openrs resume {run}` sends it")
    # With --json, standard output holds the JSON and nothing else.
    code = watch_run(record, runs, show=say if json else print)
    if json:
        print_json({"runs": [found.model_dump(mode="json") for found in status([load(runs, run)])]})
    raise typer.Exit(code)
