"""Filling the manifests of `k8s/` in as data: parse, set, dump. Pure and offline."""

from __future__ import annotations

import re
from functools import cache
from hashlib import sha256
from typing import Any

import yaml

from openrs.engines import Place
from openrs.errors import BadInput
from openrs.plan import Plan, Stage
from openrs.resources import shipped
from openrs.spec.cluster import Cluster
from openrs.spec.experiment import Spec
from openrs.spec.kubernetes import SUBDOMAIN
from openrs.stage import SECRET_PREFIX

Object = dict[str, Any]

RUN, STAGE, SUBMISSION = "openrs.dev/run", "openrs.dev/stage", "openrs.dev/submission"
"""Labels of everything that openrs makes in a cluster."""
SPEC, AFTER, QUEUE = "openrs.dev/spec", "openrs.dev/after", "openrs.dev/queue"
"""Annotations: hash of the experiment; the Job that this one waits for; the queue that it joins when it is released."""
SENDING = "openrs.dev/sending"
"""Annotation of a Job on the server, a word that each sending draws: by it alone is a Job known as made by that one."""
KUEUE_QUEUE, KUEUE_SECONDS = "kueue.x-k8s.io/queue-name", "kueue.x-k8s.io/max-exec-time-seconds"
"""Labels that Kueue reads (Kueue, "Labels and Annotations")."""

CONTAINER = "worker"
"""Name of the container that runs openrs, in every pod of `k8s/`. A cluster may put others beside it, e.g. a mesh's proxy."""

MARGIN_SECONDS = 10
"""What a pod gets beyond the supervisor's grace, for its last words."""

_CONFIG_LIMIT = 1_000_000
"""Bytes of a ConfigMap (Kubernetes refuses more than 1 MiB)."""

_LONGEST_VARIABLE = 128 * 1024 - 1
"""Bytes of `NAME=value` (MAX_ARG_STRLEN of Linux, with the closing NUL)."""

_TAKEN = ("JOB_COMPLETION_INDEX", "OPENRS_NODE", "OPENRS_POD", "OPENRS_HANDLE", "OPENRS_IMAGE")
"""What a worker believes of its environment. Kubernetes sets no index where there is one already."""

_LABEL = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_PLAIN = re.compile(r"v1|[A-Za-z][A-Za-z0-9._/ -]+[A-Za-z0-9]")
_SECRET = re.compile(rf"(?=.{{1,253}}/)({SUBDOMAIN.pattern})/(?!\.\.|\.$)(?P<key>[-._A-Za-z0-9]{{1,253}})")


def job_name(place: Place, stage: str) -> str:
    """`<run>-<stage>-<submission>`; at most 57 characters, so that its pods have valid host names too."""
    return f"{place.run}-{stage}-{place.submission}".lower()


def label_value(text: str) -> str:
    """`text` where it is a label value, else what of it is one, and a hash that keeps it apart from others."""
    if _LABEL.fullmatch(text):
        return text
    digest = sha256(text.encode()).hexdigest()[:8]
    return f"{re.sub(r'[^A-Za-z0-9]+', '-', text)[:50].strip('-')}-{digest}".lstrip("-")


def render_stage(
    stage: Stage, experiment: Spec, plan: Plan, place: Place, cluster: Cluster, files: dict[str, str]
) -> str:
    """The ConfigMap and the Job of a stage, as a YAML text that `kubectl apply -f` takes; `files` go into the former.

    Raises BadInput for what Kubernetes could not carry.
    """
    return dump([_config(stage, plan, place, cluster, files), _job(stage, experiment, plan, place, cluster)])


def read(text: str) -> tuple[Object, Object]:
    """ConfigMap and Job of what `render_stage` gave."""
    config, job = yaml.load_all(text, yaml.CSafeLoader)
    return config, job


def dump(objects: list[Object]) -> str:
    """YAML of several objects that every reader, of YAML 1.1 or 1.2, reads alike."""
    return "".join("---\n" + yaml.dump(item, Dumper=_Dumper, sort_keys=False, width=10**9) for item in objects)


def reader(place: Place, cluster: Cluster) -> Object:
    """The pod through which `openrs pull` reads."""
    pod = _shipped("reader.yaml")
    labels = cluster.labels | pod["metadata"]["labels"] | _own_labels(place)
    pod["metadata"] |= {"namespace": cluster.namespace, "labels": labels}
    if cluster.namespace is None:
        del pod["metadata"]["namespace"]
    _fill_pod(pod["spec"], cluster)
    for mount in pod["spec"]["containers"][0]["volumeMounts"]:
        mount["readOnly"] = mount["name"] != "scratch"
    return pod


def _config(stage: Stage, plan: Plan, place: Place, cluster: Cluster, files: dict[str, str]) -> Object:
    config = _shipped("config.yaml")
    config["metadata"] = _metadata(config["metadata"], stage, plan, place, cluster)
    config["data"] = files
    size = sum(len(name) + len(text.encode()) for name, text in files.items())
    if size > _CONFIG_LIMIT:
        raise BadInput(
            f"stage {stage.name}: what its jobs are told needs {size} bytes, and a ConfigMap holds {_CONFIG_LIMIT}; "
            + (
                f"lower array_limit = {cluster.array_limit} or cells_per_task = {cluster.cells_per_task} in cluster {cluster.name}"
                if len(files.get("cells.json", "")) > size / 2
                else "shorten the longest texts of the experiment"
            )
        )
    return config


def _job(stage: Stage, experiment: Spec, plan: Plan, place: Place, cluster: Cluster) -> Object:
    job = _shipped("train.yaml" if stage.kind == "train" else "cells.yaml")
    job["metadata"] = _metadata(job["metadata"], stage, plan, place, cluster)
    annotations, spec, waits = job["metadata"]["annotations"], job["spec"], bool(stage.after)
    if stage.tasks is not None:
        attempts = experiment.recovery.max_attempts
        spec |= {"completions": len(stage.tasks), "parallelism": stage.parallel, "maxFailedIndexes": len(stage.tasks)}
        spec["backoffLimitPerIndex"] = attempts
        annotations.pop(AFTER, None)
        if waits:
            annotations[AFTER] = job_name(place, stage.after[0])
    else:
        spec["backoffLimit"] = experiment.recovery.max_attempts
    spec["suspend"] = waits
    spec["ttlSecondsAfterFinished"] = cluster.ttl_seconds
    if cluster.queue is not None:
        _enqueue(job, stage, experiment, cluster.queue)
    spec["template"]["metadata"]["labels"] = job["metadata"]["labels"] | {}
    pod = spec["template"]["spec"]
    pod["terminationGracePeriodSeconds"] = experiment.recovery.grace_seconds + MARGIN_SECONDS
    priority = cluster.priority_class if stage.kind == "train" else cluster.cell_priority_class
    if priority is not None:
        pod["priorityClassName"] = priority
    _account(pod, stage, cluster)
    _fill_pod(pod, cluster)
    _resources(pod, stage, cluster)
    _place_pod(pod, stage, job["metadata"]["name"], cluster)
    _environment(pod["containers"][0], experiment, job["metadata"]["name"], cluster)
    pod["volumes"][0]["configMap"]["name"] = job["metadata"]["name"]
    return job


def _metadata(metadata: Object, stage: Stage, plan: Plan, place: Place, cluster: Cluster) -> Object:
    labels = cluster.labels | metadata["labels"] | _own_labels(place)
    labels |= {
        "openrs.dev/experiment": label_value(plan.experiment),
        STAGE: stage.name,
        SUBMISSION: str(place.submission),
    }
    annotations = metadata["annotations"] | {SPEC: plan.hash, RUN: place.run, "openrs.dev/experiment": plan.experiment}
    named = {"name": job_name(place, stage.name)}
    if cluster.namespace is not None:
        named["namespace"] = cluster.namespace
    return {**named, "labels": labels, "annotations": annotations}


def _own_labels(place: Place) -> dict[str, str]:
    return {RUN: label_value(place.run)}


def _enqueue(job: Object, stage: Stage, experiment: Spec, queue: str) -> None:
    """Under Kueue: it suspends and releases Jobs itself, and would release what it knows of.

    So what waits for training joins the queue only when it is released, and nothing else is suspended by us.
    """
    if stage.parallel > 1:
        # Else it admits an array only when all that may run at once fit.
        job["metadata"]["annotations"]["kueue.x-k8s.io/job-min-parallelism"] = "1"
    minutes = stage.resources.minutes * experiment.recovery.max_attempts
    job["metadata"]["labels"][KUEUE_SECONDS] = str(
        min(minutes * 60, 2**31 - 1)
    )  # Kueue adds up the attempts, in an int32
    if stage.after:
        job["metadata"]["annotations"][QUEUE] = queue
    else:
        job["metadata"]["labels"][KUEUE_QUEUE] = queue
        del job["spec"]["suspend"]


def _account(pod: Object, stage: Stage, cluster: Cluster) -> None:
    """Only a training pod that releases the evaluation has a token."""
    trusted = stage.kind == "train" and cluster.release == "worker" and cluster.service_account is not None
    pod["automountServiceAccountToken"] = trusted
    pod.pop("serviceAccountName", None)
    if trusted:
        pod["serviceAccountName"] = cluster.service_account


def _fill_pod(pod: Object, cluster: Cluster) -> None:
    """What all pods share: image, user, volumes, command, and the nodes that the profile allows."""
    user = cluster.run_as_user
    pod["securityContext"] |= {"runAsUser": user, "runAsGroup": user, "fsGroup": user}
    if cluster.image_pull_secrets:
        pod["imagePullSecrets"] = [{"name": name} for name in cluster.image_pull_secrets]
    container = pod["containers"][0]
    if cluster.image is None:
        raise BadInput(
            f"cluster {cluster.name}: image is not set; name one by digest in openrs.toml: "
            f'[clusters.{cluster.name}] image = "…@sha256:…"'
        )
    container["image"] = cluster.image
    container["command"][0] = escaped(cluster.python or container["command"][0])
    variables = {variable["name"]: variable for variable in container["env"]}
    variables |= {name: {"name": name, "value": escaped(value)} for name, value in cluster.environment.items()}
    container["env"] = list(variables.values())
    for number, volume in enumerate(cluster.volumes, start=1):
        claim = {"claimName": volume.claim} | ({"readOnly": True} if volume.read_only else {})
        pod["volumes"].append({"name": f"volume-{number}", "persistentVolumeClaim": claim})
        mount = {"name": f"volume-{number}", "mountPath": volume.path} | (
            {"readOnly": True} if volume.read_only else {}
        )
        container["volumeMounts"].append(mount)
    if cluster.node_selector:
        pod["nodeSelector"] = dict(cluster.node_selector)
    if cluster.tolerations:
        pod["tolerations"] = [toleration.model_dump(exclude_none=True) for toleration in cluster.tolerations]


def check_environment(cluster: Cluster) -> None:
    """Raises BadInput for variables that would break what openrs or Kubernetes sets, or that no process could be given."""
    for name, value in cluster.environment.items():
        if name in _TAKEN:
            raise BadInput(
                f"cluster {cluster.name}: environment.{name}: set by openrs or Kubernetes itself; leave it out"
            )
        size = len(f"{name}={value}".encode())
        if size > _LONGEST_VARIABLE:
            raise BadInput(
                f"cluster {cluster.name}: environment.{name}: {size} bytes, and Linux starts no process with one of more "
                f"than {_LONGEST_VARIABLE}; put it into a file on a volume"
            )


def _resources(pod: Object, stage: Stage, cluster: Cluster) -> None:
    resources = stage.resources
    shared = cluster.shm_gb if resources.gpus else 1
    amounts = {"cpu": str(resources.cpus), "memory": f"{resources.memory_gb + shared}Gi"}
    if resources.gpus:
        amounts[cluster.gpu_resource] = str(resources.gpus)
    pod["containers"][0]["resources"] = {"requests": amounts, "limits": {**amounts}}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    volumes["scratch"]["emptyDir"]["sizeLimit"] = f"{cluster.scratch_gb}Gi"
    volumes["shm"]["emptyDir"]["sizeLimit"] = f"{shared}Gi"


def _place_pod(pod: Object, stage: Stage, name: str, cluster: Cluster) -> None:
    """Which nodes among those will do."""
    products = accepted_products(stage, cluster)
    if products:
        terms = [{"matchExpressions": [{"key": cluster.gpu_label, "operator": "In", "values": products}]}]
        required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
        pod["affinity"] = {"nodeAffinity": required}
    if cluster.spread is not None and stage.tasks is not None:
        selector = {"matchLabels": {"batch.kubernetes.io/job-name": name}}
        spread = {"maxSkew": 1, "topologyKey": cluster.spread, "whenUnsatisfiable": "ScheduleAnyway"}
        pod["topologySpreadConstraints"] = [spread | {"labelSelector": selector}]


def accepted_products(stage: Stage, cluster: Cluster) -> list[str]:
    """Values of the nodes' GPU label that will do for the stage; empty where any will."""
    kind = stage.resources.gpu_type
    if not stage.resources.gpus or kind is None:
        return []
    products = cluster.gpu_products.get(kind, [kind])
    if not products:
        raise BadInput(f"cluster {cluster.name}: gpu_products.{kind} is empty; name a product, e.g. NVIDIA-A40")
    for product in products:
        if not _LABEL.fullmatch(product):
            raise BadInput(
                f"resources.gpu_type = {kind!r} is no value of a node label; translate it in cluster {cluster.name}: "
                f'gpu_products = {{"{kind}" = ["NVIDIA-A40"]}}'
            )
    return products


def _environment(container: Object, experiment: Spec, name: str, cluster: Cluster) -> None:
    """What the supervisor reads from its environment, and the secrets."""
    variables: dict[str, Object] = {variable["name"]: variable for variable in container["env"]}
    for variable, value in (("OPENRS_HANDLE", name), ("OPENRS_IMAGE", cluster.image)):
        variables[variable] = {"name": variable, "value": value}
    for name, reference in experiment.secrets.items():
        match = _SECRET.fullmatch(reference.removeprefix("secret:"))
        if not reference.startswith("secret:") or match is None:
            raise BadInput(
                f"secrets.{name} = {reference}: on Kubernetes use secret:NAME/KEY, a key of a Secret in the namespace"
            )
        variable = f"{SECRET_PREFIX}{name}"
        source = {"name": match[1], "key": match["key"], "optional": False}  # a pod without it must not start
        variables[variable] = {"name": variable, "valueFrom": {"secretKeyRef": source}}
    container["env"] = list(variables.values())


def escaped(text: str) -> str:
    """`text` so that Kubernetes, which expands `$(NAME)` in commands and environments, gives it back unchanged."""
    return text.replace("$", "$$") if "$(" in text or "$$" in text else text


@cache
def _text(name: str) -> str:
    return (shipped("k8s") / name).read_text(encoding="utf-8")


def _shipped(name: str) -> Object:
    content: Object = yaml.load(_text(name), yaml.CSafeLoader)
    return content


class _Dumper(yaml.CSafeDumper):
    """Strings are quoted unless no reader can take them for anything else; lists are indented as kubectl does."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _string(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    lines = text.split("\n")
    block = len(lines) > 1 and text.isascii() and all(line.isprintable() and line == line.rstrip() for line in lines)
    style = "|" if block else None if _PLAIN.fullmatch(text) else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _string)
