"""What can be known before anything is sent: better one line now than a pod that waits for ever."""

from __future__ import annotations

import re
from typing import Any

from openrs.engines.kubernetes.api import Api, Refused
from openrs.engines.kubernetes.manifest import AFTER, KUEUE_QUEUE
from openrs.errors import BadInput
from openrs.spec.cluster import Cluster

Object = dict[str, Any]

OLDEST = (1, 29)
"""First version that knows every field of the manifests."""

_GUARANTEES = {
    "podReplacementPolicy": "that no second trainer starts while the first may still write",
    "podFailurePolicy": "that an eviction is not counted as a failure, and that a wrong spec is not tried again",
    "backoffLimitPerIndex": "that a cell that fails does not end the others",
}
"""Field of a Job's spec → what is lost with it."""

_NO_UID = "00000000-0000-0000-0000-000000000000"
"""In place of the uid of a Job that is not made yet."""

_QUOTA = re.compile(r"exceeded quota: ([^,]+), requested: (\S+), used: (\S+), limited: (\S+)")


def check_server(api: Api, cluster: Cluster) -> None:
    """Raises BadInput for a server that is too old, unless the profile allows it."""
    version = api.version()
    if version < OLDEST and not cluster.allow_old_server:
        lost = "; ".join(_GUARANTEES.values())
        raise BadInput(
            f"cluster {cluster.name}: its Kubernetes {version[0]}.{version[1]} is older than {OLDEST[0]}.{OLDEST[1]} and cannot "
            f"promise {lost}; set allow_old_server = true in the profile to go without"
        )


def check_kept(sent: Object, kept: Object, cluster: Cluster) -> None:
    """Raises BadInput where the server dropped a field of a Job that it does not know, or has switched off.

    So too where a Job that must wait was put into a queue: Kueue does that if there is a LocalQueue `default`, and lets
    it go as soon as there is room, since nothing but `suspend` holds it.
    """
    for field, guarantee in _GUARANTEES.items():
        if field in sent["spec"] and field not in kept["spec"] and not cluster.allow_old_server:
            raise BadInput(
                f"cluster {cluster.name}: the server dropped {field}, and with it the promise {guarantee}; "
                f"set allow_old_server = true in the profile to go without"
            )
    after = sent["metadata"]["annotations"].get(AFTER)
    queue = kept["metadata"].get("labels", {}).get(KUEUE_QUEUE)
    if after is not None and queue is not None and KUEUE_QUEUE not in sent["metadata"]["labels"]:
        raise BadInput(
            f"cluster {cluster.name}: the server put Job {sent['metadata']['name']} into the Kueue queue {queue!r}, which would start "
            f"it before {after} is done; set namespace in the profile to one without a LocalQueue of this name, or have it renamed"
        )


def check_claims(api: Api, cluster: Cluster) -> None:
    """Raises BadInput for a claim that is not there. Says nothing where it may not look."""
    for volume in cluster.volumes:
        try:
            api.get("persistentvolumeclaims", volume.claim)
        except Refused as error:
            if error.status == 404:
                raise BadInput(
                    f"cluster {cluster.name}: volumes: there is no PersistentVolumeClaim {volume.claim!r} in namespace "
                    f"{api.namespace}; make it as deploy/README.md says, or name another"
                ) from None
            if error.status != 403:
                raise


def check_gpus(api: Api, cluster: Cluster, products: list[str]) -> None:
    """Raises BadInput where no node has one of these GPUs. Says nothing where it may not look, or there are no nodes yet."""
    if not products:
        return
    try:
        nodes = api.find("nodes")
    except Refused as error:
        if error.status == 403:
            return
        raise
    found = {node["metadata"].get("labels", {}).get(cluster.gpu_label) for node in nodes} - {None}
    if found and not found & set(products):
        raise BadInput(
            f"cluster {cluster.name}: no node has a GPU of product {', '.join(products)} (label {cluster.gpu_label}); the nodes have "
            f"{', '.join(sorted(map(str, found)))}; set gpu_products in the profile"
        )


def check_admission(api: Api, job: Object, cluster: Cluster) -> None:
    """Asks the server to admit a pod of `job` without making it: its refusals would else be events that nobody reads.

    The pod names the Job as its owner, as it will: many clusters refuse pods that have none.
    Raises BadInput with the server's message. Says nothing where pods may not be made by hand, nor where only what others
    use stands in the way: then it waits.
    """
    template, name = job["spec"]["template"], job["metadata"]["name"]
    # Without blockOwnerDeletion, which some servers grant only to who may change a Job's finalizers.
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": _NO_UID, "controller": True}
    labels = template["metadata"]["labels"]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"generateName": f"{name[:50]}-", "labels": labels, "ownerReferences": [owner]},
        "spec": template["spec"],
    }
    try:
        api.create("pods", pod, dry=True)
    except Refused as error:
        text = str(error)
        if error.status == 403 and " cannot " in text:
            return
        quota = _QUOTA.search(text)
        if quota is not None and not _exceeds(quota[2], quota[4]):
            return
        if error.status in (403, 422, 400):
            raise BadInput(f"{text}{way_out(text)}") from None
        raise


def way_out(text: str) -> str:
    """What to do about a refusal by the server's admission; empty where its words must do."""
    if "exceeded quota" in text:
        if "count/" in text:
            return "; delete what is finished (`kubectl get jobs`), or ask for a larger ResourceQuota"
        return "; ask for less in resources, or for a larger ResourceQuota"
    if "must specify limits" in text or "must specify requests" in text:
        return "; the quota wants a limit that the Job does not state"
    if "violates PodSecurity" in text:
        return "; the profile asks for more than the namespace's Pod Security allows"
    if "no PriorityClass" in text:
        return "; make it as deploy/ does, or set priority_class and cell_priority_class in the profile"
    if "service account" in text:
        return "; make it as deploy/ does, or set service_account in the profile"
    return ""


def _exceeds(requested: str, limited: str) -> bool:
    """Whether one pod alone asks for more than the quota holds (quantities of Kubernetes, as in the message)."""
    limits = dict(part.split("=", 1) for part in limited.split(","))
    return any(
        quantity(amount) > quantity(limits[name])
        for name, amount in (part.split("=", 1) for part in requested.split(","))
        if name in limits
    )


def quantity(text: str) -> float:
    """A Kubernetes quantity such as `200Gi` or `100m` as a number."""
    match = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", text)
    if match is None:
        return 0.0
    power: dict[str, float] = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50}
    power |= {"m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
    return float(match[1]) * power.get(match[2], 1.0)
