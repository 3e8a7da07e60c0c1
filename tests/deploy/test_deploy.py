"""`deploy/`: every overlay builds and is valid, and a real API server grants and refuses what README.md there says."""

from __future__ import annotations

import copy
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from openrs.engines.kubernetes.checks import quantity
from tests.testbed.k8s import build as bed_build
from tests.testbed.k8s.bed import K8sBed

DEPLOY = Path(__file__).parents[2] / "deploy"
OVERLAYS = sorted(file.parent.name for file in DEPLOY.glob("overlays/*/kustomization.yaml"))
VERSIONS = ("1.31", "1.32", "1.33", "1.34")
NAMESPACE = "openrs-deploy"  # not openrs: other tests share the cluster
WORKER = f"--as=system:serviceaccount:{NAMESPACE}:openrs-worker"
USER = ("--as=someone", "--as-group=openrs-users")
Object = dict[str, Any]


def _kubectl() -> str:
    kubectl = str(bed_build.cache() / "kubectl") if bed_build.built() else shutil.which("kubectl")
    return kubectl or pytest.skip("no kubectl here, nor the one of the Kubernetes testbed")


@cache
def _build(directory: Path) -> list[Object]:
    run = subprocess.run(
        [_kubectl(), "kustomize", str(directory)], capture_output=True, text=True, check=False, timeout=60
    )
    assert run.returncode == 0, run.stderr
    assert "deprecated" not in run.stderr.lower()
    return [document for document in yaml.safe_load_all(run.stdout) if document]


def _all(objects: list[Object], kind: str) -> dict[str, Object]:
    return {found["metadata"]["name"]: found for found in objects if found["kind"] == kind}


def _overlay(name: str) -> list[Object]:
    return _build(DEPLOY / "overlays" / name)


@pytest.mark.parametrize("name", OVERLAYS)
def test_overlay_is_valid(name: str) -> None:
    validator = pytest.importorskip("kubernetes_validate")
    objects = _overlay(name) + list(yaml.safe_load_all((DEPLOY / "optional/list-nodes.yaml").read_text()))
    for found in objects:
        if found["apiVersion"] == "kueue.x-k8s.io/v1beta2":  # not Kubernetes' own: no schema here
            continue
        for version in VERSIONS:
            validator.validate(found, version, strict=True)


@pytest.mark.parametrize("name", OVERLAYS)
def test_all_is_in_one_namespace(name: str) -> None:
    cluster_wide = {"Namespace", "PriorityClass", "PersistentVolume", "ClusterQueue", "ResourceFlavor"}
    for found in _overlay(name):
        assert found["metadata"].get("namespace") == (None if found["kind"] in cluster_wide else "openrs")


def test_every_overlay_is_in_the_readme() -> None:
    readme = (DEPLOY / "README.md").read_text()
    assert [name for name in OVERLAYS if f"(overlays/{name})" not in readme] == []


def test_names_are_those_of_the_shipped_profile() -> None:
    profile = yaml.safe_load((DEPLOY.parent / "openrs/clusters/k8s.yaml").read_text())
    base, kueue = _build(DEPLOY / "base"), _overlay("kueue")
    assert set(_all(base, "Namespace")) == {profile["namespace"]}
    assert set(_all(base, "PersistentVolumeClaim")) == {volume["claim"] for volume in profile["volumes"]}
    assert set(_all(base, "ServiceAccount")) == {profile["service_account"]}
    flavor = _all(kueue, "ResourceFlavor")["a40"]
    assert flavor["spec"]["nodeLabels"]["nvidia.com/gpu.product"] in profile["gpu_products"]["A40"]
    node = yaml.safe_load((DEPLOY / "overlays/kind/cluster.yaml").read_text())["nodes"][0]
    assert node["labels"] == flavor["spec"]["nodeLabels"]


def test_kueue_admits_no_more_than_the_quota() -> None:
    quota = _all(_build(DEPLOY / "base"), "ResourceQuota")["openrs"]["spec"]["hard"]
    (group,) = _all(_overlay("kueue"), "ClusterQueue")["openrs"]["spec"]["resourceGroups"]
    nominal = {resource["name"]: str(resource["nominalQuota"]) for resource in group["flavors"][0]["resources"]}
    assert all(quantity(amount) <= quantity(quota[f"requests.{name}"]) for name, amount in nominal.items())
    assert sorted(nominal) == sorted(group["coveredResources"])


class Cluster:
    """kubectl in the namespace of these tests."""

    def __init__(self, bed: K8sBed) -> None:
        self.bed = bed

    def __call__(self, *words: str, told: list[Object] | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [_kubectl(), *words],
            input=None if told is None else yaml.safe_dump_all(told),
            env=self.bed.environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def ok(self, *words: str, told: list[Object] | None = None) -> str:
        run = self(*words, told=told)
        assert run.returncode == 0, run.stderr
        return run.stdout

    def rights(self, *who: str) -> dict[str, set[str]]:
        """What `auth can-i --list` says of resources, without what every account may do."""
        rows = [line.split("[") for line in self.ok("auth", "can-i", "--list", "-n", NAMESPACE, *who).splitlines()[1:]]
        table = {row[0].strip(): set(row[-1].rstrip("] ").split()) for row in rows}
        return {resource: verbs for resource, verbs in table.items() if resource and "self" not in resource}


@pytest.fixture(scope="module")
def cluster(k8s_bed: K8sBed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The overlay one-node, in another namespace as README.md says how, with volumes of its own."""
    own = tmp_path_factory.mktemp("overlay").resolve()  # kustomize wants a relative path, and follows no links
    base = os.path.relpath(DEPLOY.resolve() / "overlays/one-node", own)
    (own / "kustomization.yaml").write_text(yaml.safe_dump({"resources": [base], "namespace": NAMESPACE}))
    objects = _build(own)
    assert set(_all(objects, "Namespace")) == {NAMESPACE}
    for name, volume in _all(objects, "PersistentVolume").items():
        volume["metadata"]["name"] = f"{NAMESPACE}-{name}"
        volume["spec"]["hostPath"]["path"] = str(own)
    for claim in _all(objects, "PersistentVolumeClaim").values():
        claim["spec"]["volumeName"] = f"{NAMESPACE}-{claim['spec']['volumeName']}"
    kubectl = Cluster(k8s_bed)
    try:
        kubectl.ok("apply", "-f", "-", told=objects)
        deadline = time.monotonic() + 30  # controllers fill in the quota and the default account
        while not (kubectl("get", "-n", NAMESPACE, "serviceaccount/default").returncode == 0 and _counted(kubectl)):
            assert time.monotonic() < deadline, kubectl.ok("get", "-n", NAMESPACE, "quota,serviceaccount")
            time.sleep(0.2)
        yield kubectl
    finally:
        mine = [found for found in objects if found["kind"] != "PriorityClass"]  # those may be another test's as well
        kubectl.ok("delete", "-f", "-", "--ignore-not-found", told=mine)


def _counted(kubectl: Cluster) -> bool:
    return bool(kubectl.ok("get", "-n", NAMESPACE, "quota/openrs", "-o=jsonpath={.status.used}"))


def _pod(**container: Any) -> Object:
    safe = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    worker = {"name": "worker", "image": "localhost/none:1", "securityContext": safe} | container
    security = {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "tried", "namespace": NAMESPACE},
        "spec": {"restartPolicy": "Never", "securityContext": security, "containers": [worker]},
    }


def _resources(gpus: int = 1, cpu: str = "1") -> Object:
    asked = {"cpu": cpu, "memory": "1Gi", "nvidia.com/gpu": str(gpus)}
    return {"requests": asked, "limits": asked}


@pytest.mark.k8s
def test_worker_may_get_and_patch_jobs_and_nothing_else(cluster: Cluster) -> None:
    assert cluster.rights(WORKER) == {"jobs.batch": {"get", "patch"}}
    assert cluster.rights(f"--as=system:serviceaccount:{NAMESPACE}:default") == {}
    for words in ("list jobs", "delete jobs", "get secrets", "create pods", "patch jobs --subresource=status"):
        assert cluster("auth", "can-i", *words.split(), "-n", NAMESPACE, WORKER).stdout.strip() == "no", words
    assert cluster("auth", "can-i", "get", "jobs", "-n", "default", WORKER).stdout.strip() == "no"


@pytest.mark.k8s
def test_user_may_run_experiments_and_not_raise_the_own_rights(cluster: Cluster) -> None:
    assert cluster.rights(*USER) == {
        "jobs.batch": {"get", "list", "watch", "create", "patch", "delete"},
        "configmaps": {"get", "list", "create", "patch", "delete"},
        "pods": {"get", "list", "watch", "create", "delete"},
        "pods/log": {"get"},
        "pods/exec": {"get", "create"},
        "events": {"get", "list"},
        "persistentvolumeclaims": {"get", "list"},
        "resourcequotas": {"get", "list"},
    }
    binding = ("create", "rolebinding", "mine", "--clusterrole=cluster-admin", "--user=someone", "-n", NAMESPACE, *USER)
    assert "cannot create resource" in cluster(*binding).stderr


@pytest.mark.k8s
def test_claims_are_bound_to_the_volumes(cluster: Cluster) -> None:
    cluster.ok("wait", "-n", NAMESPACE, "pvc", "--all", "--for=jsonpath={.status.phase}=Bound", "--timeout=60s")


@pytest.mark.k8s
@pytest.mark.parametrize(
    ("container", "refusal"),
    [
        ({"resources": _resources(4)}, None),
        ({"resources": _resources(4), "securityContext": {}}, 'violates PodSecurity "restricted:latest"'),
        ({"resources": _resources(9)}, "exceeded quota: openrs, requested: requests.nvidia.com/gpu=9"),
        ({"resources": _resources(1, cpu="65")}, "exceeded quota: openrs, requested: requests.cpu=65"),
        ({}, "must specify requests.cpu"),
    ],
)
def test_pods_must_be_restricted_and_within_the_quota(cluster: Cluster, container: Object, refusal: str | None) -> None:
    run = cluster("create", "--dry-run=server", "-f", "-", *USER, told=[_pod(**container)])
    assert (run.returncode == 0) if refusal is None else (refusal in run.stderr), run.stderr


@pytest.mark.k8s
@pytest.mark.parametrize("kind", ["hostPath", "nfs"])
def test_a_pod_may_not_bring_its_own_volume(cluster: Cluster, kind: str) -> None:
    pod = _pod(resources=_resources())
    source = {"hostPath": {"path": "/"}, "nfs": {"server": "nfs.example", "path": "/"}}[kind]
    pod["spec"]["volumes"] = [{"name": "own", kind: source}]
    assert "restricted volume types" in cluster("create", "--dry-run=server", "-f", "-", *USER, told=[pod]).stderr


@pytest.mark.k8s
def test_evaluations_give_way_and_others_do_not(cluster: Cluster) -> None:
    columns = "-o=custom-columns=N:.metadata.name,V:.value,P:.preemptionPolicy"
    rows = cluster.ok("get", "priorityclass", "openrs-train", "openrs-eval", columns, "--no-headers").split()
    assert rows == ["openrs-train", "0", "PreemptLowerPriority", "openrs-eval", "-10", "Never"]


@pytest.mark.k8s
@pytest.mark.parametrize("name", sorted(set(OVERLAYS) - {"kueue"}))
def test_the_server_takes_the_overlay(cluster: Cluster, name: str) -> None:
    """A dry run: it admits and validates, and stores nothing. In the namespace of these tests, since there must be one."""
    objects = [copy.deepcopy(found) for found in _overlay(name) if found["kind"] != "Namespace"]
    for found in objects:
        found["metadata"]["name"] = f"tried-{found['metadata']['name']}"
        if "namespace" in found["metadata"]:
            found["metadata"]["namespace"] = NAMESPACE
    cluster.ok("create", "--dry-run=server", "-f", "-", told=objects)
