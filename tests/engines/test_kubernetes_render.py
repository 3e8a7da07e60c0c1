"""Manifests hold whatever a user writes, or refuse it: every reader of YAML gets the same values, and Kubernetes the same text.

No cluster here. What a real server says of the same manifests is in test_kubernetes_bed.py.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from openrs.engines import Artifacts, Place, engine_for
from openrs.engines.kubernetes.manifest import SPEC, dump, escaped, job_name, label_value
from openrs.errors import BadInput
from openrs.plan import make_plan
from openrs.spec.base import RUN_ID
from openrs.spec.canonical import pretty
from openrs.spec.cluster import Cluster
from openrs.spec.experiment import Experiment
from openrs.spec.load import load_cluster, load_experiment

Object = dict[str, Any]

IMAGE = "registry.example/openrs/train@sha256:" + "0123456789abcdef" * 4
K8S = Cluster.model_validate({**load_cluster("k8s").model_dump(), "image": IMAGE})
SMOKE = load_experiment("smoke", ["evaluation.at_steps=[]"])
GPUS = load_experiment("exp3", ["evaluation.at_steps=[]"])

ODD = [
    *("$(HOME)", "$$(X)", "$$$", "$", "a$b", "$(", "$)", "$$$(HOME)$", "$(OPENRS_NODE)", "1e3", "1_000", "0x1F", "0o17", "010"),
    *("y", "n", "yes", "No", "on", "OFF", "true", "null", "Null", "~", "=", "<<", ".inf", ".nan", "nan", "1:30", "2026-11-23"),
    *("", " ", "a ", " a", "\ta", "a\n", "\na", "\n\n", "a\n\n  b\n", "# a", "a # b", "a: b", "- a", "---", "...", "? a", "| ", ">-"),
    *("&a", "*a", "!a", "%a", "@a", "`a", "'", '"', "''", '""', "\\", "\\n", "a\\", "{a}", "[a", "{{ .x }}", "a\r\nb", "a\rb"),
    *("\x7f", "\x85", "\u2028", "\u2029", "\ufeff", "\ufffe", "e\u0301", "\U0001f600", "\u202e", "\xa0", "日本語", "a" * 300),
    *("a" * 5000, "a b " * 500, "line\n" * 500, "\x1b[31m", "--- \nkind: Pod\n"),
]  # fmt: skip
NASTY = st.one_of(
    st.sampled_from(ODD),
    st.text(st.one_of(st.characters(), st.sampled_from("'\"\\$(){}[]#:-?&*!|>%@`~ \n\r\t\x85\u2028=.")), max_size=30),
    st.from_regex(r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,70}", fullmatch=True),
    st.from_regex(r"[a-z0-9]([-a-z0-9]{0,40}[a-z0-9])?", fullmatch=True),
    st.from_regex(r"([a-z0-9][-a-z0-9.]{0,30}/)?[a-zA-Z0-9][a-zA-Z0-9._-]{0,70}", fullmatch=True),
    st.sampled_from(["train", "train:2", "a/b:1"]).map(lambda name: f"registry.example:5000/{name}"),
)
PATH = st.one_of(NASTY, NASTY.map(lambda text: f"/{text}"), NASTY.map(lambda text: f"/openrs/{text}"))


def render(experiment: Experiment = SMOKE, run: str = "r", **fields: Any) -> Artifacts:
    cluster = Cluster.model_validate({**K8S.model_dump(), **fields})
    place = Place(run, Path(cluster.shared_root or "/") / "runs" / run)
    return engine_for(cluster).render(experiment, make_plan(experiment, cluster), place)


def stage(artifacts: Artifacts, name: str = "train") -> tuple[Object, Object]:
    """ConfigMap and Job, as PyYAML reads them."""
    config, job = yaml.safe_load_all(artifacts.files[f"{name}/job.yaml"])
    return config, job


def pod(job: Object) -> Object:
    spec: Object = job["spec"]["template"]["spec"]
    return spec


def variables(job: Object) -> dict[str, Object]:
    return {item["name"]: item for item in pod(job)["containers"][0]["env"]}


def expand(text: str) -> str:
    """What a container gets (Kubernetes, third_party/forked/golang/expansion): `$$` is `$`, `$(NAME)` is a variable."""
    return re.sub(
        r"\$(?:\$|\(([^)]*)\)|)",
        lambda match: "$" if match[0] == "$$" else f"<{match[1]}>" if match[1] is not None else match[0],
        text,
        flags=re.S,
    )


LABEL = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")
DNS = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
KEY = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")


def assert_names(config: Object, job: Object) -> None:
    """As apimachinery's validation wants them (the expressions are its own)."""
    assert config["metadata"]["name"] == job["metadata"]["name"] == pod(job)["volumes"][0]["configMap"]["name"]
    assert DNS.fullmatch(job["metadata"]["name"])
    assert len(f"{job['metadata']['name']}-{(job['spec']['completions'])}") <= 63, "host name of its pods"
    assert job["spec"]["template"]["metadata"]["labels"].items() >= job["metadata"]["labels"].items()
    for item in (config["metadata"], job["metadata"], job["spec"]["template"]["metadata"]):
        for key, value in item["labels"].items():
            assert KEY.fullmatch(key) and len(key.rpartition("/")[2]) <= 63, key
            assert isinstance(value, str) and LABEL.fullmatch(value) and len(value) <= 63, value


Setter = Callable[[str], Object]
Getter = Callable[[Object], Any]


def _toleration(job: Object) -> Object:
    item: Object = pod(job)["tolerations"][0]
    return item


FIELDS: dict[str, tuple[Setter, Getter]] = {
    "namespace": (lambda v: {"namespace": v}, lambda job: job["metadata"]["namespace"]),
    "image": (lambda v: {"image": v}, lambda job: pod(job)["containers"][0]["image"]),
    "pull": (lambda v: {"image_pull_secrets": [v]}, lambda job: pod(job)["imagePullSecrets"][0]["name"]),
    "python": (lambda v: {"python": v}, lambda job: expand(pod(job)["containers"][0]["command"][0])),
    "variable": (lambda v: {"environment": {v: "x"}}, lambda job: next(k for k, i in variables(job).items() if i.get("value") == "x")),
    "value": (lambda v: {"environment": {"X": v}}, lambda job: expand(variables(job)["X"]["value"])),
    "account": (lambda v: {"service_account": v}, lambda job: pod(job)["serviceAccountName"]),
    "resource": (
        lambda v: {"gpu_resource": v},
        lambda job: next(k for k, n in pod(job)["containers"][0]["resources"]["limits"].items() if n == "4"),
    ),
    "gpu_label": (lambda v: {"gpu_label": v}, lambda job: _term(job)["key"]),
    "product": (lambda v: {"gpu_products": {"A40": ["x", v]}}, lambda job: _term(job)["values"][1]),
    "selector key": (lambda v: {"node_selector": {v: "x"}}, lambda job: next(iter(pod(job)["nodeSelector"]))),
    "selector": (lambda v: {"node_selector": {"k": v}}, lambda job: pod(job)["nodeSelector"]["k"]),
    "taint key": (lambda v: {"tolerations": [{"key": v}]}, lambda job: _toleration(job)["key"]),
    "taint": (lambda v: {"tolerations": [{"key": "k", "operator": "Equal", "value": v}]}, lambda job: _toleration(job)["value"]),
    "priority": (lambda v: {"priority_class": v}, lambda job: pod(job)["priorityClassName"]),
    "queue": (lambda v: {"queue": v}, lambda job: job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"]),
    "label key": (lambda v: {"labels": {v: "x-y"}}, lambda job: next(k for k, n in job["metadata"]["labels"].items() if n == "x-y")),
    "label": (lambda v: {"labels": {"k": v}}, lambda job: job["metadata"]["labels"]["k"]),
    "claim": (
        lambda v: {"volumes": [{"claim": v, "path": "/openrs"}]},
        lambda job: pod(job)["volumes"][-1]["persistentVolumeClaim"]["claimName"],
    ),
}  # fmt: skip
PATHS: dict[str, tuple[Setter, Getter]] = {
    "volume": (
        lambda v: {"volumes": [{"claim": "c", "path": v}], "shared_root": v},
        lambda job: pod(job)["containers"][0]["volumeMounts"][-1]["mountPath"],
    ),
    "root": (lambda v: {"shared_root": v}, lambda job: None),
}


def _term(job: Object) -> Object:
    affinity = pod(job)["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    term: Object = affinity["nodeSelectorTerms"][0]["matchExpressions"][0]
    return term


@settings(max_examples=350, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(field=st.sampled_from(sorted(FIELDS)), value=NASTY)
def test_any_string_of_a_profile_is_refused_or_arrives_unchanged(field: str, value: str) -> None:
    fields, found = FIELDS[field]
    try:
        artifacts = render(GPUS, **fields(value))
    except (ValidationError, BadInput):
        return
    config, job = stage(artifacts)
    expected = value if field != "python" or not value.startswith("~") else str(Path(value).expanduser())
    assert found(job) == expected
    assert_names(config, job)
    told = json.loads(config["data"]["stage.json"])
    if field == "value":
        assert told["environment"]["X"] == value


@settings(max_examples=150, deadline=None)
@given(field=st.sampled_from(sorted(PATHS)), value=PATH)
def test_any_path_is_refused_or_arrives_unchanged(field: str, value: str) -> None:
    fields, found = PATHS[field]
    try:
        artifacts = render(**fields(value))
    except (ValidationError, BadInput):
        return
    config, job = stage(artifacts)
    assert found(job) in (None, value)
    root = json.loads(config["data"]["stage.json"])["run_dir"]
    assert root.startswith("/openrs" if field == "root" else value)
    assert ".." not in Path(root).parts


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    text=NASTY,
    name=st.one_of(st.from_regex(r"[a-z0-9][a-z0-9._-]{0,62}", fullmatch=True), NASTY),
    run=st.one_of(st.from_regex(RUN_ID, fullmatch=True), st.sampled_from(["a-", "a--b", "a" * 32, "a" + "-" * 31, "y", "no", "RUN"])),
    number=st.integers(1, 10_000),
)  # fmt: skip
def test_any_experiment_arrives_unchanged(text: str, name: str, run: str, number: int) -> None:
    changes = {"name": name, "environment": {"X": text}, "prompt": {"system": text}}
    try:
        experiment = Experiment.model_validate({**SMOKE.model_dump(), **changes})
    except ValidationError:
        return
    plan = make_plan(experiment, K8S)
    place = Place(run.strip(), Path("/openrs/runs") / run.strip(), number)
    for content in engine_for(K8S).render(experiment, plan, place).files.values():
        config, job = yaml.safe_load_all(content)
        assert config["data"]["spec.json"] == pretty(experiment)
        assert json.loads(config["data"]["stage.json"])["environment"]["X"] == text
        assert_names(config, job)
        assert job["metadata"]["annotations"]["openrs.dev/experiment"] == name
        assert job["metadata"]["annotations"]["openrs.dev/run"] == run.strip()
        assert job["metadata"]["annotations"][SPEC] == plan.hash


@settings(max_examples=300, deadline=None)
@given(text=NASTY)
def test_what_kubernetes_expands_comes_back(text: str) -> None:
    assert expand(escaped(text)) == text


@settings(max_examples=300, deadline=None)
@given(key=NASTY.filter(lambda text: len(text) < 400), value=NASTY)
def test_every_string_survives_the_yaml(key: str, value: str) -> None:
    if any(0xD800 <= ord(char) < 0xE000 for char in key + value):
        return  # no text of ours: `Text` refuses it
    content = [{"data": {key: value}, "list": [value, {"deep": value}]}]
    assert list(yaml.safe_load_all(dump(content))) == content


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl")
def test_kubectl_reads_the_same() -> None:
    """Its reader is Go's, which differs from PyYAML in what it takes for a number or a truth value."""
    manifests = [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"c{number}"}, "data": {"a": text, "b": f"{text}\n{text}"}}
        for number, text in enumerate(ODD)
    ]  # fmt: skip
    text = dump(manifests) + "".join(render(GPUS, environment={"X": "y\n"}).files.values())
    command = ["kubectl", "patch", "--local", "-f", "-", "--type", "merge", "-p", "{}", "-o", "json"]
    shown = subprocess.run(command, input=text, capture_output=True, text=True, check=True, timeout=60).stdout
    decoder, found, position = json.JSONDecoder(), [], 0
    while position < len(shown):
        item, position = decoder.raw_decode(shown, position)
        found.append(item)
        position += len(shown[position:]) - len(shown[position:].lstrip())
    wanted = list(yaml.safe_load_all(text))
    assert len(found) == len(wanted) == len(ODD) + 4
    for ours, theirs in zip(wanted, found, strict=True):
        theirs.get("metadata", {}).pop("creationTimestamp", None)
        assert [key for key in ours if ours[key] != theirs.get(key)] == []


def test_names_of_different_runs_stay_apart() -> None:
    names = [label_value(run) for run in ("a-", "a--", "a", "a-b", "a" * 63 + "-", "a" * 64 + "-")]
    assert len(set(names)) == len(names)
    assert job_name(Place("a-", Path("/"), 1), "train") == "a--train-1"
