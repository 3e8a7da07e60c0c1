"""`openrs list`: experiments and clusters known here."""

from __future__ import annotations

from openrs.cli.options import Json


def command(json: Json = False) -> None:
    """Experiments and clusters known here."""
    from openrs.cli.output import print_json
    from openrs.report.fidelity import by_family, family
    from openrs.report.text import one_line, table
    from openrs.spec.canonical import sha256
    from openrs.spec.load import cluster_names, load_cluster, load_experiment, shipped_experiments

    experiments = by_family({name: load_experiment(name) for name in shipped_experiments()})
    clusters = [load_cluster(name) for name in cluster_names()]
    if json:
        found = [
            {"name": name, "title": experiment.title, "fidelity": experiment.fidelity, "hash": sha256(experiment)}
            for name, experiment in experiments.items()
        ]
        print_json(
            {
                "experiments": found,
                "clusters": [{"name": cluster.name, "engine": cluster.engine} for cluster in clusters],
            }
        )
        return
    rows = [
        # A version of the experiment above it is indented.
        (name if family(name, experiment) == name else f"  {name}", experiment.fidelity, one_line(experiment.title))
        for name, experiment in experiments.items()
    ]
    print(table(("EXPERIMENT", "FIDELITY", "TITLE"), rows))
    print()
    print(table(("CLUSTER", "ENGINE"), [(cluster.name, cluster.engine) for cluster in clusters]))
