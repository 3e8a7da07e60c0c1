"""`openrs show`: the resolved spec and its hash."""

from __future__ import annotations

from openrs.cli.options import ExperimentName, Json, Overrides


def command(exp: ExperimentName, overrides: Overrides = None, json: Json = False) -> None:
    """Resolved spec and its hash. The output is itself a file that `openrs` reads."""
    from openrs.spec.canonical import sha256
    from openrs.spec.load import load_experiment

    experiment = load_experiment(exp, overrides)
    content = experiment.model_dump(mode="json")
    if json:
        from openrs.cli.output import print_json

        print_json({"experiment": content, "hash": sha256(experiment)})
        return
    import yaml

    from openrs.cli.output import as_utf8

    as_utf8()
    print(f"# {sha256(experiment)}")
    print(yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120), end="")
