"""`openrs cancel`: stops a run for good."""

from __future__ import annotations

from openrs.cli.options import RUNS, RunName, Runs


def command(run: RunName, runs: Runs = RUNS) -> None:
    """Stop a run for good; it saves its state first."""
    from openrs import launch
    from openrs.cli.output import now_and_then

    with now_and_then(lambda: f"{run}: waiting until it has saved and stopped"):
        launch.cancel(runs, run)
    print(f"{run} cancelled; `openrs resume {run}` goes on from its newest checkpoint")
