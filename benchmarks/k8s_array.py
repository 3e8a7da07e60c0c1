"""An evaluation Job of 1,000 cells on Kubernetes: sent by openrs beside the raw client, then asked for.

On the cluster of KUBECONFIG, or else on the test bed's Kubernetes, in a namespace of its own; its pods want a node that
there is not, so that nothing starts. Raw is the official Python client: once just the three requests that make a Job (Job,
ConfigMap, release), once every request that the engine makes, its checks included. Its answers are left as JSON, as in the
engine; asked with its typed answers, which it builds by default, it is slower, and shown too.
`openrs submit` and `openrs status` are the whole commands, from the start of Python; submit sends a training Job, too.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.common import alternate, bytecode, machine, note, parser, ratio, run_openrs, sets, show, spread, verdict
from openrs import launch
from openrs import plan as planning
from openrs.engines import Artifacts, Job, JobState
from openrs.engines.kubernetes import MANIFEST, KubernetesEngine, manifest
from openrs.spec.cluster import Cluster
from openrs.spec.load import load_cluster, load_experiment
from tests.testbed.k8s.bed import PREFIX, K8sBed
from tests.testbed.k8s.client import K8sCluster, unique

AIM = 1.5
"""Times the raw client's seconds for the same requests that the engine may take."""

_JSON = {"_preload_content": False}
"""The client then leaves an answer as the bytes that came; once they are read, its connection is free again."""

STAGE = "base"
CLAIM = "openrs-runs"


class Sender:
    """Sends and asks in several ways; every call deletes what it has sent, outside of the time it reports."""

    def __init__(self, cluster: K8sCluster, namespace: str, home: Path, cells: int) -> None:
        from kubernetes import client

        self.cluster, self.namespace, self.home, self.cells, self.count = cluster, namespace, home, cells, 0
        self.overrides = [f"evaluation.benchmarks.0.seeds={list(range(cells))}", "evaluation.at_steps=[]"]
        self.experiment = load_experiment("smoke", self.overrides)
        own = {
            "name": "bed",
            "kubeconfig": str(cluster.kubeconfig),
            "namespace": namespace,
            "image": "registry.example/openrs/train@sha256:" + "0" * 64,
            "volumes": [{"claim": CLAIM, "path": "/openrs"}],
            "node_selector": {"openrs-benchmark/nowhere": "yes"},
            "release": "watch",
            "array_limit": cells,
        }
        self.profile = Cluster.model_validate({**load_cluster("k8s").model_dump(), **own})
        # As TOML, which these values are in JSON's form, too.
        plain = {key: value for key, value in own.items() if isinstance(value, str | int) and key != "name"}
        lines = [f"{key} = {json.dumps(value)}" for key, value in plain.items()]
        lines.append(f"volumes = [{{claim = '{CLAIM}', path = '/openrs'}}]")
        lines.append("node_selector = {'openrs-benchmark/nowhere' = 'yes'}")
        (home / "openrs.toml").write_text("[clusters.bed]\nextends = 'k8s'\n" + "\n".join(lines) + "\n")
        self.own = KubernetesEngine(self.profile)
        api = cluster.api_client()
        self.batch, self.core, self.version = client.BatchV1Api(api), client.CoreV1Api(api), client.VersionApi(api)

    def artifacts(self) -> Artifacts:
        """The array alone."""
        self.count += 1
        wanted = planning.cells(self.experiment, [None])
        stages = planning.cell_stages(STAGE, wanted, [], self.experiment, self.profile)
        plan = planning.assemble(self.experiment, self.profile, stages)
        return self.own.render(
            self.experiment, plan, launch.place_of(self.profile, self.home / "runs", f"array-{self.count}")
        )

    def engine(self) -> float:
        """KubernetesEngine.submit."""
        artifacts = self.artifacts()
        start = time.perf_counter()
        self.own.submit(artifacts)
        return self._done(start)

    def few(self) -> float:
        """Job, ConfigMap, release."""
        config, job = manifest.read(self.artifacts().files[f"{STAGE}/{MANIFEST}"])
        start = time.perf_counter()
        self._make(config, job)
        return self._done(start)

    def same(self) -> float:
        """The engine's requests: version, a pod that is only admitted, the claim, then the three."""
        config, job = manifest.read(self.artifacts().files[f"{STAGE}/{MANIFEST}"])
        start = time.perf_counter()
        self.version.get_code(**_JSON).read()
        pod = {
            "metadata": {"generateName": "probe-", "labels": job["metadata"]["labels"]},
            "spec": job["spec"]["template"]["spec"],
        }
        self.core.create_namespaced_pod(self.namespace, pod, dry_run="All", field_validation="Strict", **_JSON).read()
        self.core.read_namespaced_persistent_volume_claim(CLAIM, self.namespace, **_JSON).read()
        self._make(config, job)
        return self._done(start)

    def _make(self, config: dict[str, Any], job: dict[str, Any]) -> None:
        name = job["metadata"]["name"]
        held = job | {"spec": job["spec"] | {"suspend": True}}
        made = self.batch.create_namespaced_job(self.namespace, held, field_validation="Strict", **_JSON)
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": json.loads(made.data)["metadata"]["uid"]}
        config = config | {"metadata": config["metadata"] | {"ownerReferences": [owner]}}
        self.core.create_namespaced_config_map(self.namespace, config, field_validation="Strict", **_JSON).read()
        self.batch.patch_namespaced_job(name, self.namespace, {"spec": {"suspend": False}}, **_JSON).read()

    def command(self) -> float:
        """`openrs submit`."""
        self.count += 1
        options = sets(dict(one.split("=", 1) for one in self.overrides))
        start = time.perf_counter()
        run_openrs("submit", "smoke", "--cluster", "bed", "--run", f"command-{self.count}", *options, home=self.home)
        return self._done(start)

    def _done(self, start: float) -> float:
        seconds = time.perf_counter() - start
        self.clear()
        return seconds

    def clear(self) -> None:
        """Deletes all Jobs, and waits until they and their pods are gone."""
        self.batch.delete_collection_namespaced_job(self.namespace, propagation_policy="Background")
        pods, jobs = self.core.list_namespaced_pod, self.batch.list_namespaced_job
        while jobs(self.namespace).items or pods(self.namespace).items:
            time.sleep(0.2)

    def ask(self, runs: int) -> dict[str, list[float]]:
        """State of an array whose first pods wait: Job and pods, by both; and the whole command, of a run of its own."""
        artifacts = self.artifacts()
        handle, run = self.own.submit(artifacts)[STAGE], artifacts.place.run
        options = sets(dict(one.split("=", 1) for one in self.overrides))
        run_openrs("submit", "smoke", "--cluster", "bed", "--run", "asked", *options, home=self.home)
        label = f"openrs.dev/run={run}"
        while not self.core.list_namespaced_pod(self.namespace, label_selector=label).items:
            time.sleep(0.2)
        job = Job(run, handle, self.cells, self.home)

        def ours() -> float:
            start = time.perf_counter()
            info = self.own.inspect([job])[handle]
            seconds = time.perf_counter() - start
            assert info.state == JobState.PENDING, info
            return seconds

        jobs, pods = self.batch.list_namespaced_job, self.core.list_namespaced_pod
        chosen = {"label_selector": label, "field_selector": "status.phase!=Succeeded"}

        def plain() -> float:
            start = time.perf_counter()
            (found,) = json.loads(jobs(self.namespace, label_selector=label, **_JSON).data)["items"]
            waiting = json.loads(pods(self.namespace, **chosen, **_JSON).data)["items"]
            seconds = time.perf_counter() - start
            assert found["spec"]["completions"] == self.cells and waiting, found
            return seconds

        def typed() -> float:
            start = time.perf_counter()
            (found,) = jobs(self.namespace, label_selector=label).items
            waiting = pods(self.namespace, **chosen).items
            seconds = time.perf_counter() - start
            assert found.spec.completions == self.cells and waiting, found
            return seconds

        def command() -> float:
            start = time.perf_counter()
            run_openrs("status", "asked", home=self.home)
            return time.perf_counter() - start

        return alternate(
            {"raw client": plain, "raw client, typed": typed, "inspect": ours, "openrs status": command}, runs
        )


@contextlib.contextmanager
def cluster() -> Iterator[tuple[K8sCluster, str]]:
    """A cluster and a fresh namespace with a claim."""
    with contextlib.ExitStack() as stack:
        config = os.environ.get("KUBECONFIG")
        if config:
            found = K8sCluster(Path(config))
        else:
            found = stack.enter_context(K8sBed(Path(tempfile.mkdtemp(prefix=PREFIX))))
        name = unique("benchmark")
        found.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        stack.callback(found.delete_namespace, name)
        claim = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}
        found.apply(
            {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": CLAIM}, "spec": claim}, name
        )
        yield found, name


def main() -> None:
    """Takes or starts a cluster, sends, asks, prints."""
    options = parser(__doc__, 10)
    options.add_argument("--cells", type=int, default=1000)
    args = options.parse_args()
    bytecode(args.cache)
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "*"
    with tempfile.TemporaryDirectory() as home, cluster() as (found, namespace):
        sender = Sender(found, namespace, Path(home), args.cells)
        version = sender.version.get_code().git_version
        calls: dict[str, Callable[[], float]] = {
            "raw, three requests": sender.few,
            "raw, all requests": sender.same,
            "engine": sender.engine,
            "openrs submit": sender.command,
        }
        for call in calls.values():
            call()
        sent = alternate(calls, args.runs)
        note("asking")
        asked = sender.ask(args.runs)
        sender.clear()
    print(f"{machine()}; Kubernetes {version}; {args.runs} rounds; {args.cells} cells")
    raw = sent["raw, all requests"]
    rows = [(name, spread(values, 1, 3), ratio(values, raw)) for name, values in sent.items()]
    show("sending: seconds, median (min–max)", ("", "seconds", "× raw, all requests"), rows)
    raw = asked["raw client"]
    rows = [(name, spread(values, 1, 3), ratio(values, raw)) for name, values in asked.items()]
    show("asking: seconds, median (min–max)", ("", "seconds", "× raw client"), rows)
    print()
    for what, ours, theirs in (
        ("sending", sent["engine"], sent["raw, all requests"]),
        ("asking", asked["inspect"], raw),
    ):
        holds = median(ours) <= AIM * median(theirs)
        verdict(f"{what}: at most {AIM:g} of the raw client's time", holds, ratio(ours, theirs))


if __name__ == "__main__":
    main()
