"""What is said of Jobs and pods as a real cluster described them.

`kubernetes/states.json` was recorded on the test bed (Kubernetes 1.34), with the fields left out that nobody reads.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from openrs.engines import FORGOTTEN, Job, JobInfo, JobState
from openrs.engines.kubernetes import KubernetesEngine, _is_stuck, memory, states
from openrs.engines.kubernetes.api import Api
from openrs.engines.kubernetes.manifest import AFTER, CONTAINER, KUEUE_QUEUE
from tests.engines.test_kubernetes_render import K8S

Object = dict[str, Any]

SEEN: dict[str, Object] = json.loads((Path(__file__).parent / "kubernetes" / "states.json").read_text())


def said(name: str) -> JobInfo:
    seen = copy.deepcopy(SEEN[name])
    return states.job_info(seen["job"], seen["pods"], seen["events"])


P, R, F = JobState.PENDING, JobState.RUNNING, JobState.FAILED


@pytest.mark.parametrize(
    ("name", "state", "words"),
    [
        ("complete", JobState.SUCCEEDED, []),
        ("config", F, ["training.micro_batch: does not fit"]),
        ("again", F, ["pod again-train-1-0-", "ended with code 3"]),
        ("memory", F, ["was killed for want of memory (exit 137)", "raise resources.memory_gb"]),
        ("python", F, ["could not start", '"no-such-python": executable file not found', "check python in the profile"]),
        ("interrupted", P, ["starting; the attempt before: stopped and saved at step 12"]),
        ("product", P, ["Unschedulable", "no node has such a GPU", "gpu_products in the profile"]),
        ("gpus", P, ["2 Insufficient nvidia.com/gpu", "ask for less in resources"]),
        ("taint", P, ["untolerated taint", "add tolerations to the profile"]),
        ("claim", P, ['persistentvolumeclaim "nope" not found', "make the claim, or name another in volumes"]),
        ("unbound", P, ["unbound immediate PersistentVolumeClaims", "`kubectl get pvc`"]),
        ("image", P, ["ImagePullBackOff", "check image and image_pull_secrets in the profile"]),
        ("secret", P, ['secret "hf" not found', "a Secret or ConfigMap that it names is missing"]),
        ("config-map", P, ['configmap "gone" not found', "cannot be mounted"]),
        ("quota", P, ["no pod may be made", "exceeded quota: small", "tries again by itself"]),
        ("evicting", R, ["stopping: evicted through the API (a drain?)"]),
        ("evicted", P, ["the next attempt starts soon; the last one: evicted through the API"]),
        ("preempted", P, ["2 Insufficient nvidia.com/gpu", "it waits until they are free"]),  # the scheduler has removed its pod
        ("rebooted", P, ["starting; the attempt before: pod runs-train-1-0-", "its node node-", "restarted"]),
        ("lost", JobState.INTERRUPTED, ["no longer answers", "kubectl delete node node-", "out-of-service", "openrs resume runs"]),
        ("held", P, ["waits for held-train-1"]),
        ("by-somebody", P, ["suspended by somebody", "kubectl patch"]),
        ("runs", R, []),
        ("array", R, []),
        ("array-ended", F, ["pod array-ended-eval-1-", "ended with code 78"]),
    ],
)  # fmt: skip
def test_states_in_plain_words(name: str, state: JobState, words: list[str]) -> None:
    info = said(name)
    assert info.state == state, info
    for word in words:
        assert word in info.reason, info.reason
    assert bool(words) == bool(info.reason)
    assert not info.reason or info.reason.isprintable(), "one line"


def test_every_recorded_state_is_looked_at() -> None:
    (mark,) = test_states_in_plain_words.pytestmark  # type: ignore[attr-defined]
    assert sorted(SEEN) == sorted(case[0] for case in mark.args[1])


def test_indexes_of_an_array() -> None:
    done, failed = JobState.SUCCEEDED, JobState.FAILED
    assert said("array").tasks == {0: done, 1: failed, 2: done, 4: done}
    assert said("array-ended").tasks == {0: done, 1: failed, 2: done, 3: failed, 4: done}
    assert said("complete").tasks == {}, "training is no array"
    assert states.indexes("") == []
    assert states.indexes("0-3,7,9-10") == [0, 1, 2, 3, 7, 9, 10]


def test_the_supervisors_own_words() -> None:
    assert (said("interrupted").step, said("interrupted").attempts) == (12, 1)
    assert said("config").attempts == 1


def test_containers_that_a_cluster_puts_beside() -> None:
    """Put together: the proxy of a mesh stands before the worker, since kubelets sort by name."""
    proxy = {"name": "istio-proxy", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}
    for name in ("config", "interrupted", "image"):
        seen = copy.deepcopy(SEEN[name])
        for pod in seen["pods"]:
            (own,) = pod["status"]["containerStatuses"]
            pod["status"]["containerStatuses"] = [proxy, own | {"name": CONTAINER}]
        assert states.job_info(seen["job"], seen["pods"], seen["events"]) == said(name)
    ended = states.ended_of(SEEN["config"]["pods"][0])
    assert ended is not None and ended.code == 78


def init(pod: Object, **state: Object) -> Object:
    """The pod as a cluster makes it that puts containers before openrs's: they come first, and openrs's waits for them."""
    done = {"name": "vault-agent-init", "state": {"terminated": {"exitCode": 0}}}
    pod = copy.deepcopy(pod)
    pod["status"]["initContainerStatuses"] = [done, {"name": "istio-init", "state": state}]
    pod["status"]["containerStatuses"] = [{"name": CONTAINER, "state": {"waiting": {"reason": "PodInitializing"}}}]
    return pod


def test_containers_that_a_cluster_puts_before() -> None:
    """Put together: no mesh is at hand."""
    seen = copy.deepcopy(SEEN["config-map"])
    named, way_out = "init container istio-init (not openrs's): ", "; ask the cluster's administrator"
    pulling = {"reason": "ImagePullBackOff", "message": "Back-off pulling\nimage"}
    ended = {"exitCode": 1, "message": "no\niptables"}
    for state, words in (
        ({"waiting": pulling}, f"{named}ImagePullBackOff: Back-off pulling image{way_out}"),
        ({"waiting": {"reason": "PodInitializing"}}, "starting"),
        ({"running": {}}, "starting"),
        ({"terminated": ended}, f"{named}ended with code 1: no iptables{way_out}"),
    ):
        pod = init(seen["pods"][0], **state)
        assert states.job_info(seen["job"], [pod], []) == JobInfo(P, words)
        assert states.creating([pod]) is pod, "its events are asked for"
    pod["status"]["phase"] = "Failed"
    failed = states.ended_of(pod)
    assert failed is not None and failed.code == 1
    assert failed.reason == f"pod {pod['metadata']['name']}: {named}ended with code 1: no iptables{way_out}"
    newer = copy.deepcopy(seen["pods"][0])
    newer["metadata"]["creationTimestamp"] = "2030-01-01T00:00:00Z"
    reason = states.job_info(seen["job"], [pod, newer], []).reason
    assert reason == f"starting; the attempt before: {failed.reason}", "what has failed does not wait"
    evicted = copy.deepcopy(pod)
    evicted["status"] |= {"reason": "Evicted", "message": "low on disk"}
    failed = states.ended_of(evicted)
    assert failed is not None and failed.reason.endswith("Evicted: low on disk")


def test_a_node_that_cannot_set_a_pod_up() -> None:
    """Put together: the node's network must be broken for it."""
    seen = SEEN["config-map"]
    failed = {
        "reason": "FailedCreatePodSandBox",
        "message": 'Failed to create pod sandbox: plugin type="calico" failed',
    }
    info = states.job_info(seen["job"], seen["pods"], [failed])
    assert info == JobInfo(P, f"{failed['message']}; the node cannot set the pod up; ask its administrator")
    assert states.job_info(seen["job"], seen["pods"], [failed, {"reason": "Pulling"}]).reason == "starting"


def test_a_pod_that_stops_still_runs() -> None:
    """Put together: a Job does not count a pod as active that was deleted, and makes none until it has gone."""
    seen = copy.deepcopy(SEEN["evicting"])
    seen["job"]["status"] = {"terminating": 1, "ready": 0}
    goes_on = "; the next attempt starts when it has gone"
    info = states.job_info(seen["job"], seen["pods"], [])
    assert info == JobInfo(R, f"stopping: evicted through the API (a drain?){goes_on}")
    seen["pods"][0]["status"]["conditions"] = []
    assert states.job_info(seen["job"], seen["pods"], []) == JobInfo(R, f"stopping: its pod was deleted{goes_on}")
    del seen["pods"][0]["metadata"]["deletionTimestamp"]
    assert states.job_info(seen["job"], seen["pods"], []) == JobInfo(R), "the Job has not seen it yet"


def test_a_process_below_the_supervisor_that_was_killed_for_memory() -> None:
    """Put together from two records: how such a container ends depends on the kernel's cgroups."""
    seen = copy.deepcopy(SEEN["memory"])
    seen["pods"][0]["status"]["containerStatuses"][0]["state"]["terminated"]["message"] = (
        '{"code": 1, "reason": "rank 0 died"}'
    )
    reason = states.job_info(seen["job"], seen["pods"], []).reason
    assert reason == "rank 0 died; the pod ran out of memory, raise resources.memory_gb"


def test_killed_though_nobody_says_for_what() -> None:
    """Put together: containerd may tell of a container's end before it knows of the kernel's choice."""
    pod = copy.deepcopy(SEEN["memory"]["pods"][0])
    pod["status"]["containerStatuses"][0]["state"]["terminated"]["reason"] = "Error"
    ended = states.ended_of(pod)
    assert ended is not None and "most likely for want of memory; raise resources.memory_gb" in ended.reason
    pod["metadata"]["deletionTimestamp"] = "2026-11-23T00:00:00Z"
    ended = states.ended_of(pod)
    assert ended is not None and "did not stop in time" in ended.reason and "grace_seconds" in ended.reason


def test_what_was_seen_of_a_job_is_remembered(tmp_path: Path) -> None:
    job = Job("lost", "lost-train-1", None, tmp_path)
    assert memory.keep(job, JobInfo(P, "starting", attempts=2)).attempts == 2
    assert memory.keep(job, None) == JobInfo(JobState.UNKNOWN, FORGOTTEN, attempts=2)
    memory.keep(job, JobInfo(R, step=11, attempts=3))
    assert (memory.keep(job, JobInfo(R)).step, memory.keep(job, JobInfo(R, step=10)).step) == (11, 10)
    lost = memory.keep(job, JobInfo(JobState.INTERRUPTED, "node node-a no longer answers"))
    assert (lost.step, lost.attempts) == (10, 3)  # nobody can be asked now
    assert memory.keep(job, None) == lost


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ('{"step": 12, "steps": 40, "saved": 10, "attempt": 2}', (12, 2, 10)),
        ('{"step": 12, "steps": 40, "attempt": 2}', (12, 2, None)),  # an image with an older openrs
        ('{"step": 12, "saved": "all"}', (12, None, None)),
    ],
)
def test_what_a_progress_line_says(line: str, found: tuple[int | None, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """A fake server, that has one log."""
    engine = KubernetesEngine(K8S)
    engine._connected = cast("Api", SimpleNamespace(log=lambda name, **_: f"other words\n{line}\n"))
    pod = {"metadata": {"name": "p", "creationTimestamp": "2026-11-23T00:00:00Z"}}
    info = engine._with_progress(JobInfo(R), [pod])
    assert (info.step, info.attempts, info.saved) == found


def test_the_newest_failure_counts_in_whatever_order_pods_are_listed() -> None:
    seen = copy.deepcopy(SEEN["config"])
    older = copy.deepcopy(SEEN["memory"]["pods"][0])
    older["metadata"]["creationTimestamp"] = "2020-01-01T00:00:00Z"
    for pods in ([*seen["pods"], older], [older, *seen["pods"]]):
        assert states.job_info(seen["job"], pods, []).reason == "training.micro_batch: does not fit"


def test_a_lost_node_is_said_only_while_every_living_pod_stands_on_one() -> None:
    seen = copy.deepcopy(SEEN["lost"])
    other = copy.deepcopy(SEEN["runs"]["pods"][0])
    assert states.job_info(seen["job"], [*seen["pods"], other], []).state == R


def test_queued_by_kueue() -> None:
    seen = copy.deepcopy(SEEN["by-somebody"])
    seen["job"]["metadata"]["labels"][KUEUE_QUEUE] = "a40"
    assert states.job_info(seen["job"], [], []) == JobInfo(P, "queued in a40 (Kueue)")


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("PreemptionByScheduler", "preempted by a pod of higher priority"),
        ("TerminationByKubelet", "ended by its node"),
        ("DeletionByPodGC", "its node is gone"),
        ("Unheard", "Unheard"),
    ],
)
def test_other_disruptions(reason: str, words: str) -> None:
    """Recorded as an eviction; only the reason is put in."""
    for name in ("evicting", "evicted"):
        seen = json.loads(json.dumps(SEEN[name]).replace("EvictionByEvictionAPI", reason))
        assert words in states.job_info(seen["job"], seen["pods"], []).reason


def test_deleted() -> None:
    seen = copy.deepcopy(SEEN["runs"])
    seen["job"]["metadata"]["deletionTimestamp"] = "2026-11-23T00:00:00Z"
    assert states.job_info(seen["job"], seen["pods"], []).state == R, "it still saves"
    seen["job"]["status"] = {}
    assert states.job_info(seen["job"], [], []).state == JobState.CANCELLED


def _waiting(after: str | None, waits: Object) -> JobInfo | None:
    jobs = {"e": waits}
    if after is not None:
        jobs["held-train-1"] = SEEN[after]["job"]
    infos = {
        name: states.job_info(job, SEEN[after]["pods"] if after and name != "e" else [], [])
        for name, job in jobs.items()
    }
    return states.in_vain(jobs, infos).get("e")


def test_waiting_in_vain() -> None:
    held = SEEN["held"]["job"]
    assert held["metadata"]["annotations"][AFTER] == "held-train-1"
    assert _waiting("runs", held) is None
    assert _waiting("evicted", held) is None
    for after, state, words in (
        (None, JobState.CANCELLED, "held-train-1, which is gone"),
        ("config", JobState.CANCELLED, "held-train-1, which did not succeed"),
        ("complete", P, "held-train-1 is complete; `openrs watch held` releases it"),
    ):
        info = _waiting(after, held)
        assert info is not None and info.state == state and words in info.reason
    assert states.may_begin(held, {"held-train-1": SEEN["complete"]["job"]})
    assert not states.may_begin(held, {"held-train-1": SEEN["config"]["job"]})
    released = {**held, "spec": {**held["spec"], "suspend": False}}
    assert not states.may_begin(released, {"held-train-1": SEEN["complete"]["job"]})


def test_when_events_are_asked_for() -> None:
    assert _is_stuck(SEEN["quota"]["job"], SEEN["quota"]["pods"])
    for name in ("held", "complete", "runs", "evicted"):
        assert not _is_stuck(SEEN[name]["job"], SEEN[name]["pods"]), name
    creating = states.creating(SEEN["config-map"]["pods"])
    assert creating is not None and creating["metadata"]["name"].startswith("config-map-train-1-0-")
    assert states.creating(SEEN["runs"]["pods"]) is None
    assert states.creating(SEEN["image"]["pods"]) is None
    assert states.creating([]) is None


@pytest.mark.parametrize(
    "message", ["", "not json", "[]", "3", "null", '{"code": 1}', '{"reason": null}', '{"reason": ["x"], "step": "no"}']
)
def test_last_words_that_are_none(message: str) -> None:
    pod = copy.deepcopy(SEEN["again"]["pods"][0])
    pod["status"]["containerStatuses"][0]["state"]["terminated"]["message"] = message
    info = states.job_info(SEEN["again"]["job"], [pod], [])
    assert info.state == F and info.reason
