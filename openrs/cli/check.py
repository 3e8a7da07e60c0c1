"""`openrs check`: validates an experiment and what it names on this machine."""

from __future__ import annotations

from openrs.cli.options import ExperimentName, Json, Overrides


def command(exp: ExperimentName, overrides: Overrides = None, json: Json = False) -> None:
    """Validate only: the spec, and the local files that it names."""
    from openrs.cli.output import print_json
    from openrs.launch import check_local_files
    from openrs.spec.canonical import sha256
    from openrs.spec.load import load_experiment

    experiment = load_experiment(exp, overrides)
    check_local_files(experiment)
    if json:
        print_json({"ok": True, "experiment": experiment.name, "hash": sha256(experiment)})
    else:
        print(f"ok {experiment.name} {sha256(experiment)}")
