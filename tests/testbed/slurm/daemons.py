"""What lies under a Slurm bed: its daemons (started, known by pid, ended), its ports, its removal.

The records on disk are enough to end a bed from another process (`down DIR`, or the guard that
outlives an interrupted pytest).  A pid alone is not enough, since the kernel gives numbers out again;
each record is therefore the daemon's own line of /proc/PID/stat, which holds its start time too.
"""

import contextlib
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

PACKAGES = (
    "slurmctld slurmd slurm-client slurmdbd munge mariadb-server-core mariadb-client-core mysql-common "
    "slurm-wlm-basic-plugins slurm-wlm-mysql-plugin"
)
MARKER = "openrs-slurm-bed"
# srun and slurmstepd listen on ephemeral ports (from 32768 up), so the daemons stay below those.
PORT_RANGE = range(10000, 32000, 32)
_SYSTEM_PATH = ":/usr/local/sbin:/usr/sbin:/sbin"
_CORE = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "unshare", "hostname")
_ACCOUNTING = ("slurmdbd", "sacctmgr", "sacct", "mariadbd", "mariadb", "mariadb-install-db")


class BedError(RuntimeError):
    """The bed, or a command run on it, did not do what was asked."""


class BedMissing(BedError):
    """This machine lacks something that the bed needs."""


def system_path() -> str:
    """PATH, with the places where the daemons live (a login shell often lacks them)."""
    return os.environ.get("PATH", "/usr/bin:/bin") + _SYSTEM_PATH


def _has_plugin(name: str) -> bool:
    roots = (Path("/usr/lib"), Path("/usr/lib64"), Path("/usr/local/lib"))
    patterns = (f"slurm*/{name}.so", f"*/slurm*/{name}.so")
    return any(next(root.glob(pattern), None) for root in roots for pattern in patterns)


def missing(accounting: bool = True, cgroup: bool = False) -> str | None:
    """What this machine lacks for a bed, in words that tell what to do about it; None when nothing."""
    programs = _CORE + (_ACCOUNTING if accounting else ())
    absent = [name for name in programs if shutil.which(name, path=system_path()) is None]
    plugins = ["select_cons_tres", "auth_munge"] + (["accounting_storage_slurmdbd"] if accounting else [])
    if not absent:
        absent = [f"{name}.so" for name in plugins if not _has_plugin(name)]
    if absent:
        return f"{', '.join(absent)} (apt packages: {PACKAGES})"
    if os.geteuid() != 0:
        return "root (the bed makes device nodes and namespaces)"
    probe = ["unshare", "--uts", "--pid", "--mount", "--fork", "mount", "-t", "proc", "proc", "/proc"]
    if subprocess.run(probe, capture_output=True).returncode != 0:
        return "the right to unshare namespaces and mount in them (CAP_SYS_ADMIN; docker: --privileged)"
    if cgroup and not Path("/sys/fs/cgroup/memory/tasks").exists():
        return "cgroup v1 controllers under /sys/fs/cgroup"
    return None


# --- processes ---------------------------------------------------------------------------------


def _stat(pid: int) -> tuple[str, str] | None:
    """A process's state letter and start time."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return fields[0], fields[19]


def _recorded(record: Path) -> tuple[int, str] | None:
    try:
        line = record.read_text()
    except OSError:
        return None
    head, _, tail = line.rpartition(")")
    fields = tail.split()
    return (int(head.split()[0]), fields[19]) if len(fields) > 19 else None


def running(record: Path) -> int | None:
    """The pid of the daemon behind `record`, if that very process still runs.

    A zombie counts as gone: where PID 1 reaps lazily it can stay for seconds.
    """
    known = _recorded(record)
    return known[0] if known is not None and _alive(*known) else None


def _alive(pid: int, start: str) -> bool:
    now = _stat(pid)
    return now is not None and now[1] == start and now[0] not in "ZX"


def _with_children(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        children = []
    return [pid, *map(int, children)]


def spawn(record: Path, argv: Sequence[str], env: Mapping[str, str], output: Path) -> subprocess.Popen[bytes]:
    """Start a daemon in the foreground of its own session (a Ctrl-C at the terminal is not for it).

    The shell writes the record before it becomes the daemon: at no moment is there a daemon
    that nobody could find.
    """
    script = 'read -r line < "/proc/$$/stat" && echo "$line" > "$0" && exec "$@"'
    with output.open("ab") as sink:
        return subprocess.Popen(
            ["/bin/sh", "-c", script, str(record), *argv],
            env=dict(env),
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            start_new_session=True,
        )


def end(records: Iterable[Path], how: signal.Signals = signal.SIGKILL, timeout: float = 15) -> None:
    """Signal the recorded daemons, wait until they are gone, and kill what outlives the wait."""
    records = list(records)
    groups = [pid for record in records if (pid := running(record)) is not None]
    # A node's slurmd dies just after the unshare that is recorded, and slurmctld has a helper.
    family = [(pid, now[1]) for group in groups for pid in _with_children(group) if (now := _stat(pid))]
    for pid in groups:
        with contextlib.suppress(ProcessLookupError):
            # Not the group unless it is the end: slurmctld needs its helper to stop properly.
            os.killpg(pid, how) if how == signal.SIGKILL else os.kill(pid, how)
    deadline = time.monotonic() + timeout
    while left := [pid for pid, start in family if _alive(pid, start)]:
        if time.monotonic() > deadline:
            if how == signal.SIGKILL:
                raise BedError(f"processes {left} still run after SIGKILL")
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            deadline, how = time.monotonic() + timeout, signal.SIGKILL
        time.sleep(0.02)
    for record in records:
        record.unlink(missing_ok=True)


# --- ports -------------------------------------------------------------------------------------


def _free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def reserve_name(name: str) -> socket.socket | None:
    """A lock between processes that leaves no file: an abstract socket name, held while it is open."""
    lock = socket.socket(socket.AF_UNIX)
    try:
        lock.bind(f"\0{MARKER}-{name}")
    except OSError:
        lock.close()
        return None
    return lock


def reserve_ports(count: int) -> tuple[int, socket.socket]:
    """The first of `count` free ports in a row, and the lock that keeps other beds off them."""
    starts = list(PORT_RANGE)
    random.SystemRandom().shuffle(starts)  # a test that seeds `random` must not make beds collide
    for first in starts:
        if (lock := reserve_name(f"ports-{first}")) is None:
            continue
        if all(_free(port) for port in range(first, first + count)):
            return first, lock
        lock.close()
    raise BedError(f"no {count} free ports in a row between {PORT_RANGE.start} and {PORT_RANGE.stop}")


# --- removal -----------------------------------------------------------------------------------


def _remove_cgroups(names: Iterable[str]) -> None:
    for name in names:
        for top in Path("/sys/fs/cgroup").glob(f"*/{name}"):
            for path in sorted(top.rglob("*"), reverse=True):
                if path.is_dir():
                    path.rmdir()
            top.rmdir()


def _containers(directory: Path) -> list[str]:
    """How the control groups of containers are called that a crash of their node has left."""
    text = (directory / "etc" / "oci.conf").read_text() if (directory / "etc" / "oci.conf").exists() else ""
    return [f"{prefix}.*" for prefix in set(re.findall(r"openrs-\d+", text))]


def teardown(directory: Path) -> None:
    """End a bed and remove all it left, from any process, at any stage; a bed already gone is fine.

    The nodes' mounts live in their own namespaces and go with them.
    """
    marker = directory / "run" / MARKER
    if not marker.exists():
        if directory.exists() and any(directory.iterdir()):
            raise BedError(f"{directory} is not a bed; it is left alone")
        with contextlib.suppress(FileNotFoundError):
            directory.rmdir()
        return
    # All at once and without TERM: what they would save is deleted next.
    end((directory / "run").glob("*.pid"))
    if (directory / "etc" / "cgroup.conf").exists():
        _remove_cgroups(f"slurm_{path.name}" for path in (directory / "spool").iterdir())
    _remove_cgroups(_containers(directory))
    for path in directory.iterdir():
        if path != marker.parent:
            shutil.rmtree(path)
    shutil.rmtree(directory)  # the marker last, so that an interrupted removal can be repeated
