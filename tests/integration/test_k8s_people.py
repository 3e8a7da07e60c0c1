"""What people and administrators do to a run on a real Kubernetes: restart the control plane, cancel, resume, give up a node.

The same promise as in test_k8s_smoke.py: the weights of the undisturbed run, bit for bit.
"""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.integration.k8s_user import STEPS, Reference, User, lost, newest, pods_of, wait_ended

pytestmark = [pytest.mark.k8s, pytest.mark.train, pytest.mark.timeout(900)]


def test_exp3_goes_to_the_gpus(k8s_user: User) -> None:
    """Four A40s of one node are its, and then the worker finds that there is no real one."""
    run, bed = "exp3", k8s_user.bed
    with bed.watch_pods(k8s_user.space.name) as seen:
        k8s_user.openrs(
            "submit", "exp3", "--cluster", "undisturbed", "--run", run, "--set", "evaluation.base=false",
            "--set", "recovery.node_fault_retries=1",
        )  # fmt: skip
        k8s_user.wait_for_end(run, "FAILED")
        pods = pods_of(list(seen), run)
    assert len(pods) == 2, "a node's fault is tried again"
    for pod in pods.values():
        assert pod["spec"]["nodeName"] in ("node-a", "node-b")
        assert pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "4"
        required = pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        assert required["nodeSelectorTerms"][0]["matchExpressions"][0]["values"] == ["NVIDIA-A40"]
    train = k8s_user.stage(run)
    (line,) = [line for line in k8s_user.openrs("status", run).splitlines() if "node fault" in line]
    assert "offers 0 of the 4 GPUs" in line and "nvidia-smi is not on PATH" in line
    assert train["reason"].startswith(f"node fault: {pod['spec']['nodeName']} offers")


def test_control_plane_restarted_then_cancelled_and_resumed(k8s_user: User, reference: Reference) -> None:
    """(f) and (h), looked at all the time by commands that must live through both."""
    run, bed, here = "cancelled", k8s_user.bed, k8s_user.space.name
    with bed.watch_pods(here) as seen:
        k8s_user.pace(run, 0.1)
        k8s_user.submit(run, "paced")
        logs = k8s_user.begin("logs", "-f", run, "train")
        status = k8s_user.begin("status", "--watch", "--json", run)

        hit = k8s_user.in_mid_run(run, "controller-manager and API server restarted")
        bed.kill("kube-controller-manager")
        bed.stop("kube-apiserver")
        k8s_user.wait_for_step(run, hit.step + 1)
        bed.start("kube-apiserver")
        bed.start("kube-controller-manager")
        k8s_user.wait_for_step(run, hit.step + 2)

        hit = k8s_user.in_mid_run(run, "openrs cancel, then resume")
        assert hit.attempt == 1, "the pod knew nothing of it"
        name = newest(seen, run)["metadata"]["name"]
        k8s_user.openrs("cancel", run)
        ended = wait_ended(seen, name)
        assert (ended.code, ended.attempt) == (75, 1) and 0 < (ended.step or 0) < STEPS, ended
    _nothing_left(k8s_user, run)
    assert k8s_user.status(run)["state"] == "CANCELLED"
    assert [line["step"] for line in k8s_user.metrics(run)] == list(range(1, (ended.step or 0) + 1))
    said, complaint = status.communicate(timeout=120)
    assert json.loads(said)["runs"][0]["state"] == "CANCELLED", complaint
    said, complaint = logs.communicate(timeout=120)
    shown = [json.loads(line)["step"] for line in said.splitlines() if line.startswith('{"step"')]
    assert shown == list(range(1, max(shown) + 1)), f"each line once, in order: {said}{complaint}"
    assert max(shown) > hit.step - 2, "it went on after the API server came back"
    k8s_user.openrs("cancel", run, code=2)

    k8s_user.pace(run, 0)
    k8s_user.openrs("resume", run)
    assert k8s_user.recovered(run, hit) == ended.step, "not a step is done twice"
    k8s_user.wait_for_end(run)
    k8s_user.check_whole(run, attempts=2, stages={"eval": 1})
    assert k8s_user.weights(run) == reference.weights()
    k8s_user.openrs("resume", run, code=2)


def _nothing_left(user: User, run: str) -> None:
    """Of what was sent; the run directory keeps what is done."""
    here = f"/api/v1/namespaces/{user.space.name}"
    for path in (f"{here}/pods", f"{here}/configmaps", f"/apis/batch/v1/namespaces/{user.space.name}/jobs"):
        # The garbage collector comes after the Job is gone.
        left = lambda path=path: user.bed.request("GET", path, labelSelector=f"openrs.dev/run={run}")["items"]  # noqa: E731
        user.wait(lambda left=left: not left(), f"end of {path}", 20)  # type: ignore[misc]
    user.check_tidy(run)


def test_node_lost_for_good(k8s_user: User, reference: Reference) -> None:
    """Two runs on a node that goes silent while its containers live; a person helps each in another way.

    The old trainers write and renew their leases until the node freezes, and find, thawed, that others hold them.
    """
    given_up, sent_again, bed = "given-up", "sent-again", k8s_user.bed
    runs = (given_up, sent_again)
    with bed.watch_pods(k8s_user.space.name) as seen:
        bed.kubectl("cordon", "node-a")
        for run in runs:
            k8s_user.pace(run, 0.6)
            k8s_user.submit(run, "paced-watched")
        for run in runs:
            k8s_user.in_mid_run(run, "the loss of the node", more=1)
        bed.kubectl("uncordon", "node-a")
        old = {run: newest(seen, run) for run in runs}
        assert {pod["spec"]["nodeName"] for pod in old.values()} == {"node-b"}
        bed.kill("node-b.kubelet")
        bed.wait_lost("node-b")
        for pod in old.values():
            seen.until(lambda pods, pod=pod: lost(pods, pod["metadata"]["name"]), "the loss of the pod")  # type: ignore[misc]

        for run in runs:
            stage = k8s_user.stage(run)
            assert stage["state"] == "INTERRUPTED"
            for words in ("node node-b no longer answers", "kubectl delete node node-b", f"openrs resume {run}"):
                assert words in stage["reason"]

        # A new Job for one of them: it waits for the old trainer, which writes on.
        k8s_user.openrs("resume", sent_again)
        successor = seen.until(lambda pods: _running_on(pods, sent_again, "node-a"), "the new Job's pod")
        name = successor["metadata"]["name"]
        k8s_user.wait(
            lambda: "another attempt may still be writing" in bed.log(k8s_user.space.name, name, check=False),
            "word of the lease",
        )
        hits = {sent_again: k8s_user.in_mid_run(sent_again, "node frozen, then openrs resume")}
        k8s_user.wait_for_step(sent_again, hits[sent_again].step + 1)
        assert len(k8s_user.ledger(sent_again, "start")) == 1

        frozen = {run: _processes(pod) for run, pod in old.items()}
        _signal(frozen, signal.SIGSTOP)
        hits[sent_again] = k8s_user.in_mid_run(sent_again, hits[sent_again].what)
        hits[given_up] = k8s_user.in_mid_run(given_up, "node frozen, then kubectl delete node")
        for run in runs:
            k8s_user.pace(run, 0)  # nor does anything keep the old ones from writing
        k8s_user.recovered(sent_again, hits[sent_again])
        assert list(pods_of(list(seen), given_up)) == [old[given_up]["metadata"]["name"]], "no replacement by itself"

        # Without the node there is one.
        bed.kubectl("delete", "node", "node-b")
        k8s_user.recovered(given_up, replace(hits[given_up], time=time.time()))

        _signal(frozen, signal.SIGCONT)
        for run in runs:
            k8s_user.wait(lambda run=run: not any(map(_lives, frozen[run])), f"end of the old {run}", 30)  # type: ignore[misc]
            assert "this attempt ends without writing" in _log(bed.directory, old[run]), run
            assert [event["attempt"] for event in k8s_user.ledger(run, "end")] in ([], [2]), "the old one wrote its end"
        bed.start("node-b.kubelet")

        # Nobody but the watcher releases the evaluation here.
        watchers = [k8s_user.begin("watch", run) for run in runs]
        for watcher in watchers:
            said, complaint = watcher.communicate(timeout=400)
            assert watcher.returncode == 0, f"{said}{complaint}{k8s_user.output()}"
    for run in runs:
        k8s_user.check_whole(run, attempts=2, stages={"eval": 1})
        assert k8s_user.weights(run) == reference.weights()


def _running_on(pods: list[dict[str, Any]], run: str, node: str) -> dict[str, Any] | None:
    found = [pod for pod in pods_of(pods, run).values() if pod["spec"].get("nodeName") == node]
    return next((pod for pod in found if pod["status"].get("phase") == "Running"), None)


# --- the processes of a pod, as this machine sees them -----------------------------------------


def _processes(pod: dict[str, Any]) -> list[int]:
    found = []
    for directory in Path("/proc").iterdir():
        if directory.name.isdecimal():
            try:
                groups = (directory / "cgroup").read_text()
            except OSError:
                continue
            if f"pod{pod['metadata']['uid']}" in groups and b"openrs" in (directory / "cmdline").read_bytes():
                found.append(int(directory.name))
    assert len(found) >= 2, "the supervisor and the trainer"
    return found


def _signal(frozen: dict[str, list[int]], how: signal.Signals) -> None:
    for pid in [pid for pids in frozen.values() for pid in pids]:
        os.kill(pid, how)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _log(bed: Path, pod: dict[str, Any]) -> str:
    """What the container printed, as its node keeps it: nobody else can be asked."""
    files = (bed / "nodes" / pod["spec"]["nodeName"] / "log").glob(f"*{pod['metadata']['uid']}/worker/*.log")
    return "".join(path.read_text() for path in files)
