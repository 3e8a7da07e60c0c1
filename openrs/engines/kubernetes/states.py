"""What Jobs and their pods say, in openrs's states and in plain words with what to do. Pure: objects in, states out."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from openrs.engines import JobInfo, JobState
from openrs.engines.kubernetes.manifest import AFTER, CONTAINER, KUEUE_QUEUE, RUN
from openrs.worker.exits import DONE, INTERRUPTED

Object = dict[str, Any]

LOST = "DeletionByTaintManager"
"""Reason of a pod's DisruptionTarget condition when its node no longer answers (Kubernetes, "Disruptions")."""

COMPONENT = "app.kubernetes.io/component"
"""Label: `train` or `cells`."""

_MOUNT = "a volume of the profile cannot be mounted; `kubectl describe` the pod"
_HOLDS = {
    "FailedMount": _MOUNT,
    "FailedAttachVolume": _MOUNT,
    "FailedCreatePodSandBox": "the node cannot set the pod up; ask its administrator",
}
"""Reasons of events about what a node does for a pod before its first image, and what to do."""
_SET_UP = ("Pulling", "Pulled")
"""Reasons of events that come after those."""
_DISRUPTIONS = {
    "EvictionByEvictionAPI": "evicted through the API (a drain?)",
    "PreemptionByScheduler": "preempted by a pod of higher priority",
    "TerminationByKubelet": "ended by its node (shutdown or pressure)",
    "DeletionByPodGC": "its node is gone",
    LOST: "its node no longer answers",
}
_WAITING = {
    "ErrImagePull": "check image and image_pull_secrets in the profile",
    "ImagePullBackOff": "check image and image_pull_secrets in the profile",
    "InvalidImageName": "check image in the profile",
    "ErrImageNeverPull": "check image in the profile",
    "CreateContainerConfigError": "a Secret or ConfigMap that it names is missing; `kubectl describe` it",
    "CreateContainerError": "`kubectl describe` it",
    "RunContainerError": "check python in the profile, which must be a program of the image",
}
_UNSCHEDULABLE = (
    ("persistentvolumeclaim", "make the claim, or name another in volumes of the profile"),
    ("PersistentVolumeClaims", "the claim has no volume yet; `kubectl get pvc`"),
    (
        "node affinity/selector",
        "no node has such a GPU; `kubectl get nodes -L nvidia.com/gpu.product`, gpu_products in the profile",
    ),
    ("untolerated taint", "add tolerations to the profile, or wait for the nodes"),
    ("Insufficient", "it waits until they are free; if no node has so many, ask for less in resources"),
)


@dataclass(frozen=True)
class Ended:
    """How a container ended, from its status and the supervisor's last words."""

    code: int
    reason: str
    attempt: int | None = None
    step: int | None = None


def job_info(job: Object, pods: list[Object], events: list[Object]) -> JobInfo:
    """The state of a Job, from itself, its pods that have not succeeded, and its events."""
    status, spec = job.get("status", {}), job["spec"]
    conditions = {item["type"]: item for item in status.get("conditions", []) if item["status"] == "True"}
    tasks = {} if job["metadata"].get("labels", {}).get(COMPONENT) == "train" else _tasks(status)
    pods = sorted(pods, key=_age)
    known = [ended for ended in map(ended_of, pods) if ended is not None]
    attempts = max([ended.attempt or 0 for ended in known], default=0) or None
    steps = max([ended.step or 0 for ended in known], default=0) or None

    def info(state: JobState, reason: str = "") -> JobInfo:
        return JobInfo(state, reason, tasks, step=steps, attempts=attempts)

    if "Complete" in conditions:
        return info(JobState.SUCCEEDED)
    if "Failed" in conditions or "FailureTarget" in conditions:
        condition = conditions.get("Failed") or conditions["FailureTarget"]
        bad = [ended for ended in known if ended.code not in (DONE, INTERRUPTED)]
        return info(JobState.FAILED, bad[-1].reason if bad else _condition_words(condition))
    if "deletionTimestamp" in job["metadata"] and not status.get("active"):
        return info(JobState.CANCELLED, "deleted")
    lost = _lost_node(job, pods)
    if lost is not None:
        return info(JobState.INTERRUPTED, lost)
    if spec.get("suspend"):
        return info(JobState.PENDING, _suspended(job))
    running = [pod for pod in pods if pod.get("status", {}).get("phase") == "Running"]
    if not status.get("active"):
        refused = [event for event in events if event.get("reason") == "FailedCreate"]
        if refused and not pods:
            return info(
                JobState.PENDING, f"no pod may be made: {_message(refused[-1])}; Kubernetes tries again by itself"
            )
        if running:  # one that is being stopped is not counted as active
            return info(JobState.RUNNING, _stopping_words(running[-1]))
        return info(JobState.RUNNING if tasks else JobState.PENDING, _retry_words(pods[-1] if pods else None))
    if running or status.get("ready"):
        leaving = [disruption(pod) for pod in running]
        return info(JobState.RUNNING, f"stopping: {leaving[-1]}" if leaving and all(leaving) else "")
    living = [pod for pod in pods if pod.get("status", {}).get("phase") != "Failed"]
    waiting = [words for words in map(waiting_words, living) if words] or _holding_words(events)
    words = waiting[-1] if waiting else "starting"
    before = [_end_words(pod) for pod in pods if pod.get("status", {}).get("phase") == "Failed"]
    if before and not tasks:
        words += f"; the attempt before: {before[-1]}"
    # An array that has begun does not stop because its next pod waits.
    return info(JobState.RUNNING if tasks else JobState.PENDING, words)


def creating(pods: list[Object]) -> Object | None:
    """The newest pod, where none has begun and it has a node already: only its events say what it waits for."""
    newest = max(pods, key=_age, default=None)
    if newest is None or any(pod.get("status", {}).get("phase") == "Running" for pod in pods):
        return None
    reason = _container(newest).get("state", {}).get("waiting", {}).get("reason")
    return newest if reason in ("ContainerCreating", "PodInitializing") else None  # the latter with init containers


def finished(job: Object) -> bool:
    """Whether nothing more happens to a Job."""
    return bool({"Complete", "Failed"} & _true_conditions(job))


def may_begin(job: Object, others: dict[str, Object]) -> bool:
    """Whether a Job waits for another one that is complete."""
    before = others.get(job["metadata"].get("annotations", {}).get(AFTER, ""))
    return bool(job["spec"].get("suspend")) and before is not None and "Complete" in _true_conditions(before)


def in_vain(jobs: dict[str, Object], infos: dict[str, JobInfo]) -> dict[str, JobInfo]:
    """What to say instead of Jobs that wait for one that will not come, or for somebody to release them."""
    found = {}
    for name, job in jobs.items():
        after = job["metadata"].get("annotations", {}).get(AFTER)
        if not job["spec"].get("suspend") or after is None or infos[name].state != JobState.PENDING:
            continue
        before = infos.get(after)
        if before is None:
            found[name] = JobInfo(JobState.CANCELLED, f"it waited for {after}, which is gone")
        elif may_begin(job, jobs):
            run = job["metadata"].get("annotations", {}).get(RUN, "RUN")
            found[name] = JobInfo(JobState.PENDING, f"{after} is complete; `openrs watch {run}` releases it")
        elif before.state.ended:
            found[name] = JobInfo(JobState.CANCELLED, f"it waited for {after}, which did not succeed")
    return found


def ended_of(pod: Object) -> Ended | None:
    """How the pod's container ended; None while it runs."""
    status = pod.get("status", {})
    terminated = _container(pod).get("state", {}).get("terminated")
    words = f"pod {pod['metadata']['name']}"
    if terminated is None:
        if status.get("phase") != "Failed":
            return None
        before = "" if "reason" in status else _init_words(pod)
        if before:
            return Ended(1, f"{words}: {before}")
        return Ended(1, f"{words} {status.get('reason', 'failed')}: {_line(status.get('message', 'no more is known'))}")
    code, said = int(terminated["exitCode"]), terminated.get("message", "")
    try:
        last = json.loads(said)
        own = str(last["reason"])
        if terminated.get("reason") == "OOMKilled":  # of a process below the supervisor
            own += "; the pod ran out of memory, raise resources.memory_gb"
        return Ended(code, own, last.get("attempt"), last.get("step"))
    except (ValueError, TypeError, KeyError):
        pass
    if terminated.get("reason") == "OOMKilled":
        reason = f"{words} was killed for want of memory (exit 137); raise resources.memory_gb"
    elif terminated.get("reason") == "StartError":
        reason = f"{words} could not start: {_line(said)[-300:]}; check python in the profile, which must be a program of the image"
    elif code == 137 and "deletionTimestamp" in pod["metadata"]:
        reason = f"{words} did not stop in time and was killed (exit 137); raise recovery.grace_seconds"
    elif code == 137:  # the runtime misses the kernel's word now and then
        reason = f"{words} was killed (exit 137), most likely for want of memory; raise resources.memory_gb"
    elif code == 255 and terminated.get("reason") == "Unknown":
        reason = f"{words}: its node {pod['spec'].get('nodeName', '')} restarted"
    else:
        reason = f"{words} ended with code {code}" + (f": {_line(said)[-300:]}" if said else "")
    return Ended(code, reason)


def waiting_words(pod: Object) -> str:
    """Why a pod does not run yet, and what to do; empty where nothing is wrong."""
    conditions = {item["type"]: item for item in pod.get("status", {}).get("conditions", [])}
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("status") == "False":
        message = _line(scheduled.get("message", ""))
        hint = next((hint for word, hint in _UNSCHEDULABLE if word in message), "")
        return f"{scheduled.get('reason', 'not scheduled')}: {message}" + (f"; {hint}" if hint else "")
    waiting = _container(pod).get("state", {}).get("waiting", {})
    reason = waiting.get("reason", "")
    if reason in _WAITING:
        return f"{reason}: {_line(waiting.get('message', ''))}; {_WAITING[reason]}"
    return _init_words(pod)


def disruption(pod: Object) -> str:
    """Why the cluster took the pod away, in words; empty where it did not."""
    reason = _condition(pod, "DisruptionTarget").get("reason", "")
    return _DISRUPTIONS.get(reason, reason)


def indexes(text: str) -> list[int]:
    """`"0-2,5"`, as Jobs write `completedIndexes`, as numbers."""
    numbers: list[int] = []
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        numbers += range(int(first), int(last or first) + 1)
    return numbers


def _tasks(status: Object) -> dict[int, JobState]:
    done = dict.fromkeys(indexes(status.get("completedIndexes", "")), JobState.SUCCEEDED)
    return done | dict.fromkeys(indexes(status.get("failedIndexes", "")), JobState.FAILED)


def _suspended(job: Object) -> str:
    queue = job["metadata"].get("labels", {}).get(KUEUE_QUEUE)
    if queue:
        return f"queued in {queue} (Kueue)"
    after = job["metadata"].get("annotations", {}).get(AFTER)
    return f"waits for {after}" if after else "suspended by somebody; `kubectl patch` spec.suspend to false"


def _lost_node(job: Object, pods: list[Object]) -> str | None:
    """What to say of a Job all of whose living pods stand on nodes that no longer answer."""
    alive = [pod for pod in pods if pod.get("status", {}).get("phase") in ("Running", "Pending")]
    nodes = sorted(
        {str(pod["spec"].get("nodeName")) for pod in alive if _condition(pod, "DisruptionTarget").get("reason") == LOST}
    )
    if not nodes or any(_condition(pod, "DisruptionTarget").get("reason") != LOST for pod in alive):
        return None
    node, run = nodes[0], job["metadata"].get("annotations", {}).get(RUN, "RUN")
    return (
        f"node {node} no longer answers, and no pod comes in its place while the old one may still write; if it is dead: "
        f"`kubectl delete node {node}`, or `kubectl taint node {node} node.kubernetes.io/out-of-service=nodeshutdown:NoExecute`; "
        f"or `openrs resume {run}` sends a new Job, which waits for the lease"
    )


def _init_words(pod: Object) -> str:
    """What keeps a container from its work that the cluster puts before openrs's, as service meshes do; empty where nothing does."""
    for item in pod.get("status", {}).get("initContainerStatuses", []):
        state = item.get("state", {})
        waiting, code = state.get("waiting", {}), state.get("terminated", {}).get("exitCode")
        if waiting.get("reason") in (*_WAITING, "CrashLoopBackOff"):
            why = f"{waiting['reason']}: {_line(waiting.get('message', ''))}"
        elif code:
            said = _line(state["terminated"].get("message", ""))[-300:]
            why = f"ended with code {code}" + (f": {said}" if said else "")
        else:
            continue
        return f"init container {item.get('name')} (not openrs's): {why}; ask the cluster's administrator"
    return ""


def _holding_words(events: list[Object]) -> list[str]:
    """What a node cannot do for a pod, of its events: they stay there when it has done it in the end."""
    if any(event.get("reason") in _SET_UP for event in events):
        return []
    return [f"{_message(event)}; {_HOLDS[event['reason']]}" for event in events if event.get("reason") in _HOLDS]


def _stopping_words(pod: Object) -> str:
    if "deletionTimestamp" not in pod["metadata"]:  # the Job's status is about to follow
        return ""
    return f"stopping: {disruption(pod) or 'its pod was deleted'}; the next attempt starts when it has gone"


def _retry_words(pod: Object | None) -> str:
    if pod is None:
        return "no pod yet"
    why = _end_words(pod)
    return f"the next attempt starts soon; the last one: {why}" if why else "starting"


def _end_words(pod: Object) -> str:
    ended = ended_of(pod)
    return disruption(pod) or (ended.reason if ended is not None else "")


def _age(pod: Object) -> str:
    return str(pod["metadata"]["creationTimestamp"])


def _condition_words(condition: Object) -> str:
    message = _line(condition.get("message", ""))
    return f"{condition.get('reason', 'Failed')}: {message}" if message else str(condition.get("reason", "Failed"))


def _true_conditions(job: Object) -> set[str]:
    conditions = job.get("status", {}).get("conditions", [])
    return {str(item["type"]) for item in conditions if item["status"] == "True"}


def _condition(pod: Object, kind: str) -> Object:
    for item in pod.get("status", {}).get("conditions", []):
        if item["type"] == kind and item["status"] == "True":
            return dict(item)
    return {}


def _container(pod: Object) -> Object:
    """Status of openrs's own container; kubelets sort them by name, and others may stand before it."""
    found = pod.get("status", {}).get("containerStatuses", [])
    return next((item for item in found if item.get("name") == CONTAINER), next(iter(found), {}))


def _message(event: Object) -> str:
    return _line(event.get("message", ""))


def _line(text: str) -> str:
    return " ".join(text.split())
