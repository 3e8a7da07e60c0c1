"""The bed itself: is it the cluster that the other tests take it for?"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.testbed.k8s.bed import PREFIX, K8sBed, sweep
from tests.testbed.k8s.build import building, built, find_go, key
from tests.testbed.k8s.client import Namespace, Refused, unique
from tests.testbed.k8s.machine import BedError, has_interface, start_time
from tests.testbed.k8s.watch import Pod, describe

pytestmark = pytest.mark.k8s

ROOT = Path(__file__).resolve().parents[3]
RESTRICTED = {
    "runAsNonRoot": True,
    "runAsUser": 1000,
    "runAsGroup": 1000,
    "seccompProfile": {"type": "RuntimeDefault"},
}
CONFINED = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}


@pytest.fixture
def space(k8s_bed: K8sBed) -> Iterator[Namespace]:
    """A namespace; afterwards everything runs again and the namespace is gone."""
    space = k8s_bed.namespace(unique("bed"))
    yield space
    k8s_bed.restore()
    k8s_bed.delete_namespace(space.name)


def pod_spec(space: Namespace, code: str, gpus: int = 0, **more: Any) -> dict[str, Any]:
    """A pod as `restricted` wants it that runs Python code."""
    container: dict[str, Any] = {
        "name": "main",
        "image": space.image,
        "command": [space.python, "-c", code],
        "env": [{"name": key, "value": value} for key, value in space.environment.items()],
        "securityContext": CONFINED,
        "resources": {"limits": {"nvidia.com/gpu": gpus}} if gpus else {},
        "volumeMounts": [{"name": claim, "mountPath": path} for claim, path in space.volumes.items()],
    }
    claims = [{"name": claim, "persistentVolumeClaim": {"claimName": claim}} for claim in space.volumes]
    return {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 5,
        "securityContext": RESTRICTED,
        "containers": [container],
        "volumes": claims,
        **more,
    }


def job(name: str, spec: dict[str, Any], **more: Any) -> dict[str, Any]:
    template = {"metadata": {"labels": {"job": name}}, "spec": spec}
    body = {"backoffLimit": 0, "template": template, **more}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": body}


def pod(name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def running(seen: list[Pod]) -> Pod | None:
    """The newest pod that runs and is not asked to end."""
    phases = {each["metadata"]["name"]: each for each in seen}
    live = [
        each
        for each in phases.values()
        if each["status"].get("phase") == "Running" and "deletionTimestamp" not in each["metadata"]
    ]
    return live[-1] if live else None


def test_nodes_have_their_gpus(k8s_bed: K8sBed) -> None:
    nodes = k8s_bed.request("GET", "/api/v1/nodes")["items"]
    assert [node["metadata"]["name"] for node in nodes] == ["node-a", "node-b"]
    for node in nodes:
        assert node["metadata"]["labels"]["nvidia.com/gpu.product"] == "NVIDIA-A40"
        assert node["status"]["allocatable"]["nvidia.com/gpu"] == "4"
        assert node["status"]["allocatable"]["cpu"] == "64"
        assert {each["type"]: each["status"] for each in node["status"]["conditions"]}["Ready"] == "True"
        assert node["status"]["nodeInfo"]["kubeletVersion"] == "v1.34.4"
    assert "v1.34.4" in k8s_bed.kubectl("version")


def test_a_job_has_its_environment_and_its_volumes(k8s_bed: K8sBed, space: Namespace) -> None:
    code = f"""
import json, os, sys, openrs, pydantic, scipy.stats
from kubernetes import client, config
config.load_incluster_config()
try:
    client.CoreV1Api().list_namespaced_pod({space.name!r})
except client.ApiException as error:
    refused = error.status
def writable(place):
    try:
        open(place + "/tried", "w").close()
    except OSError:
        return False
    return True
places = [*{list(space.volumes.values())!r}, "/", "/tmp"]
print(json.dumps({{
    "user": [os.getuid(), os.getgid()], "prefix": sys.prefix, "code": openrs.__file__, "api": refused,
    "gpus": os.environ["NVIDIA_VISIBLE_DEVICES"], "writable": [place for place in places if writable(place)],
}}))
"""
    k8s_bed.apply(job("first", pod_spec(space, code, gpus=2)), space.name)
    k8s_bed.wait_job(space.name, "first", seconds=120)
    (first,) = k8s_bed.pods(space.name)
    said = json.loads(k8s_bed.log(space.name, first["metadata"]["name"]))
    assert said["user"] == [1000, 1000]
    assert said["prefix"] == str(Path(space.python).parents[1])
    assert said["code"].startswith(space.environment["PYTHONPATH"])
    assert said["api"] == 403  # it was reached, and its certificate believed
    assert len(said["gpus"].split(",")) == 2
    assert said["writable"] == [space.volumes["openrs-runs"]]
    assert space.runs is not None
    assert (space.runs / "tried").stat().st_uid == 1000


def test_gpus_are_counted(k8s_bed: K8sBed, space: Namespace) -> None:
    wait = "import time; time.sleep(300)"
    with k8s_bed.watch_pods(space.name) as seen:
        for name in ("one", "two", "three"):
            k8s_bed.apply(pod(name, pod_spec(space, wait, gpus=4)), space.name)

        def settled(pods: list[Pod]) -> dict[str, Pod] | None:
            last = {each["metadata"]["name"]: each for each in pods}
            phases = sorted(each["status"].get("phase", "") for each in last.values())
            told = [c for each in last.values() for c in each["status"].get("conditions", []) if c["status"] == "False"]
            return last if phases == ["Pending", "Running", "Running"] and told else None

        last = seen.until(settled, "two pods of four GPUs to run and a third to wait")
    ran = {each["spec"]["nodeName"] for each in last.values() if each["status"]["phase"] == "Running"}
    assert ran == {"node-a", "node-b"}
    (waits,) = [each for each in last.values() if each["status"]["phase"] == "Pending"]
    assert "Insufficient nvidia.com/gpu" in waits["status"]["conditions"][0]["message"]
    assert any(event["reason"] == "FailedScheduling" for event in k8s_bed.events(space.name))


def test_pod_security_is_enforced(k8s_bed: K8sBed, space: Namespace) -> None:
    bare = pod_spec(space, "pass")
    bare["securityContext"] = {}
    with pytest.raises(Refused, match='violates PodSecurity "restricted') as refused:
        k8s_bed.apply(pod("bare", bare), space.name)
    assert refused.value.status == 403
    host = pod_spec(space, "pass")
    host["volumes"].append({"name": "host", "hostPath": {"path": "/"}})
    with pytest.raises(Refused, match="hostPath"):
        k8s_bed.apply(pod("host", host), space.name)


def test_rights_end_at_the_namespace(k8s_bed: K8sBed, space: Namespace) -> None:
    here = f"/api/v1/namespaces/{space.name}"
    rights = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{space.name}"
    k8s_bed.request("POST", f"{here}/serviceaccounts", {"metadata": {"name": "sender"}})
    rules = [{"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["create", "get"]}]
    k8s_bed.request("POST", f"{rights}/roles", {"metadata": {"name": "sender"}, "rules": rules})
    binding = {
        "metadata": {"name": "sender"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "sender"},
        "subjects": [{"kind": "ServiceAccount", "name": "sender", "namespace": space.name}],
    }
    k8s_bed.request("POST", f"{rights}/rolebindings", binding)
    asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    token = k8s_bed.request("POST", f"{here}/serviceaccounts/sender/token", asked)["status"]["token"]
    manifest = job("sent", pod_spec(space, "pass"))
    made = k8s_bed.request("POST", f"/apis/batch/v1/namespaces/{space.name}/jobs", manifest, token=token)
    assert made["metadata"]["name"] == "sent"
    for path in (f"{here}/secrets", "/apis/batch/v1/namespaces/default/jobs"):
        with pytest.raises(Refused, match="sender") as refused:
            k8s_bed.request("GET", path, token=token)
        assert refused.value.status == 403


@pytest.mark.slow
def test_a_node_without_power(k8s_bed: K8sBed, space: Namespace) -> None:
    wait = "import time; time.sleep(300)"
    with k8s_bed.watch_pods(space.name) as seen:
        rules = [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]
        k8s_bed.apply(job("long", pod_spec(space, wait, gpus=4), podFailurePolicy={"rules": rules}), space.name)
        first = seen.until(running, "the pod")
        node = first["spec"]["nodeName"]
        k8s_bed.stop(node)
        k8s_bed.wait_lost(node)
        lost = seen.until(
            lambda pods: next((each for each in pods if "deletionTimestamp" in each["metadata"]), None), "its eviction"
        )
        assert "DisruptionTarget:DeletionByTaintManager" in describe(lost)
        k8s_bed.start(node)
        assert k8s_bed.ready(node)
        second = seen.until(running, "its replacement")
    assert second["metadata"]["uid"] != first["metadata"]["uid"]


@pytest.mark.slow
def test_a_job_outlives_kubelet_and_control_plane(k8s_bed: K8sBed, space: Namespace) -> None:
    assert space.runs is not None
    gate = f"{space.volumes['openrs-runs']}/gate"
    code = f"import os, time\nwhile not os.path.exists({gate!r}): time.sleep(0.2)"
    with k8s_bed.watch_pods(space.name) as seen:
        k8s_bed.apply(job("on", pod_spec(space, code)), space.name)
        first = seen.until(running, "the pod")
        with k8s_bed.without("kube-controller-manager"), k8s_bed.without(f"{first['spec']['nodeName']}.kubelet"):
            assert k8s_bed.status()["kube-controller-manager"] is None
        k8s_bed.stop("kube-apiserver")
        with pytest.raises(BedError):
            k8s_bed.kubectl("get", "nodes")
        k8s_bed.start("kube-apiserver")
        (space.runs / "gate").touch()
        k8s_bed.wait_job(space.name, "on")
        # The watch went on through the restart.
        seen.until(lambda pods: pods[-1]["status"]["phase"] == "Succeeded" or None, "the end")
    assert {each["metadata"]["uid"] for each in seen} == {first["metadata"]["uid"]}


def test_an_evicted_pod_is_seen(k8s_bed: K8sBed, space: Namespace) -> None:
    """Also by its container: TERM comes, and the grace period."""
    code = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(75)); print('up', flush=True); time.sleep(300)"
    rules = [{"action": "Ignore", "onExitCodes": {"operator": "In", "values": [75]}}]
    with k8s_bed.watch_pods(space.name) as seen:
        k8s_bed.apply(job("moved", pod_spec(space, code), podFailurePolicy={"rules": rules}), space.name)
        name = seen.until(running, "the pod")["metadata"]["name"]
        deadline = time.monotonic() + 30
        while "up" not in k8s_bed.log(space.name, name):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
        k8s_bed.request("POST", f"/api/v1/namespaces/{space.name}/pods/{name}/eviction", body)
        second = seen.until(
            lambda pods: None if (now := running(pods)) is None or now["metadata"]["name"] == name else now, "another"
        )
    ended = [describe(each) for each in seen.versions(name)]
    assert any("DisruptionTarget:EvictionByEvictionAPI" in line and "75 Error" in line for line in ended), ended
    assert second["metadata"]["name"] != name


def test_a_failed_gpu_is_taken_out(k8s_bed: K8sBed, space: Namespace) -> None:
    (k8s_bed.nodes["node-b"].directory / "unhealthy").write_text("GPU-1")

    def allocatable() -> str:
        return str(k8s_bed.request("GET", "/api/v1/nodes/node-b")["status"]["allocatable"]["nvidia.com/gpu"])

    deadline = time.monotonic() + 30
    while allocatable() != "3":
        assert time.monotonic() < deadline
        time.sleep(0.2)
    k8s_bed.restore()
    assert allocatable() == "4"


def test_what_is_not_there_is_named(k8s_bed: K8sBed) -> None:
    with pytest.raises(BedError, match=r"no node-z; there are etcd, .*node-b, node-a\.containerd"):
        k8s_bed.stop("node-z")


def by_hand(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.testbed.k8s", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.slow
def test_by_hand(k8s_bed: K8sBed, tmp_path: Path) -> None:
    """A second bed beside the first, from the command line; `down` leaves nothing of it, and touches no other."""
    directory = Path("/tmp") / f"bed-{os.getpid()}-h"
    mounts = Path("/proc/mounts").read_text()
    try:
        up = by_hand("up", str(directory), "--nodes", "1", "--gpus", "1")
        assert (up.stdout, up.stderr) == (f"export KUBECONFIG={directory}/etc/admin.kubeconfig\n", "")
        bridge = K8sBed.at(directory).site.bridge
        assert by_hand("kubeconfig", str(directory)).stdout == f"{directory}/etc/admin.kubeconfig\n"
        assert by_hand("stop", str(directory), "node-a").returncode == 0
        assert json.loads(by_hand("status", str(directory)).stdout)["node-a.kubelet"] is None
        started = by_hand("start", str(directory), "node-a")
        assert (started.returncode, started.stderr) == (0, "")
        status = json.loads(by_hand("status", str(directory)).stdout)
        assert None not in status.values()
        assert by_hand("pack", str(tmp_path / "t.tar"), "localhost/tool:1", "/bin/true").returncode == 0
        loaded = by_hand("load", str(directory), str(tmp_path / "t.tar"), "localhost/tool:1")
        assert loaded.stdout.startswith("localhost/tool@sha256:")
    finally:
        down = by_hand("down", str(directory))
    assert (down.returncode, down.stderr) == (0, "")
    assert not directory.exists()
    assert not has_interface(bridge)
    assert not list(Path("/sys/fs/cgroup").glob(f"*/{bridge}"))
    assert not [pid for pid in status.values() if start_time(pid) is not None]
    assert Path("/proc/mounts").read_text() == mounts
    assert by_hand("down", str(directory)).returncode == 0  # again, to no harm
    assert k8s_bed.ready("node-a") and k8s_bed.ready("node-b")


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_interrupted_process_leaves_nothing(how: signal.Signals, k8s_bed: K8sBed) -> None:
    directory = Path("/tmp") / f"bed-{os.getpid()}-k"
    program = (
        "import sys, time, pathlib; from tests.testbed.k8s.bed import K8sBed;"
        "bed = K8sBed(pathlib.Path(sys.argv[1]), nodes=1).up(); print(bed.site.bridge, flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", program, str(directory)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        bridge = holder.stdout.readline().strip()
        assert has_interface(bridge)
        holder.send_signal(how)
    deadline = time.monotonic() + 30
    while (directory.exists() or has_interface(bridge)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not directory.exists()
    assert not has_interface(bridge)
    assert not list(Path("/sys/fs/cgroup").glob(f"*/{bridge}"))


@pytest.mark.slow
def test_what_a_dead_process_left_is_swept(k8s_bed: K8sBed, tmp_path: Path) -> None:
    """Its guard is dead as well: a machine that ran out of memory, a container that was killed."""
    directory = tmp_path / f"{PREFIX}left"
    assert by_hand("up", str(directory), "--nodes", "1", "--gpus", "0").returncode == 0
    bridge = K8sBed.at(directory).site.bridge
    sweep(tmp_path)
    assert has_interface(bridge)  # it was made by hand, and ends by hand
    record = directory / "bed.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"owner": f"{os.getpid()} 1"}))
    sweep(tmp_path)
    assert not directory.exists()
    assert not has_interface(bridge)


def test_a_directory_that_is_no_bed_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(BedError, match="no bed"):
        K8sBed(tmp_path).down()
    with pytest.raises(BedError, match="no Kubernetes test bed"):
        K8sBed.at(tmp_path)
    assert (tmp_path / "thesis.tex").exists()


def test_two_compile_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that comes second waits for the lock, and finds it done."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    target = tmp_path / "openrs" / "k8s"
    target.mkdir(parents=True)
    assert not built()
    assert not building()
    command = [sys.executable, "-m", "tests.testbed.k8s", "build"]
    with (target / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert building()
        second = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        with pytest.raises(subprocess.TimeoutExpired):
            second.wait(1.5)
        (target / "key").write_text(key())
    assert second.communicate(timeout=30)[0] == f"{target}\n"
    assert sorted(path.name for path in target.iterdir()) == ["key", "lock"]


def test_go_is_new_enough_or_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if (here := find_go()) is not None:
        version = subprocess.run([here, "env", "GOVERSION"], cwd="/", capture_output=True, text=True).stdout
        assert int(version.split(".")[1]) >= 24
    old = tmp_path / "go"
    old.write_text("#!/bin/sh\necho go1.19.8\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert find_go() is None
