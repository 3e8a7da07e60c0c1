"""What a Kubernetes bed does to the machine: processes under recorded pids, interfaces, cgroups.

The records on disk are enough to end a bed from another process (`down DIR`, or the guard that outlives an
interrupted pytest).  Each holds a pid and its start time, since the kernel gives numbers out again.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

PACKAGES = "containerd runc containernetworking-plugins busybox-static iproute2 openssl"
# Not this process's own: daemons and pods must not depend on who started the bed, and sbin is often absent.
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PROGRAMS = ("containerd", "ctr", "runc", "ip", "openssl", "ldd", "nsenter", "unshare", "mount")
_FILES = ("/usr/lib/cni/bridge", "/usr/lib/cni/host-local", "/bin/busybox")
Word = str | int | Path
T = TypeVar("T")


class BedError(RuntimeError):
    """The bed, or a command run on it, did not do what was asked."""


class BedMissing(BedError):
    """This machine lacks something that the bed needs."""


def missing() -> str | None:
    """What this machine lacks for a bed, in words that tell what to do about it; None when nothing."""
    absent = [name for name in _PROGRAMS if shutil.which(name, path=PATH) is None]
    absent += [name for name in _FILES if not Path(name).exists()]
    if absent:
        return f"{', '.join(absent)} (apt packages: {PACKAGES})"
    if os.geteuid() != 0:
        return "root (the bed makes namespaces, interfaces and cgroups)"
    probe = ["unshare", "--mount", "--net", "--pid", "--uts", "--ipc", "--fork", "mount", "-t", "proc", "proc", "/proc"]
    if subprocess.run(probe, capture_output=True).returncode != 0:
        return "the right to unshare namespaces and mount in them (CAP_SYS_ADMIN; docker: --privileged)"
    if not Path("/sys/fs/cgroup/memory/tasks").exists() or not os.access("/sys/fs/cgroup/memory", os.W_OK):
        return "cgroup v1 controllers under /sys/fs/cgroup, writable"
    return None


def run(*argv: Word, stdin: str = "") -> str:
    """Run a command and return what it printed; when it fails, say why."""
    done = subprocess.run([str(word) for word in argv], input=stdin, capture_output=True, text=True)
    if done.returncode:
        raise BedError(f"{' '.join(map(str, argv))} ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def wait(ready: Callable[[], T | None], what: str, seconds: float = 30) -> T:
    """Poll until `ready()` is true, and return what it returned."""
    deadline = time.monotonic() + seconds
    while True:
        if result := ready():
            return result
        if time.monotonic() > deadline:
            raise BedError(f"waited {seconds:g} s for {what}")
        time.sleep(0.05)


# --- processes ---------------------------------------------------------------------------------


class Processes:
    """Daemons, each with a log and a record of its pid: what is ended is never a stranger."""

    def __init__(self, directory: Path) -> None:
        self.records, self.logs = directory / "run", directory / "log"

    def spawn(
        self, name: str, argv: Sequence[Word], inside: int | None = None, environment: Mapping[str, str] | None = None
    ) -> None:
        """Start a daemon unless it runs; one `inside` a node enters the namespaces of the node's first process."""
        if self.pid(name):
            return
        if inside is not None:
            enter = ["nsenter", f"--target={inside}", "--mount", "--net", "--pid", "--uts", "--ipc", "--"]
            argv = [*enter, *argv]
        with (self.logs / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [str(word) for word in argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env={"PATH": PATH, "HOME": "/root", **(environment or {})},
                start_new_session=True,
            )
        pid = process.pid
        if argv[0] in ("nsenter", "unshare"):  # they fork: the process that matters is their child
            self._record(f"{name}.parent", pid)
            pid = wait(lambda: _child(process.pid), f"{name} to start, see {self.logs}/{name}.log")
        self._record(name, pid)

    def _record(self, name: str, pid: int) -> None:
        (self.records / f"{name}.pid").write_text(f"{pid} {start_time(pid)}")

    def pid(self, name: str) -> int | None:
        """The pid of the daemon, if that very process still runs; of this machine, also for one inside a node."""
        try:
            pid, start = (self.records / f"{name}.pid").read_text().split()
        except (OSError, ValueError):
            return None
        return int(pid) if start_time(int(pid)) == start else None

    def crashed(self, name: str) -> bool:
        """Whether it ended by itself: `end` takes the record away."""
        return (self.records / f"{name}.pid").exists() and self.pid(name) is None

    def end(self, name: str, how: signal.Signals = signal.SIGTERM, patience: float = 20) -> None:
        """Signal a daemon, wait until it is gone, and kill it when it outlives the wait."""
        for record in (name, f"{name}.parent"):
            if not (self._signal(record, how, patience) or self._signal(record, signal.SIGKILL, 20)):
                raise BedError(f"{record} still runs after SIGKILL")
            (self.records / f"{record}.pid").unlink(missing_ok=True)

    def _signal(self, record: str, how: signal.Signals, patience: float) -> bool:
        if (pid := self.pid(record)) is None:
            return True
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, how)
        with contextlib.suppress(BedError):
            return wait(lambda: self.pid(record) is None, f"{record} to end", patience)
        return False

    def tails(self, lines: int = 8) -> str:
        """The last lines of every daemon's log."""
        parts = []
        for log in sorted(self.logs.glob("*.log")):
            if text := log.read_text(errors="replace").splitlines()[-lines:]:
                parts.append("\n".join([f"--- {log.name}", *text]))
        return "\n".join(parts)


def start_time(pid: int) -> str | None:
    """What tells a process from a later one of the same pid; None for one that is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else fields[19]


def _child(pid: int) -> int | None:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(children[0]) if children else None


# --- interfaces --------------------------------------------------------------------------------


def has_interface(name: str) -> bool:
    """Whether this machine has a network interface of that name."""
    return Path(f"/sys/class/net/{name}").exists()


def delete_interface(name: str) -> None:
    """The kernel too deletes a dead node's interface, some time later: no error when it comes first."""
    if has_interface(name):
        subprocess.run(["ip", "link", "delete", name], capture_output=True)


# --- cgroups -----------------------------------------------------------------------------------


def make_cgroups(name: str) -> None:
    """A group in every hierarchy."""
    for hierarchy in _hierarchies():
        (hierarchy / name).mkdir(parents=True, exist_ok=True)


def remove_cgroups(name: str) -> None:
    """Remove a group and all below it; their processes are dead, but the kernel may take a moment to notice."""

    def gone() -> bool:
        with contextlib.suppress(OSError):
            for hierarchy in _hierarchies():
                for path, _, _ in os.walk(hierarchy / name, topdown=False):
                    os.rmdir(path)
            return True
        return False

    wait(gone, f"the cgroups {name} to be empty", 10)


def _hierarchies() -> list[Path]:
    """The hierarchies of cgroup v1, and the unified one beside them; the names that join two are links."""
    return [path for path in Path("/sys/fs/cgroup").iterdir() if path.is_dir() and not path.is_symlink()]


# --- files -------------------------------------------------------------------------------------


def remove_tree(directory: Path) -> None:
    """Remove a bed's directory, of which nothing may be a mount any more: deleting would go on behind it."""
    mounted = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    if inside := [path for path in mounted if path.startswith(f"{directory}/")]:
        raise BedError(f"something is mounted at {inside}; deleting {directory} would delete what is mounted")
    while directory.exists():
        with contextlib.suppress(FileNotFoundError):  # some other process removes it as well
            for path in directory.iterdir():  # the record, a file, goes last: an interrupted removal can be repeated
                if path.is_dir():
                    shutil.rmtree(path)
            shutil.rmtree(directory)
