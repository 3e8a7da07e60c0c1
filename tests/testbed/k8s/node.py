"""One node: a process tree in namespaces of its own, with a containerd, a kubelet and GPUs that are not there.

The first process of the node holds everything: when it dies, the daemons, containers, mounts and addresses are gone.
Two kubelets on one machine need that all they share is bound over: /var/lib/kubelet (compiled into the device
plugins), /run/containerd, and those files of /proc and /sys that they read or write.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
from dataclasses import dataclass
from pathlib import Path

from tests.testbed.k8s.keys import Keys
from tests.testbed.k8s.machine import (
    BedError,
    Processes,
    Word,
    delete_interface,
    make_cgroups,
    remove_cgroups,
    run,
    wait,
)

SANDBOX = "localhost/busybox:1"
DAEMONS = ("containerd", "kubelet", "gpus")
_CONTAINERD = """version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs"]
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{image}"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{node}/cni"
"""


@dataclass(frozen=True)
class Site:
    """What a node must know of its bed."""

    directory: Path
    bin: Path
    number: int
    port: int
    nodes: int
    gpus: int
    cpus: int
    memory: int
    """In GiB, as `cpus` of a node and what it claims to have, not what this machine has."""
    read_only: tuple[Path, ...]
    """What no pod may write to, whatever its user."""

    @property
    def bridge(self) -> str:
        """The interface that joins the nodes."""
        return f"kbed{self.number}"

    @property
    def net(self) -> str:
        """`.0.1` is this machine, `.0.10+N` node N, `.N.0/24` its pods, `.240.0/20` Services."""
        return f"10.{240 + self.number}"

    @property
    def host(self) -> str:
        """This machine, as nodes and pods see it."""
        return f"{self.net}.0.1"


class Node:
    """Node number `index`, from 1."""

    def __init__(self, site: Site, index: int, processes: Processes, keys: Keys) -> None:
        self.site, self.index, self.processes, self.keys = site, index, processes, keys
        self.name = f"node-{'abcdefgh'[index - 1]}"
        self.directory = site.directory / "nodes" / self.name
        self.address = f"{site.net}.0.{10 + index}"
        self.link = f"{site.bridge}n{index}"
        self.cgroup = f"{site.bridge}/{self.name}"
        self._plugins = self.directory / "kubelet" / "device-plugins"

    def start(self) -> None:
        """Boot it, or start those of its daemons that do not run."""
        if not (self.directory / "kubelet.json").exists():
            self._write()
        if not self.processes.pid(self.name):
            self._power_on()
        for daemon in DAEMONS:
            self.start_daemon(daemon)

    def stop(self) -> None:
        """Cut the power: nothing on the node is told, and the memory forgets."""
        self.processes.end(self.name, signal.SIGKILL)
        for daemon in DAEMONS:
            self.processes.end(f"{self.name}.{daemon}", signal.SIGKILL)
        delete_interface(self.link)
        remove_cgroups(self.cgroup)
        (self._plugins / "kubelet.sock").unlink(missing_ok=True)

    # --- daemons -------------------------------------------------------------------------------

    def start_daemon(self, daemon: str) -> None:
        """Start containerd, kubelet or gpus unless it runs."""
        {"containerd": self._containerd, "kubelet": self._kubelet, "gpus": self._gpus}[daemon]()

    def _pid(self) -> int:
        pid = self.processes.pid(self.name)
        if pid is None:
            raise BedError(f"{self.name} has no power; see {self.processes.logs}/{self.name}.log")
        return pid

    def _spawn(self, daemon: str, *argv: Word) -> None:
        self.processes.spawn(f"{self.name}.{daemon}", argv, inside=self._pid())

    def _containerd(self) -> None:
        self._spawn("containerd", "containerd", "--config", self.directory / "containerd.toml")
        socket = Path(f"/proc/{self._pid()}/root/run/containerd/containerd.sock")
        wait(socket.exists, f"{self.name}'s containerd")
        for tar in sorted((self.site.directory / "images").glob("*.tar")):
            self.load(tar)

    def _kubelet(self) -> None:
        config = self.directory / "kubelet.json"
        kubeconfig = self.site.directory / "etc" / f"{self.name}.kubeconfig"
        flags = {
            "config": config,
            "hostname-override": self.name,
            "kubeconfig": kubeconfig,
            "node-ip": self.address,
            "node-labels": "nvidia.com/gpu.product=NVIDIA-A40",
        }
        self._spawn("kubelet", self.site.bin / "kubelet", *(f"--{flag}={value}" for flag, value in flags.items()))

    def _gpus(self) -> None:
        if self.site.gpus and not self.processes.pid(f"{self.name}.gpus"):
            wait((self._plugins / "kubelet.sock").exists, f"{self.name}'s kubelet", 60)
            self._spawn("gpus", self.site.bin / "gpus", self.site.gpus, self.directory / "unhealthy")

    def _ctr(self, *words: Word) -> str:
        return run("nsenter", f"--target={self._pid()}", "--mount", "--", "ctr", "--namespace", "k8s.io", *words)

    def load(self, tar: Path) -> None:
        """Import an image once, under its name and under its digest."""
        mark = self.directory / "containerd" / f"imported-{tar.stem}-{tar.stat().st_mtime_ns}"
        if mark.exists():
            return
        self._ctr("images", "import", tar)
        for name, digest in self.images().items():
            if name.startswith("localhost/") and "@" not in name:
                self._ctr("images", "tag", "--force", name, f"{name.rpartition(':')[0]}@{digest}")
        mark.touch()

    def images(self) -> dict[str, str]:
        """Names and digests of the images that the node has."""
        rows = (line.split() for line in self._ctr("images", "ls").splitlines()[1:])
        return {row[0]: row[2] for row in rows}

    # --- machine -------------------------------------------------------------------------------

    def _power_on(self) -> None:
        """Start the first process and connect the node to the bridge."""
        self.stop()  # clears what a node that died by itself has left
        make_cgroups(self.cgroup)
        script = self.directory / "boot.sh"
        script.write_text("\n".join(self._boot()) + "\n")
        spaces = [
            "--mount",
            "--net",
            "--pid",
            "--uts",
            "--ipc",
            "--fork",
            "--kill-child=KILL",
            "--propagation",
            "private",
        ]
        self.processes.spawn(self.name, ["unshare", *spaces, "sh", script])
        pid = self._pid()
        run("ip", "link", "add", self.link, "type", "veth", "peer", "name", "eth0", "netns", pid)
        run("ip", "link", "set", self.link, "master", self.site.bridge, "up")
        run("ip", "route", "replace", f"{self.site.net}.{self.index}.0/24", "via", self.address)
        booted = Path(f"/proc/{pid}/root/run/containerd/booted")
        wait(booted.exists, f"{self.name} to boot, see {self.processes.logs}/{self.name}.log")

    def _boot(self) -> list[str]:
        own = {
            "kubelet": "/var/lib/kubelet",
            "containerd": "/var/lib/containerd",
            "cni-state": "/var/lib/cni",
            "log": "/var/log/pods",
        }
        for target in (*own.values(), "/run/containerd", "/var/log/containers"):
            os.makedirs(target, exist_ok=True)
        mounts = {str(self.directory / name): target for name, target in own.items()}
        for path in ("sys/devices/system/node", *self._host_files()):
            mounts[str(self.directory / "host" / path)] = f"/{path}"
        lines = [
            "set -e",
            f"hostname {self.name}",
            "mount -t proc proc /proc",
            "echo 1 > /proc/sys/net/ipv4/ip_forward",
            # Else a dead node's open connections keep its namespace for minutes.
            "echo 1 > /proc/sys/net/ipv4/tcp_orphan_retries",
            *(shlex.join(["mount", "--bind", source, target]) for source, target in mounts.items()),
        ]
        for place in map(str, self.site.read_only):
            lines.append(shlex.join(["mount", "--bind", place, place]))
            lines.append(shlex.join(["mount", "-o", "remount,bind,ro", place]))
        others = [other for other in range(1, self.site.nodes + 1) if other != self.index]
        net = self.site.net
        return [
            *lines,
            "mount -t tmpfs tmpfs /run/containerd",
            "mount -t tmpfs tmpfs /var/log/containers",
            "mount --make-rshared /",
            "ip link set lo up",
            "while ! ip link set eth0 up 2>/dev/null; do sleep 0.05; done",
            f"ip address add {self.address}/24 dev eth0",
            *(f"ip route add {net}.{other}.0/24 via {net}.0.{10 + other}" for other in others),
            "touch /run/containerd/booted",
            "exec env --ignore-signal=CHLD sleep infinity",  # ignored: orphans leave no zombies
        ]

    def _host_files(self) -> dict[str, str]:
        """What the kubelet reads of the machine, and the settings that it would change in it: each node has its own."""
        memory = self.site.memory << 20
        return {
            "proc/meminfo": f"MemTotal: {memory} kB\nMemFree: {memory} kB\nMemAvailable: {memory} kB\nSwapTotal: 0 kB",
            "proc/sys/vm/overcommit_memory": "1",
            "proc/sys/vm/panic_on_oom": "0",
            "proc/sys/kernel/panic": "10",
            "proc/sys/kernel/panic_on_oops": "1",
            "proc/sys/kernel/keys/root_maxkeys": "1000000",
            "proc/sys/kernel/keys/root_maxbytes": "25000000",
        }

    # --- files ---------------------------------------------------------------------------------

    def _write(self) -> None:
        for name in ("kubelet", "containerd", "cni-state", "log", "cni"):
            (self.directory / name).mkdir(parents=True, exist_ok=True)
        self.keys.certificate(self.name, f"/O=system:nodes/CN=system:node:{self.name}")
        self.keys.kubeconfig(self.name, f"https://{self.site.host}:{self.site.port}")
        (self.directory / "containerd.toml").write_text(_CONTAINERD.format(image=SANDBOX, node=self.directory))
        ranges = [[{"subnet": f"{self.site.net}.{self.index}.0/24"}]]
        addresses = {"type": "host-local", "dataDir": "/var/lib/cni/ipam", "ranges": ranges}
        bridge = {
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": True,
            "isDefaultGateway": True,
            "ipMasq": False,
            "ipam": addresses,
        }
        network = {"cniVersion": "0.4.0", "name": "bed", "plugins": [bridge]}
        (self.directory / "cni" / "10-bed.conflist").write_text(json.dumps(network))
        for path, text in self._host_files().items():
            file = self.directory / "host" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text + "\n")
        self._write_processors()
        (self.directory / "kubelet.json").write_text(
            json.dumps(self._kubelet_configuration())
        )  # last: the mark of a whole node

    def _write_processors(self) -> None:
        """cpu0, cpu1, cpu00, cpu01, …: the kubelet counts them all, but its cpusets hold the real ones only."""
        numa, real = self.directory / "host/sys/devices/system/node/node0", os.cpu_count() or 1
        for cpu in range(self.site.cpus):
            topology = numa / f"cpu{'0' * (cpu // real)}{cpu % real}" / "topology"
            topology.mkdir(parents=True, exist_ok=True)
            (topology / "core_id").write_text(f"{cpu}\n")
            (topology / "physical_package_id").write_text("0\n")
        (numa / "meminfo").write_text(f"Node 0 MemTotal: {self.site.memory << 20} kB\n")
        (numa / "distance").write_text("10\n")

    def _kubelet_configuration(self) -> dict[str, object]:
        evictions = ("memory.available", "nodefs.available", "nodefs.inodesFree", "imagefs.available")
        authority = str(self.site.directory / "pki" / "ca.crt")
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": authority},
            },
            "authorization": {"mode": "Webhook"},
            "address": self.address,
            "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self.cgroup}",
            "failCgroupV1": False,
            "enforceNodeAllocatable": ["none"],
            "makeIPTablesUtilChains": False,
            "failSwapOn": False,
            "oomScoreAdj": 0,
            "maxOpenFiles": 20000,
            # The machine's disk may be full enough to taint the node.
            "evictionHard": dict.fromkeys(evictions, "0%"),
            "imageGCHighThresholdPercent": 100,
            "imageMinimumGCAge": "24h",
            "clusterDNS": [self.site.host],
            "clusterDomain": "cluster.local",
            "resolvConf": "",
            "nodeStatusUpdateFrequency": "2s",
            "nodeLeaseDurationSeconds": 8,
            "syncFrequency": "10s",
        }
