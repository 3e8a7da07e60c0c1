"""`openrs eval`: evaluates checkpoints of a run, or any model."""

from __future__ import annotations

from typing import Annotated

import typer

from openrs.cli.options import RUNS, ClusterOption, Json, NewRun, Overrides, Runs, _complete_run


def command(
    subject: Annotated[
        str,
        typer.Argument(
            metavar="RUN|MODEL",
            help="Id of a run, a model's directory, or a repository of the Hub.",
            show_default=False,
            autocompletion=_complete_run,
        ),
    ],
    checkpoint: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Of a run: base or step-000050. Repeatable.", show_default=False),
    ] = None,
    benchmarks: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME,…", help="Benchmarks, or YAML files; by default all.", show_default=False),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(metavar="N", help="So many seeds of each, 0 to N - 1.", show_default=False)
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="The full protocol: each benchmark's full_seeds.", show_default=False)
    ] = False,
    revision: Annotated[
        list[str] | None,
        typer.Option(metavar="REV", help="Revision of a Hub repository. Repeatable.", show_default=False),
    ] = None,
    cluster: ClusterOption = None,
    run: NewRun = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show progress to the end, then the results.", show_default=False)
    ] = False,
    overrides: Overrides = None,
    runs: Runs = RUNS,
    json: Json = False,
) -> None:
    """Evaluate a checkpoint of a run, or any model.

    What is done is not done again. A model's evaluation is a run of its own, without training.
    """
    from openrs.cli.output import print_json, say
    from openrs.cli.submit import sent
    from openrs.errors import BadInput
    from openrs.runs.record import run_names

    if seeds is not None and (seeds < 1 or full):
        raise BadInput(
            "--seeds and --full are two protocols; choose one"
            if seeds >= 1
            else f"--seeds {seeds}: at least 1, or --full for each benchmark's own number"
        )
    names = [name.strip() for entry in benchmarks or [] for name in entry.split(",") if name.strip()]
    if benchmarks and not names:
        raise BadInput("--benchmarks is empty; name some, e.g. aime24,math_500, or leave it out for all")
    wanted = None if seeds is None else list(range(seeds))
    if subject in run_names(runs):
        of_models = {"--cluster": cluster, "--revision": revision, "--run": run, "--set": overrides}
        wrong = next((option for option, value in of_models.items() if value), None)
        if wrong is not None:
            raise BadInput(f"{wrong}: {subject} is a run; its evaluation goes where it is, as it was sent")
        from openrs.evals import evaluate_run, example

        if not checkpoint:
            raise BadInput(f"--checkpoint is missing: {example(runs, subject)}")
        record, count = evaluate_run(runs, subject, checkpoint, names, wanted, full)
        said = f"{count} cells sent" if count else "nothing to send: every cell is done or under way"
    else:
        if checkpoint:
            raise BadInput(f"--checkpoint: there is no run {subject!r}; a model's checkpoints are its --revision")
        if cluster is None:
            raise BadInput("--cluster is missing: where to evaluate this model; `openrs list` shows the profiles")
        from openrs import launch
        from openrs.evals import model_evaluation
        from openrs.spec.benchmarks import shipped
        from openrs.spec.load import load_cluster

        profile = load_cluster(cluster)
        spec = model_evaluation(
            subject, profile, names or list(shipped()), revision or [], wanted, full, overrides or []
        )
        record = launch.submit(spec, profile, runs, run)
        said = f"{sum(len(stage.cells) for stage in record.submissions[-1].stages)} cells sent"
    if json:
        print_json(sent(record))
    else:
        print(record.run, flush=True)
        say(
            f"openrs: {said}; `openrs status {record.run}` shows how it goes, `openrs report {record.run}` what it found"
        )
    if watch:
        from openrs.cli.progress import watch_run

        raise typer.Exit(watch_run(record, runs, show=say if json else print))
