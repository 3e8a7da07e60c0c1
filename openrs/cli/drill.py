"""`openrs drill`: whether a run survives being killed here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from openrs.cli.options import RUNS, Json, Overrides, Runs

if TYPE_CHECKING:
    from openrs.drill.run import Outcome


def command(
    kills: Annotated[int, typer.Option("--kills", min=1, max=10_000, metavar="N", help="How often to kill.")] = 50,
    cluster: Annotated[str, typer.Option("--cluster", metavar="C", help="Profile, see `openrs list`.")] = "local",
    every: Annotated[
        int, typer.Option("--every", min=1, max=1000, metavar="N", help="Steps between two checkpoints.")
    ] = 1,
    ranks: Annotated[int, typer.Option("--ranks", min=1, max=64, metavar="N", help="Training processes (ZeRO-2).")] = 1,
    save_seconds: Annotated[
        float,
        typer.Option("--save-seconds", min=0.0, max=600.0, metavar="S", help="Make every save last so long."),
    ] = 0.0,
    overrides: Overrides = None,
    runs: Runs = RUNS,
    json: Json = False,
) -> None:
    """Kill a tiny run again and again, and say whether it ends as if nothing had happened.

    One run is left alone; others are killed by SIGKILL at instants spread evenly over the phases of a step (generation,
    journal, step, save, rename), half of them together with what was not yet on disk, and resumed. Weights, metrics and
    completions must be the same to the last bit. Ends with 0 if they are, else with 1. Every kill costs a start of Python and
    torch, on a cluster a job.
    """
    from openrs.cli.output import print_json, say
    from openrs.drill.instants import spread
    from openrs.drill.run import Drill
    from openrs.spec.load import load_cluster

    profile = load_cluster(cluster)
    period = 0.2 if profile.engine == "local" else 2.0
    drill = Drill(
        profile,
        runs,
        every_steps=every,
        ranks=ranks,
        save_seconds=save_seconds,
        overrides=overrides,
        say=say,
        period=period,
    )
    outcome = drill.run(spread(kills, ranks))
    if json:
        print_json(outcome.to_json())
    else:
        _show(outcome)
    raise typer.Exit(0 if outcome.passed else 1)


def _show(outcome: Outcome) -> None:
    from openrs.report.text import one_line, table

    found = outcome.to_json()
    rows = [
        (phase, of["kills"], of["power_cuts"], of["with_supervisor"], f"{of['largest_gap']:.2f}")
        for phase, of in found["phases"].items()
    ]
    print(table(("killed in", "kills", "power cuts", "with supervisor", "widest gap"), rows, right=range(1, 5)))
    equal = ", ".join(f"{what} {'equal' if same else 'NOT equal'}" for what, same in found["equal"].items())
    lost = found["lost"]
    print(f"{outcome.recovered} of {outcome.asked} kills recovered; {equal}")
    print(
        f"trained again: {lost['steps']} steps, at most {lost['most_steps']} after a kill ({lost['allowed_steps']} allowed); "
        f"generated again: {lost['generations']}"
    )
    for trial in outcome.trials:
        for text in trial.differences:
            print(one_line(f"{trial.run}: {text}"))
