"""A real Kubernetes of several nodes on one machine, for tests: its directory, and the order in which things start and stop."""

from __future__ import annotations

import atexit
import calendar
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.testbed.k8s import control, volumes
from tests.testbed.k8s.build import build
from tests.testbed.k8s.client import K8sCluster, Namespace, Refused
from tests.testbed.k8s.image import pack, pack_python
from tests.testbed.k8s.keys import Keys
from tests.testbed.k8s.machine import (
    BedError,
    BedMissing,
    Processes,
    delete_interface,
    has_interface,
    missing,
    remove_cgroups,
    remove_tree,
    run,
    start_time,
    wait,
)
from tests.testbed.k8s.node import DAEMONS, SANDBOX, Node, Site
from tests.testbed.k8s.state import RECORD, State, claim_number

PREFIX = "k8sbed-"
_ROOT = Path(__file__).resolve().parents[3]


class K8sBed(K8sCluster):
    """One cluster in `directory`, which must not exist yet, be empty or hold a bed; `down` removes it.

    Nodes node-a, node-b, … claim `cpus` and `memory` (GiB) that this machine need not have, and `gpus` of product
    NVIDIA-A40.  `job_backoff` is the Job controller's wait before it replaces a pod, Kubernetes' own is 10 s.
    """

    def __init__(
        self, directory: Path, nodes: int = 2, gpus: int = 4, cpus: int = 64, memory: int = 256, job_backoff: int = 1
    ) -> None:
        if not 1 <= nodes <= 8 or not 0 <= gpus <= 8:
            raise BedError("a bed has 1 to 8 nodes of at most 8 GPUs")
        self.directory = directory.resolve()
        super().__init__(self.directory / "etc" / "admin.kubeconfig")
        self.processes, self._keys = Processes(self.directory), Keys(self.directory)
        self._asked = {"nodes": nodes, "gpus": gpus, "cpus": cpus, "memory": memory, "job_backoff": job_backoff}
        self._guard: subprocess.Popen[bytes] | None = None
        self._owner = os.getpid()
        self._job_image: str | None = None

    @classmethod
    def at(cls, directory: Path) -> Self:
        """The bed that some process made there."""
        bed = cls(directory)
        if not (bed.directory / RECORD).exists():
            raise BedError(f"no Kubernetes test bed in {directory}")
        return bed

    def __enter__(self) -> Self:
        return self.up()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    # --- what it is ----------------------------------------------------------------------------

    @cached_property
    def _state(self) -> State:
        return State.read(self.directory)

    @cached_property
    def site(self) -> Site:
        """Names, addresses and sizes."""
        return self._state.site(self.directory)

    @cached_property
    def nodes(self) -> dict[str, Node]:
        """By name."""
        all_nodes = (Node(self.site, index, self.processes, self._keys) for index in range(1, self.site.nodes + 1))
        return {node.name: node for node in all_nodes}

    # --- life ----------------------------------------------------------------------------------

    def up(self, guard: bool = True) -> Self:
        """Start what does not run, and return when Jobs can be created and every GPU is there.

        With `guard` a new bed ends with this process, however that ends; a helper process waits for it.
        """
        if (lack := missing()) is not None:
            raise BedMissing(lack)
        if not (self.directory / RECORD).exists():
            self._create(guard)
        self._kubectl = str(self.site.bin / "kubectl")
        try:
            self._start()
        except BaseException as error:
            if self._guard is None:
                raise  # by hand: what is there may be looked at, and ended by `down`
            tails = self.processes.tails()
            self.down()
            if isinstance(error, BedError):
                raise BedError(f"{error}\n{tails}") from error
            raise
        return self

    def _create(self, guard: bool) -> None:
        if self.directory.exists() and any(self.directory.iterdir()):
            raise BedError(f"{self.directory} is not empty: `down` would delete what is in it")
        programs = build()
        for name in ("etc", "pki", "run", "log", "nodes", "images", "volumes"):
            (self.directory / name).mkdir(parents=True, exist_ok=True)
        self.directory.chmod(0o755)  # its volumes are for pods of another user
        code = volumes.snapshot(_ROOT, self.directory / "code")
        state = State(
            bin=str(programs),
            number=claim_number(),
            read_only=[str(path) for path in (code, volumes.environment()) if path is not None],
            owner=f"{self._owner} {start_time(self._owner)}" if guard else None,
            **self._asked,
        )
        state.write(self.directory)
        if guard:
            self._start_guard()
            atexit.register(self._at_exit)
        self._keys.create(self.site.host, self._url)
        pack(self.directory / "images" / "busybox.tar", SANDBOX)

    def _start(self) -> None:
        if not has_interface(self.site.bridge):
            run("ip", "link", "add", self.site.bridge, "type", "bridge")
        run("ip", "address", "replace", f"{self.site.host}/24", "dev", self.site.bridge)
        run("ip", "link", "set", self.site.bridge, "up")
        self._spawn("etcd")
        self._spawn("kube-apiserver")
        wait(self._answers, "the API server", 60)
        for name in control.DAEMONS:
            self._spawn(name)
        since = time.time()
        away = [node for node in self.nodes.values() if not self._runs_whole(node)]
        for node in away:
            node.start()
        wait(lambda: self._exists("/api/v1/namespaces/default/serviceaccounts/default"), "the default account", 60)
        for name in self.nodes:
            fresh = since if name in [node.name for node in away] else 0.0
            wait(lambda name=name, fresh=fresh: self.ready(name, fresh), f"{name} to be ready", 60)  # type: ignore[misc]

    def _runs_whole(self, node: Node) -> bool:
        names = [node.name, *(f"{node.name}.{daemon}" for daemon in DAEMONS if self.site.gpus or daemon != "gpus")]
        return all(self.processes.pid(name) for name in names)

    def down(self) -> None:
        """End every process by its record and remove interfaces, cgroups and the directory; harmless when repeated."""
        atexit.unregister(self._at_exit)
        if (self.directory / RECORD).exists():
            for node in self.nodes.values():
                node.stop()
            for name in reversed(control.DAEMONS):
                self.processes.end(name, signal.SIGKILL)
            delete_interface(self.site.bridge)
            remove_cgroups(self.site.bridge)
            remove_tree(self.directory)
        elif self.directory.exists() and any(self.directory.iterdir()):
            raise BedError(f"{self.directory} is no bed; it is left alone")
        else:
            with contextlib.suppress(FileNotFoundError):
                self.directory.rmdir()
        if self._guard is not None and self._guard.stdin is not None:
            self._guard.stdin.close()
            self._guard.wait()
            self._guard = None

    def _at_exit(self) -> None:
        if os.getpid() == self._owner:  # not in a fork of the test process
            self.down()

    def _start_guard(self) -> None:
        """A pipe ends however this process does; atexit knows nothing of SIGKILL and SIGTERM."""
        self._guard = subprocess.Popen(
            [sys.executable, "-m", "tests.testbed.k8s", "guard", str(self.directory)],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    # --- daemons and nodes ---------------------------------------------------------------------

    def _spawn(self, name: str) -> None:
        environment = {"JOB_BACKOFF": str(self._state.job_backoff)}
        self.processes.spawn(name, control.arguments(self.site, name), environment=environment)

    def start(self, name: str, seconds: float = 60) -> None:
        """Start a daemon, or boot a node (`node-a`), or one of its daemons (`node-a.kubelet`), and wait until it serves."""
        node, daemon = self._known(name)
        since = time.time()
        if node is None:
            self._spawn(name)
            if name in ("etcd", "kube-apiserver"):
                wait(self._answers, f"the API server with {name}", seconds)
                for other in filter(
                    self.processes.crashed, control.DAEMONS
                ):  # of waiting for it; what runs them starts them again
                    self._spawn(other)
            return
        if self.processes.pid(name) is not None and (daemon or self._runs_whole(node)):
            return
        if daemon:
            node.start_daemon(daemon)
        else:
            node.start()
        if self._answers():  # else nobody can know
            fresh = since if daemon in ("", "kubelet") else 0.0
            wait(lambda: self.ready(node.name, fresh), f"{node.name} to be ready", seconds)

    def stop(self, name: str) -> None:
        """End a daemon properly (SIGTERM), or cut a node's power: nothing on it is told."""
        node, daemon = self._known(name)
        if node is not None and not daemon:
            node.stop()
        else:
            # An API server with watchers would take a minute.
            self.processes.end(name, patience=2 if name == "kube-apiserver" else 20)

    def kill(self, name: str) -> None:
        """SIGKILL for a daemon; for a node it is what `stop` does, too."""
        node, daemon = self._known(name)
        if node is not None and not daemon:
            node.stop()
        else:
            self.processes.end(name, signal.SIGKILL)

    @contextmanager
    def without(self, name: str) -> Iterator[None]:
        """Without that daemon or node while it lasts, and with it again whatever happens."""
        self.kill(name)
        try:
            yield
        finally:
            self.start(name)

    def _known(self, name: str) -> tuple[Node | None, str]:
        if name in control.DAEMONS:
            return None, ""
        node, _, daemon = name.partition(".")
        if node not in self.nodes or daemon not in ("", *DAEMONS):
            daemons = ", ".join(f"{next(iter(self.nodes))}.{each}" for each in DAEMONS)
            raise BedError(f"no {name}; there are {', '.join((*control.DAEMONS, *self.nodes))}, {daemons}")
        return self.nodes[node], daemon

    def status(self) -> dict[str, int | None]:
        """Name → pid on this machine, so that a test can send its own signals; None for what does not run."""
        parts = [full for node in self.nodes for full in (node, *(f"{node}.{daemon}" for daemon in DAEMONS))]
        return {name: self.processes.pid(name) for name in (*control.DAEMONS, *parts)}

    def restore(self) -> None:
        """Start all that a test has stopped, and mend its GPUs."""
        for node in self.nodes.values():
            (node.directory / "unhealthy").unlink(missing_ok=True)
        self.up()

    # --- the API's view ------------------------------------------------------------------------

    @property
    def _url(self) -> str:
        return f"https://127.0.0.1:{self.site.port}"

    def _answers(self) -> bool:
        try:
            client = self.api_client()
            client.call_api("/readyz", "GET", _preload_content=False, _request_timeout=2)
        except Exception:  # refused, reset, timed out, 500 while it starts: all mean no
            return False
        return True

    def ready(self, name: str, since: float = 0.0) -> bool:
        """Whether the node is Ready with all its GPUs, and has said so after `since`."""
        try:
            status: dict[str, Any] = self.request("GET", f"/api/v1/nodes/{name}").get("status", {})
        except Refused:
            return False
        if status.get("allocatable", {}).get("nvidia.com/gpu", "0") != str(self.site.gpus):
            return False
        for condition in status.get("conditions", []):
            if condition["type"] == "Ready" and condition["status"] == "True":
                # Of whole seconds: one in the same second may be older.
                said = calendar.timegm(time.strptime(condition["lastHeartbeatTime"], "%Y-%m-%dT%H:%M:%SZ"))
                return since == 0.0 or said > int(since)
        return False

    def wait_lost(self, name: str, seconds: float = 60) -> None:
        """Wait until the control plane has noticed that a node is gone."""
        wait(lambda: not self.ready(name), f"{name} to be lost", seconds)

    # --- images and namespaces -----------------------------------------------------------------

    def load(self, tar: Path, name: str) -> str:
        """Give an image archive of that name to every node, also to one that boots later; its name with the digest."""
        place = self.directory / "images" / tar.name
        if tar.resolve() != place:
            shutil.copy(tar, place)
        up = [node for node in self.nodes.values() if self.processes.pid(f"{node.name}.containerd")]
        for node in up:
            node.load(place)
        if not up:
            raise BedError("no node runs that could take an image")
        return f"{name.rpartition(':')[0]}@{up[0].images()[name]}"

    @property
    def job_image(self) -> str:
        """An image of the interpreter that runs this, for pods that mount its environment; made when first asked for."""
        if self._job_image is None:
            name, tar = "localhost/openrs-job:1", self.directory / "images" / "openrs-job.tar"
            if not tar.exists():
                fresh = tar.with_suffix(".new")
                pack_python(fresh, name)
                fresh.rename(tar)
            self._job_image = self.load(tar, name)
        return self._job_image

    def namespace(self, name: str, mounts: Mapping[str, Path] | None = None) -> Namespace:
        """A fresh namespace under Pod Security `restricted`, with volumes for openrs and its environment.

        `mounts` are further directories of this machine: claim → directory, read-only at the same path in the pod.
        """
        image = self.job_image
        self._make_namespace(name)
        runs = self.directory / "volumes" / name
        runs.mkdir()
        os.chown(runs, volumes.USER, volumes.USER)
        places = volumes.places(self.directory / "code", runs, mounts or {})
        self._bind(name, places)
        return Namespace(
            name=name,
            image=image,
            python=str(volumes.python()),
            # The Service of that name has an address that nothing routes here.
            environment={
                "PYTHONPATH": places[volumes.CODE_CLAIM].target,
                "KUBERNETES_SERVICE_HOST": self.site.host,
                "KUBERNETES_SERVICE_PORT": str(self.site.port),
            },
            volumes={claim: place.target for claim, place in places.items()},
            read_only=frozenset(claim for claim, place in places.items() if place.read_only),
            runs=runs,
        )

    def _bind(self, namespace: str, places: Mapping[str, volumes.Place]) -> None:
        """Make the volumes and their claims, and wait: a pod whose claim is not bound waits longer, for the scheduler."""
        all_volumes, claims = "/api/v1/persistentvolumes", f"/api/v1/namespaces/{namespace}/persistentvolumeclaims"
        for claim, place in places.items():
            self.request("POST", all_volumes, volumes.manifest(namespace, claim, place))
            self._claim(namespace, claim, place.mode, storageClassName="", volumeName=volumes.name(namespace, claim))

        def bound() -> bool:
            return all(each["status"].get("phase") == "Bound" for each in self.request("GET", claims)["items"])

        wait(bound, f"the claims of {namespace} to be bound")

    def delete_namespace(self, name: str) -> None:
        """Delete a namespace with all in it, its volumes too, and wait for its pods: only then are their GPUs free."""
        super().delete_namespace(name)
        for volume in self.request("GET", "/api/v1/persistentvolumes")["items"]:
            if volume["spec"].get("claimRef", {}).get("namespace") == name:
                self.request("DELETE", f"/api/v1/persistentvolumes/{volume['metadata']['name']}")
        shutil.rmtree(self.directory / "volumes" / name, ignore_errors=True)


def sweep(parent: Path) -> None:
    """End the beds in `parent` whose process died and whose guard did, too."""
    for record in parent.glob(f"{PREFIX}*/{RECORD}"):
        with contextlib.suppress(FileNotFoundError, ValueError):  # it is being removed, or written
            if State.read(record.parent).abandoned():
                K8sBed.at(record.parent).down()
