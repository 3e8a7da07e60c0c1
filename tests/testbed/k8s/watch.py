"""Watches the pods of a namespace: one that was evicted or lost vanishes, and what it ended with is only seen by who looked."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self, TypeVar

from tests.testbed.k8s.machine import BedError

if TYPE_CHECKING:
    from types import TracebackType

    from tests.testbed.k8s.client import K8sCluster

T = TypeVar("T")
Pod = dict[str, Any]


class PodWatch(list[Pod]):
    """Every version of every pod, in order: the API's own object, and in `event` ADDED, MODIFIED or DELETED.

    It begins with the pods that are there already (ADDED).  An API server that goes away and comes back is no reason to end.
    """

    def __init__(self, cluster: K8sCluster, namespace: str) -> None:
        super().__init__()
        self._cluster, self._path = cluster, f"/api/v1/namespaces/{namespace}/pods"
        self._known: dict[str, Pod] = {}
        self._stop = threading.Event()
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._follow, name=f"watch {namespace}", daemon=True)
        self._client = cluster.api_client()
        self._version = ""

    def __enter__(self) -> Self:
        self._list()  # here and not in the thread: what comes after this line is seen
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(10)
        self._client.close()

    def until(self, ready: Callable[[list[Pod]], T | None], what: str, seconds: float = 60) -> T:
        """Wait until `ready(all seen so far)` is true, and return what it returned."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while not (result := ready(list(self))):
                if (left := deadline - time.monotonic()) <= 0:
                    raise BedError(f"waited {seconds:g} s for {what}; seen:\n" + "\n".join(map(describe, self)))
                self._changed.wait(min(left, 0.5))
        return result

    def versions(self, name: str) -> list[Pod]:
        """Those of one pod."""
        return [pod for pod in list(self) if pod["metadata"]["name"] == name]

    # --- the thread ----------------------------------------------------------------------------

    def _record(self, event: str, pod: Pod) -> None:
        uid = pod["metadata"]["uid"]
        with self._changed:
            if event == "DELETED":
                self._known.pop(uid, None)
            else:
                self._known[uid] = pod
            self.append({**pod, "event": event})
            self._changed.notify_all()

    def _list(self) -> None:
        """What is there now, told as what has changed since the last that was seen."""
        answer = self._cluster.request("GET", self._path)
        pods: dict[str, Pod] = {pod["metadata"]["uid"]: pod for pod in answer["items"]}
        for uid, pod in list(self._known.items()):
            if uid not in pods:
                self._record("DELETED", pod)
        for uid, pod in pods.items():
            known = self._known.get(uid)
            if known is None or known["metadata"]["resourceVersion"] != pod["metadata"]["resourceVersion"]:
                self._record("ADDED" if known is None else "MODIFIED", pod)
        self._version = answer["metadata"]["resourceVersion"]

    def _follow(self) -> None:
        fresh = True
        while not self._stop.is_set():
            try:
                if not fresh:
                    self._list()
                    fresh = True
                self._events()
            except Exception:  # the server is away, or has forgotten our version: begin again from what is there
                fresh = False
                self._stop.wait(0.2)

    def _events(self) -> None:
        # Short, so that the thread ends soon after it is told to.
        query = {"resourceVersion": self._version, "timeoutSeconds": 2, "allowWatchBookmarks": "true"}
        for event in self._cluster.stream(self._client, self._path, **query):
            if event["type"] == "ERROR":
                raise BedError(str(event["object"]))
            self._version = event["object"]["metadata"]["resourceVersion"]
            if event["type"] != "BOOKMARK":
                self._record(event["type"], event["object"])
            if self._stop.is_set():
                return


def describe(pod: Pod) -> str:
    """A version of a pod in a line."""
    status = pod.get("status", {})
    true = [
        f"{each['type']}:{each.get('reason', '')}" for each in status.get("conditions", []) if each["status"] == "True"
    ]
    ended = [
        f"{state['terminated'].get('exitCode')} {state['terminated'].get('reason')}"
        for each in status.get("containerStatuses", [])
        if "terminated" in (state := each.get("state", {}))
    ]
    leaving = "Terminating " if "deletionTimestamp" in pod["metadata"] else ""
    return f"{pod.get('event')} {pod['metadata']['name']} {leaving}{status.get('phase')} {true} {ended}"
