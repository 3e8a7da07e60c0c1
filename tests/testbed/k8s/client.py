"""What a user of a cluster can do and see, given its kubeconfig: the cluster may be a bed or somebody else's."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.testbed.k8s.machine import BedError, wait
from tests.testbed.k8s.watch import PodWatch

RUNS_CLAIM = "openrs-runs"
RUNS_PATH = "/openrs-runs"
"""Where pods have the claim: not its path on this machine, so that a test cannot mix up the two."""


class Refused(BedError):
    """The API server said no."""

    def __init__(self, what: str, status: int, message: str) -> None:
        super().__init__(f"{what}: {status} {message}")
        self.status, self.message = status, message


@dataclass(frozen=True)
class Namespace:
    """A fresh namespace under Pod Security `restricted`, and what a profile for it must say."""

    name: str
    image: str
    """With its digest."""
    python: str
    environment: Mapping[str, str]
    """What openrs needs in every container."""
    volumes: Mapping[str, str]
    """Claim → mount path."""
    read_only: frozenset[str]
    """Those claims among `volumes` that must not be written."""
    runs: Path | None
    """The directory of this machine behind `openrs-runs`; None where it is out of reach."""


class K8sCluster:
    """A cluster by its kubeconfig."""

    def __init__(self, kubeconfig: Path, kubectl: str = "kubectl") -> None:
        self.kubeconfig = kubeconfig
        self._kubectl = kubectl
        self._client: Any = None
        self._namespaces: list[str] = []

    # --- commands ------------------------------------------------------------------------------

    def environment(self) -> dict[str, str]:
        """This process's environment, made to mean this cluster and to reach it past any proxy."""
        own = {
            key: value
            for key, value in os.environ.items()
            if key.lower() not in ("https_proxy", "http_proxy", "all_proxy")
        }
        return own | {"KUBECONFIG": str(self.kubeconfig)}

    def kubectl(self, *args: str, stdin: str = "", check: bool = True, timeout: float = 120) -> str:
        """Run kubectl and give what it printed; with `check`, BedError unless it ended with 0."""
        if shutil.which(self._kubectl) is None:
            raise BedError(f"no {self._kubectl}")
        done = subprocess.run(
            [self._kubectl, *args], env=self.environment(), input=stdin, capture_output=True, text=True, timeout=timeout
        )
        if check and done.returncode:
            raise BedError(f"kubectl {' '.join(args)} ended with {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    # --- API -----------------------------------------------------------------------------------

    def api_client(self) -> Any:
        """A new `kubernetes.client.ApiClient`; it goes past any proxy."""
        from kubernetes import client, config

        settings = client.Configuration()
        config.load_kube_config(str(self.kubeconfig), client_configuration=settings)
        settings.proxy, settings.no_proxy, settings.retries = None, "*", False
        return client.ApiClient(settings)

    def request(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, token: str | None = None, **query: Any
    ) -> dict[str, Any]:
        """One call of the API, in its own words (`metadata`, `resourceVersion`); Refused when it says no.

        With `token` it is made as that ServiceAccount.
        """
        from kubernetes.client import ApiException

        if self._client is None:
            self._client = self.api_client()
        client = self._client
        if token is not None:
            client = self.api_client()
            # The admin's certificate would count for more than the token.
            client.configuration.cert_file = client.configuration.key_file = None
            client = type(client)(client.configuration)
            client.set_default_header("Authorization", f"Bearer {token}")
        kind = {"PATCH": "application/merge-patch+json"}.get(method, "application/json")
        try:
            response = client.call_api(
                path,
                method,
                query_params=list(query.items()),
                header_params={"Content-Type": kind, "Accept": "application/json"},
                body=body,
                auth_settings=[] if token is not None else ["BearerToken"],
                _preload_content=False,
                _request_timeout=(5, 30),
                _return_http_data_only=True,
            )
        except ApiException as error:
            try:
                message = str(json.loads(error.body)["message"])
            except (TypeError, ValueError, KeyError):
                message = str(error.reason)
            raise Refused(f"{method} {path}", error.status or 0, message) from None
        answer: dict[str, Any] = json.loads(response.data)
        return answer

    def stream(self, client: Any, path: str, **query: Any) -> Iterator[dict[str, Any]]:
        """The events of a watch, until the server ends it."""
        response = client.call_api(
            path,
            "GET",
            query_params=[("watch", "true"), *query.items()],
            header_params={"Accept": "application/json"},
            auth_settings=["BearerToken"],
            _preload_content=False,
            _request_timeout=(5, 30),
            _return_http_data_only=True,
        )
        try:
            rest = b""
            for chunk in response.stream(amt=None, decode_content=False):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    if line:
                        yield json.loads(line)
        finally:
            response.close()

    def apply(self, manifest: Mapping[str, Any], namespace: str | None = None) -> dict[str, Any]:
        """Create an object of a kind that this machine's tests use."""
        group = manifest["apiVersion"]
        base = f"/api/{group}" if "/" not in group else f"/apis/{group}"
        where = f"/namespaces/{namespace}" if namespace is not None else ""
        kind = str(manifest["kind"]).lower()
        plural = kind[:-1] + "ies" if kind.endswith("y") else kind + ("es" if kind.endswith("s") else "s")
        return self.request("POST", f"{base}{where}/{plural}", manifest)

    def pods(self, namespace: str, **query: Any) -> list[dict[str, Any]]:
        """The pods that there are now; `watch_pods` sees those that vanish, too."""
        items: list[dict[str, Any]] = self.request("GET", f"/api/v1/namespaces/{namespace}/pods", **query)["items"]
        return items

    def events(self, namespace: str, **query: Any) -> list[dict[str, Any]]:
        """What the cluster said about the objects of a namespace."""
        items: list[dict[str, Any]] = self.request("GET", f"/api/v1/namespaces/{namespace}/events", **query)["items"]
        return items

    def job(self, namespace: str, name: str) -> dict[str, Any]:
        """A Job as it stands."""
        return self.request("GET", f"/apis/batch/v1/namespaces/{namespace}/jobs/{name}")

    def wait_job(self, namespace: str, name: str, condition: str = "Complete", seconds: float = 60) -> dict[str, Any]:
        """Wait for `Complete`, `Failed`, …; BedError at once when it ends otherwise."""

        def reached() -> dict[str, Any] | None:
            job = self.job(namespace, name)
            true = {
                each["type"]: each for each in job.get("status", {}).get("conditions", []) if each["status"] == "True"
            }
            if condition not in true and (ended := {"Complete", "Failed"} & set(true)):
                shown = [
                    f"{pod['metadata']['name']}: {json.dumps(pod.get('status', {}))}" for pod in self.pods(namespace)
                ]
                raise BedError(f"job {name} is {[true[each] for each in ended]}, not {condition}; pods: {shown}")
            return job if condition in true else None

        return wait(reached, f"job {name} to be {condition}", seconds)

    def log(self, namespace: str, pod: str, check: bool = True) -> str:
        """What a pod's container has printed."""
        return self.kubectl("logs", "-n", namespace, pod, check=check)

    def watch_pods(self, namespace: str) -> PodWatch:
        """`with cluster.watch_pods(name) as seen:`, a list of the namespace's pods as they were at each change."""
        return PodWatch(self, namespace)

    # --- namespaces ----------------------------------------------------------------------------

    def namespace(self, name: str, mounts: Mapping[str, Path] | None = None) -> Namespace:
        """Make a namespace in which openrs can send Jobs."""
        raise NotImplementedError

    def delete_namespace(self, name: str) -> None:
        """Delete a namespace with all in it, and wait for its pods: only then are their GPUs free."""
        here = f"/api/v1/namespaces/{name}"
        if self._exists(here):
            self.request("DELETE", f"/apis/batch/v1/namespaces/{name}/jobs", propagationPolicy="Background")
            self.request("DELETE", f"{here}/pods", gracePeriodSeconds=1)
            try:
                wait(lambda: not self.pods(name), f"the pods of {name} to end", 20)
            except BedError:  # those of a node that is away
                self.request("DELETE", f"{here}/pods", gracePeriodSeconds=0)
            self.request("DELETE", f"{here}/persistentvolumeclaims")
            self.request("DELETE", here)  # the controller takes 5 s to begin, whatever is in it
        if name in self._namespaces:
            self._namespaces.remove(name)

    def _exists(self, path: str) -> bool:
        try:
            self.request("GET", path)
        except Refused as error:
            if error.status == 404:
                return False
            raise
        return True

    def _make_namespace(self, name: str) -> None:
        labels = {
            "pod-security.kubernetes.io/enforce": "restricted",
            "pod-security.kubernetes.io/enforce-version": "latest",
        }
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
        self.request("POST", "/api/v1/namespaces", body)
        self._namespaces.append(name)
        # Pods are refused until the controller has made it.
        account = f"/api/v1/namespaces/{name}/serviceaccounts/default"
        wait(lambda: self._exists(account), f"the service account of {name}")

    def _claim(self, namespace: str, name: str, mode: str, **spec: Any) -> None:
        asked = {"accessModes": [mode], "resources": {"requests": {"storage": "1Gi"}}, **spec}
        body = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": asked}
        self.request("POST", f"/api/v1/namespaces/{namespace}/persistentvolumeclaims", body)

    def close(self) -> None:
        """Delete the namespaces that were made here."""
        for name in list(self._namespaces):
            self.delete_namespace(name)


class ForeignCluster(K8sCluster):
    """Somebody's cluster, e.g. kind: its nodes see nothing of this machine, so the image holds openrs and all it needs.

    `openrs-runs` comes from the cluster's default storage class.
    """

    def __init__(self, kubeconfig: Path, image: str, python: str = "python") -> None:
        super().__init__(kubeconfig)
        self.image, self.python = image, python

    def namespace(self, name: str, mounts: Mapping[str, Path] | None = None) -> Namespace:
        """The volumes are `openrs-runs` alone; `mounts` would be directories of this machine."""
        if mounts:
            raise BedError("pods of an existing cluster cannot have directories of this machine")
        self._make_namespace(name)
        self._claim(name, RUNS_CLAIM, "ReadWriteMany")
        return Namespace(name, self.image, self.python, {}, {RUNS_CLAIM: RUNS_PATH}, frozenset(), None)


def unique(prefix: str) -> str:
    """A name that no earlier test in the same session has taken."""
    return f"{prefix}-{time.time_ns() // 1_000_000 % 10**10:x}"
