"""Engine `kubernetes`: plain Jobs from the manifests of `k8s/`, no operator. Kubernetes 1.29 and later."""

from __future__ import annotations

import posixpath
import secrets
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from openrs.engines import Artifacts, Job, JobInfo, JobState, Place, PodLog, StillStopping, common_files, stage_file
from openrs.engines.kubernetes import checks, compare, logs, manifest, memory, states
from openrs.engines.kubernetes.api import Api, Refused, release
from openrs.engines.kubernetes.manifest import RUN, SENDING, label_value
from openrs.errors import BadInput, OpenRSError
from openrs.plan import Plan, Stage
from openrs.runs.files import last_object
from openrs.spec.canonical import pretty
from openrs.spec.cluster import Cluster
from openrs.spec.experiment import Experiment, Spec
from openrs.spec.parts import Data, Model

Object = dict[str, Any]

MANIFEST = "job.yaml"
"""Name of the file, in a stage's directory, that holds its ConfigMap and its Job."""

KINDS = ("configmaps", "jobs")
"""What stands in it, in this order."""

CANCELLED = "openrs.dev/cancelled"
"""Annotation of a Job that a person cancelled."""

_MANY = 20
"""Runs that are asked for one by one in a label selector; beyond, all of openrs's Jobs are."""
PATIENCE_SECONDS = 20
"""What the control plane gets beyond the pods' own time."""
_TAIL_LINES = 20
_NOT_FINISHED = "status.phase!=Succeeded"


class KubernetesEngine:
    """A namespace of a Kubernetes cluster. A handle is the name of a Job."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._connected: Api | None = None

    @property
    def _api(self) -> Api:
        if self._connected is None:
            self._connected = Api.of(self.cluster)
        return self._connected

    def render(self, experiment: Spec, plan: Plan, place: Place) -> Artifacts:
        """For each stage one YAML file: the ConfigMap with all that the Job is told, and the Job."""
        self._check(experiment)
        common = common_files(experiment, plan, place, self.cluster)
        files = {}
        for stage in plan.stages:
            waiting = [manifest.job_name(place, other.name) for other in plan.stages if stage.name in other.after]
            told = stage_file(experiment, plan, stage, place, self.cluster)
            if self.cluster.release == "worker" and self.cluster.service_account is not None:
                told = told.model_copy(update={"releases": waiting})
            data = {"stage.json": pretty(told), "spec.json": common["spec.json"]}
            if stage.tasks is not None:
                data["cells.json"] = common[f"{stage.name}/cells.json"]
            files[f"{stage.name}/{MANIFEST}"] = manifest.render_stage(
                stage, experiment, plan, place, self.cluster, data
            )
        return Artifacts(place, plan, files)

    def _check(self, experiment: Spec) -> None:
        """Raises BadInput for what pods could not find or do."""
        cluster = self.cluster
        if cluster.setup:
            raise BadInput(
                f"cluster {cluster.name}: setup: {cluster.setup[0]!r} cannot run in a pod, where a shell would keep the signals "
                f"from the supervisor; put it into the image"
            )
        local: dict[str, Model | Data] = {"model": experiment.model}
        if isinstance(experiment, Experiment):
            local["data"] = experiment.data
        local |= {f"evaluation.benchmarks.{item.name}.data": item.data for item in experiment.evaluation.benchmarks}
        paths = {where: item.path for where, item in local.items() if item.type == "path" or item.type == "jsonl"}
        paths = {f"{where}.path": path for where, path in paths.items() if not path.startswith("openrs:")}
        paths["shared_root"] = cluster.shared_root or ""
        mounted = [volume.path for volume in cluster.volumes]
        for where, path in paths.items():
            real = posixpath.normpath(path)
            if not any(real == mount or real.startswith(f"{mount}/") for mount in mounted):
                raise BadInput(
                    f"{where} = {path!r}: no pod sees it; it must be on one of the volumes of cluster {cluster.name} "
                    f"({', '.join(mounted) or 'it has none'})"
                )
        root = posixpath.normpath(paths["shared_root"])
        holder = max(
            (item for item in cluster.volumes if f"{root}/".startswith(f"{item.path}/")), key=lambda v: len(v.path)
        )
        if holder.read_only:
            raise BadInput(
                f"shared_root = {root!r}: the volume of claim {holder.claim} at {holder.path} is read_only in cluster "
                f"{cluster.name}, and run directories are written there"
            )
        manifest.check_environment(cluster)

    def submit(self, artifacts: Artifacts) -> dict[str, str]:
        """Makes every Job suspended, then its ConfigMap, owned by it, and then lets those go that wait for nothing."""
        plan = artifacts.plan
        objects = {stage.name: manifest.read(artifacts.files[f"{stage.name}/{MANIFEST}"]) for stage in plan.stages}
        try:
            self._check_first(plan.stages, objects)
        except OpenRSError as error:  # also that no server answers: the profile says where it is
            raise BadInput(str(error)) from None
        made: list[str] = []
        try:
            for config, job in objects.values():
                made.append(self._create(config, job))
            for _, job in objects.values():
                if job["spec"].get("suspend") is False:
                    self._api.patch("jobs", job["metadata"]["name"], {"spec": {"suspend": False}})
        except BaseException as error:
            left = self._take_back(made)
            if isinstance(error, OpenRSError) and (left or isinstance(error, Refused)):
                raise BadInput(f"{error}{left}") from None
            raise
        return {stage: job["metadata"]["name"] for stage, (_, job) in objects.items()}

    def _take_back(self, names: list[str]) -> str:
        """Deletes what was made; what to say of what could not be."""
        left = []
        for name in names:
            try:
                self._api.delete("jobs", name)
            except OpenRSError:
                left.append(name)
        return f"; what was made is left behind: `kubectl delete job {' '.join(left)}`" if left else ""

    def _check_first(self, stages: list[Stage], objects: dict[str, tuple[Object, Object]]) -> None:
        checks.check_server(self._api, self.cluster)
        for stage in stages:
            checks.check_gpus(self._api, self.cluster, manifest.accepted_products(stage, self.cluster))
            checks.check_admission(self._api, objects[stage.name][1], self.cluster)
        checks.check_claims(self._api, self.cluster)  # after the others: in a namespace that is not there, no claim is

    def _create(self, config: Object, job: Object) -> str:
        """Makes a Job that does not start yet, and its ConfigMap. The name of the Job."""
        name: str = job["metadata"]["name"]
        metadata, sending = job["metadata"], secrets.token_hex(8)
        held = job | {"metadata": metadata | {"annotations": metadata.get("annotations", {}) | {SENDING: sending}}}
        if "suspend" in job["spec"]:  # under Kueue it is Kueue's to hold: the pod then waits for its ConfigMap
            held["spec"] = job["spec"] | {"suspend": True}
        try:
            created = self._api.create("jobs", held, strict=not self.cluster.allow_old_server)
        except BaseException as error:
            refused = error if isinstance(error, Refused) else None
            if refused is not None and refused.reason == "AlreadyExists":
                raise BadInput(
                    f"cluster {self.cluster.name}: there is a Job {name} in namespace {self._api.namespace} already, which is not of "
                    f"this sending; choose another id with --run, or `kubectl delete job {name}` if it is yours"
                ) from None
            # A proxy that loses patience, or a connection that breaks, says nothing of what the server has done.
            left = self._undo(name, sending) if refused is None or refused.status >= 500 else ""
            if refused is not None or (left and isinstance(error, OpenRSError)):
                raise BadInput(f"{error}{checks.way_out(str(error))}{left}") from None
            raise
        try:
            checks.check_kept(job, created, self.cluster)
            owner = {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": created["metadata"]["uid"]}
            owned = config | {"metadata": config["metadata"] | {"ownerReferences": [owner]}}
            try:
                self._api.create("configmaps", owned)
            except Refused as error:
                if error.reason != "AlreadyExists":
                    raise
                self._make_room(name)
                self._api.create("configmaps", owned)
        except BaseException as error:
            left = self._take_back([name])
            if left and isinstance(error, OpenRSError):
                raise BadInput(f"{error}{left}") from None
            raise
        return name

    def _undo(self, name: str, sending: str) -> str:
        """Deletes a Job of which it is not known whether it was made, if it was, and by this sending; what to say if it cannot."""
        try:
            metadata = self._api.get("jobs", name)["metadata"]
            if metadata.get("annotations", {}).get(SENDING) == sending:
                self._api.delete("jobs", name, uid=metadata["uid"])
        except OpenRSError as error:
            if not isinstance(error, Refused) or error.status != 404:
                return f"; what was made may be left behind: `kubectl delete job {name}`"
        return ""

    def _make_room(self, name: str) -> None:
        """Deletes a ConfigMap that a sending left which was rolled back a moment ago. Raises BadInput if it is not ours."""
        labels = self._api.get("configmaps", name)["metadata"].get("labels", {})
        if labels.get("app.kubernetes.io/managed-by") != "openrs":
            raise BadInput(
                f"cluster {self.cluster.name}: there is a ConfigMap {name} in namespace {self._api.namespace} already, which is "
                f"not openrs's; choose another id with --run, or `kubectl delete configmap {name}` if it is yours"
            )
        self._api.delete("configmaps", name)

    def inspect(self, jobs: list[Job]) -> dict[str, JobInfo]:
        """State of all Jobs by one list call; their pods by one more where some are not finished."""
        if not jobs:
            return {}
        selector = self._selector(jobs)
        found = {job["metadata"]["name"]: job for job in self._api.find("jobs", labels=selector)}
        pods: dict[str, list[Object]] = {name: [] for name in found}
        if any(_interesting(job) for job in found.values()):
            for pod in self._api.find("pods", labels=selector, fields=_NOT_FINISHED):
                pods.get(pod["metadata"]["labels"].get(logs.JOB_LABEL, ""), []).append(pod)
        infos = {name: self._inspect(job, pods[name]) for name, job in found.items()}
        infos |= states.in_vain(found, infos)
        return {job.handle: memory.keep(job, self._with_attempts(job, infos.get(job.handle))) for job in jobs}

    def _inspect(self, job: Object, pods: list[Object]) -> JobInfo:
        name = job["metadata"]["name"]
        creating = None if _waits(job) else states.creating(pods)
        events = self._events("Job", name) if _is_stuck(job, pods) else []
        events += self._events("Pod", creating["metadata"]["name"]) if creating is not None else []
        info = states.job_info(job, pods, events)
        training = job["metadata"].get("labels", {}).get(states.COMPONENT) == "train"
        return self._with_progress(info, pods) if training and info.state == JobState.RUNNING else info

    def _with_attempts(self, job: Job, info: JobInfo | None) -> JobInfo | None:
        """Of a training Job that has succeeded, how many attempts it took: asked once, of its pods."""
        if info is None or job.tasks is not None or info.state != JobState.SUCCEEDED or info.attempts:
            return info
        seen = memory.recall(job)
        if seen.state == JobState.SUCCEEDED and seen.attempts:
            return seen
        pods = self._api.find("pods", labels=f"{logs.JOB_LABEL}={job.handle}")
        ended = [words for words in map(states.ended_of, pods) if words is not None]
        return replace(info, attempts=max((words.attempt or 0 for words in ended), default=0) or seen.attempts)

    def _selector(self, jobs: list[Job]) -> str:
        runs = sorted({label_value(job.run) for job in jobs})
        return f"{RUN} in ({','.join(runs)})" if len(runs) <= _MANY else "app.kubernetes.io/managed-by=openrs"

    def _events(self, kind: str, name: str) -> list[Object]:
        try:
            return self._api.find("events", fields=f"involvedObject.kind={kind},involvedObject.name={name}")
        except Refused:
            return []

    def _with_progress(self, info: JobInfo, pods: list[Object]) -> JobInfo:
        """Step, attempt and newest checkpoint from the last progress line of the newest pod's log."""
        newest = max(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"]), default=None)
        if newest is None:
            return info
        try:
            text = self._api.log(newest["metadata"]["name"], tailLines=_TAIL_LINES)
        except OpenRSError:  # it is just starting, or its node does not answer
            return info
        line = last_object(text.splitlines(), lambda item: type(item.get("step")) is int) or {}
        step, attempt, saved = line.get("step"), line.get("attempt"), line.get("saved")
        saved = saved if type(saved) is int else None  # an image with an older openrs does not say it
        return replace(info, step=step or info.step, attempts=attempt or info.attempts, saved=saved)

    def cancel(self, jobs: list[Job], grace: int) -> None:
        """Marks and deletes these Jobs in the foreground, and waits until their pods have saved and gone."""
        for name in self._there(jobs):
            try:
                self._api.patch("jobs", name, {"metadata": {"annotations": {CANCELLED: str(int(time.time()))}}})
            except Refused as error:
                if error.status != 404:
                    raise
            self._api.delete("jobs", name, propagation="Foreground")
        deadline = time.monotonic() + grace + manifest.MARGIN_SECONDS + PATIENCE_SECONDS
        while True:
            try:
                left = self._there(jobs)
            except OpenRSError as error:
                raise StillStopping(f"{error}; the Jobs are deleted, and their pods stop by themselves") from None
            if not left:
                return
            if time.monotonic() > deadline:
                pods = f"`kubectl get pods -o wide -l {self._selector(jobs)}`"
                raise StillStopping(
                    f"{', '.join(left)}: deleted, but not gone after {grace} s; {pods} shows where the pods stand; "
                    f"those of a node that is lost go with `kubectl delete node`"
                )
            time.sleep(0.5)

    def _there(self, jobs: list[Job]) -> dict[str, Object]:
        """Those of these Jobs that the server knows, by name. Another user's run of the same id is not among them."""
        names = {job.handle for job in jobs}
        found = self._api.find("jobs", labels=self._selector(jobs))
        return {job["metadata"]["name"]: job for job in found if job["metadata"]["name"] in names}

    def release(self, jobs: list[Job]) -> list[str]:
        """Lets go what waits for a Job that is complete; the names."""
        found = {job["metadata"]["name"]: job for job in self._api.find("jobs", labels=self._selector(jobs))}
        free = [name for name in (job.handle for job in jobs) if name in found and states.may_begin(found[name], found)]
        release(self._api, free)
        return free

    def logs(self, jobs: list[Job]) -> list[PodLog]:
        """The output of every pod that is still there."""
        return logs.pod_logs(self._api, jobs)

    def pull(self, place: Place, target: Path) -> int:
        """Copies the run directory, but for checkpoints, by the API server."""
        return logs.pull(self._api, self.cluster, place, target)

    def changes(self, artifacts: Artifacts) -> dict[str, tuple[str, str]]:
        """Manifests as the server has them and as it would have them, where they differ."""
        found = {}
        for name, text in artifacts.files.items():
            pairs = [
                compare.on_server(self._api, kind, item) for kind, item in zip(KINDS, manifest.read(text), strict=True)
            ]
            has, would = manifest.dump([pair[0] for pair in pairs]), manifest.dump([pair[1] for pair in pairs])
            if has != would:
                found[name] = (has, would)
        return found

    def retire(self, jobs: list[Job]) -> None:
        """Deletes those that are not finished: what waits in vain, and what stands on a lost node."""
        for name, job in self._there(jobs).items():
            if not states.finished(job):
                self._api.delete("jobs", name)


def _interesting(job: Object) -> bool:
    """Whether its pods may have something to say: it runs, or it did not go well."""
    status = job.get("status", {})
    return not job["spec"].get("suspend") and (not states.finished(job) or bool(status.get("failed")))


def _is_stuck(job: Object, pods: list[Object]) -> bool:
    """Whether it should have pods and has none: only an event says why."""
    return not _waits(job) and not pods and not job.get("status", {}).get("active")


def _waits(job: Object) -> bool:
    return bool(job["spec"].get("suspend")) or states.finished(job)
