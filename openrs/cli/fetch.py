"""`openrs fetch`: model and data of an experiment into the cluster's cache."""

from __future__ import annotations

from openrs.cli.options import ClusterName, ExperimentName, Json, Overrides


def command(exp: ExperimentName, cluster: ClusterName, overrides: Overrides = None, json: Json = False) -> None:
    """Fetch model and data at their revisions into the cache that the jobs read, before they run without the Hub.

    Runs on this machine: for Slurm on a login node, whose home or HF_HOME the nodes share.
    """
    from openrs.cli.output import print_json
    from openrs.data.fetch import in_environment_of
    from openrs.errors import BadInput
    from openrs.report.text import one_line
    from openrs.spec.load import load_cluster, load_experiment

    experiment, profile = load_experiment(exp, overrides), load_cluster(cluster)
    if profile.engine == "kubernetes":
        raise BadInput(
            f"cluster {cluster}: its jobs fetch for themselves, into HF_HOME of the profile's environment; "
            f"put that on one of its volumes, so that they fetch once"
        )
    found = []
    for item in in_environment_of(profile, experiment):
        found.append(item)
        if not json:
            size = f"{item['rows']} rows" if "rows" in item else f"{item['bytes'] / 2**20:.0f} MiB"
            print(
                one_line(
                    f"{item['kind']} {item['name']} at {item['commit'] or item['revision']}: {size}, {item['seconds']} s"
                )
            )
    if json:
        print_json({"experiment": experiment.name, "cluster": profile.name, "fetched": found})
    elif not found:
        print(f"{experiment.name} takes nothing from the Hub")
