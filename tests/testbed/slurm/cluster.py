"""A real Slurm cluster of several nodes on one machine, for tests.

Every node is a slurmd in its own UTS, PID and mount namespace: a job sees the node's name as its
hostname, and a SIGKILL of that one recorded process is a true crash of the node.  GPUs are device
nodes without a driver, so Slurm schedules and binds them, and nothing can open them.
"""

import atexit
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.testbed.slurm import daemons
from tests.testbed.slurm.commands import CommandFailed, SlurmCommands
from tests.testbed.slurm.daemons import BedError, BedMissing, missing

__all__ = ["BedError", "BedMissing", "CommandFailed", "SlurmBed", "missing"]

# slurmstepd's socket is the longest path: DIR/spool/node01/node01_12345678.4294967291 within 107.
MAX_DIRECTORY = 64
_ACCOUNTING_LINES = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=@DBD_PORT@
# Not AuthInfo: this is where clients of slurmdbd find the munge socket.
AccountingStoragePass=@DIR@/run/munge.sock
AccountingStoreFlags=job_comment,job_env,job_script
AccountingStorageTRES=gres/gpu,gres/gpu:a40
"""
_LOOSE = {
    "ProctrackType": "proctrack/linuxproc",
    "TaskPlugin": "task/none",
    "JobAcctGatherType": "jobacct_gather/linux",
}
_CGROUP = {
    "ProctrackType": "proctrack/cgroup",
    "TaskPlugin": "task/cgroup",
    "JobAcctGatherType": "jobacct_gather/cgroup",
}
# The shell stays, as the namespace's init: it reaps the slurmstepds, of which slurmd would leave two per
# job as zombies.  What a shell starts in the background ignores INT and QUIT, and so would the jobs.
_NODE = """
hostname "$1" && mount -t proc proc /proc && mount --bind "$2" /etc/hosts && mount -t tmpfs tmpfs "$3" || exit 1
env --default-signal=INT,QUIT slurmd -D -N "$1" &
wait $!
"""


class SlurmBed(SlurmCommands):
    """One cluster in `directory`, which must not exist yet or be empty; `down` removes it.

    Partitions: main (the default) and scavenge, whose jobs a job in main preempts by requeueing
    them.  The user root has the accounts `root` (its default) and `acct`.
    """

    def __init__(
        self,
        directory: Path,
        nodes: int = 3,
        gpus: int = 4,
        accounting: bool = True,
        preempt_user_signal: bool = True,
        cgroup: bool = False,
    ) -> None:
        self.directory = directory.absolute()
        if len(str(self.directory)) > MAX_DIRECTORY:
            raise BedError(f"{self.directory}: over {MAX_DIRECTORY} characters, too long for unix sockets")
        if not 1 <= nodes <= 24 or not 1 <= gpus <= 8:
            raise BedError("a bed has 1 to 24 nodes of 1 to 8 GPUs")
        self.nodes = [f"node{i:02d}" for i in range(1, nodes + 1)]
        super().__init__({"SLURM_CONF": str(self.directory / "etc" / "slurm.conf")}, accounting)
        self.gpus, self.cgroup = gpus, cgroup
        self.preempt_user_signal = preempt_user_signal
        self._options: dict[str, str] = {}
        self._values: dict[str, str] = {}
        self._locks: list[socket.socket] = []
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._guard: subprocess.Popen[bytes] | None = None
        self._owner = os.getpid()

    def __enter__(self) -> Self:
        return self.up()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    # --- life ----------------------------------------------------------------------------------

    def up(self, guard: bool = True) -> Self:
        """Start everything and wait until every node is idle.

        With `guard` the bed ends with this process, however that ends; a helper process waits
        for it.  Without, it stays until somebody calls `down`.
        """
        if (lack := missing(self.accounting, self.cgroup)) is not None:
            raise BedMissing(lack)
        if self.directory.exists() and any(self.directory.iterdir()):
            raise BedError(f"{self.directory} is not empty")
        run = self.directory / "run"
        run.mkdir(parents=True)
        (run / daemons.MARKER).touch()
        try:
            if guard:
                self._start_guard()
                atexit.register(self._at_exit)
            self._start()
        except BaseException as error:
            tails = self.tails()
            self.down()
            if isinstance(error, BedError):
                raise BedError(f"{error}\n{tails}") from error
            raise
        return self

    def down(self) -> None:
        """End every process by its recorded pid and remove the directory; harmless when repeated."""
        atexit.unregister(self._at_exit)
        daemons.teardown(self.directory)
        for child in self._children.values():
            child.wait()
        self._children.clear()
        for lock in self._locks:
            lock.close()
        self._locks.clear()
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
            [sys.executable, "-m", "tests.testbed.slurm", "guard", str(self.directory)],
            cwd=Path(__file__).resolve().parents[3],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _start(self) -> None:
        for name in ("etc", "log", "state", "spool", "dev", "oci"):
            (self.directory / name).mkdir()
        self.directory.chmod(0o755)  # munged refuses a socket that not every user can reach
        for index in range(self.gpus):
            # NVIDIA's own major number: a clone of /dev/null would be cut off by device cgroups.
            os.mknod(self.directory / "dev" / f"nvidia{index}", 0o20666, os.makedev(195, index))
        if self.cgroup:
            if (lock := daemons.reserve_name("cgroup")) is None:
                raise BedError("another bed with cgroups runs; their groups are named by node")
            self._locks.append(lock)
        first, lock = daemons.reserve_ports(3 + len(self.nodes))
        self._locks.append(lock)
        self._values = {
            "DIR": str(self.directory),
            "CTLD_PORT": str(first),
            "DBD_PORT": str(first + 1),
            "DB_PORT": str(first + 2),
            "NODES": f"node[01-{len(self.nodes):02d}]",
            "NODE_PORTS": f"[{first + 3}-{first + 2 + len(self.nodes)}]",
            "GPUS": str(self.gpus),
            "GPU_INDEXES": f"[0-{self.gpus - 1}]",
        }
        self._write_slurm_conf()
        self._write("gres.conf")
        self._write("oci.conf")
        if self.cgroup:
            self._write("cgroup.conf")
        hosts = Path("/etc/hosts").read_text() + "".join(f"127.0.0.1 {node}\n" for node in self.nodes)
        (self.directory / "etc" / "hosts").write_text(hosts)
        self._start_munged()
        if self.accounting:
            self._start_accounting()
        self._spawn("slurmctld", "slurmctld", "-D")
        for node in self.nodes:
            self._spawn_node(node)
        self._until("every node idle", lambda: set(self.node_states().values()) == {"idle"}, 60)

    def _start_munged(self) -> None:
        key, sock = self.directory / "etc" / "munge.key", self.directory / "run" / "munge.sock"
        key.touch(0o600)
        key.write_bytes(secrets.token_bytes(1024))
        # An empty --seed-file makes munged try to unlink "/".
        files = [f"--pid-file={sock.with_suffix('.own')}", f"--seed-file={sock.with_suffix('.seed')}"]
        self._spawn("munged", "munged", "-F", f"--key-file={key}", f"--socket={sock}", *files)
        self._until("munged's socket", sock.exists, 10)

    def _start_accounting(self) -> None:
        defaults = f"--defaults-file={self._write('my.cnf')}"
        self._write("slurmdbd.conf", 0o600)
        install = ("mariadb-install-db", defaults, "--user=root", f"--datadir={self.directory / 'mysql'}")
        self.run(*install, "--auth-root-authentication-method=normal", "--skip-test-db")
        self._spawn("mariadbd", "mariadbd", defaults)
        grant = (
            "create user if not exists slurm@'127.0.0.1' identified by 'slurm';"
            "grant all on slurm_acct_db.* to slurm@'127.0.0.1'"
        )
        sql = ("mariadb", "-S", str(self.directory / "run" / "mysql.sock"), "-uroot", "-e", grant)
        self._until("the database", lambda: self.call(*sql).returncode == 0, 60)
        self._spawn("slurmdbd", "slurmdbd", "-D")
        add = ("sacctmgr", "-i", "add")
        self._until("slurmdbd", lambda: self.call(*add, "cluster", "a40bed").returncode == 0, 60)
        self.run(*add, "account", "acct", "cluster=a40bed")
        self.run(*add, "user", "root", "account=acct")

    # --- files ---------------------------------------------------------------------------------

    def _fill(self, text: str) -> str:
        return re.sub(r"@([A-Z_]+)@", lambda match: self._values[match[1]], text)

    def _write(self, name: str, mode: int = 0o644, extra: str = "") -> Path:
        path = self.directory / "etc" / name
        path.touch(mode)
        path.write_text(self._fill(Path(__file__).with_name(f"{name}.in").read_text() + extra))
        return path

    def _write_slurm_conf(self) -> None:
        options = dict(_CGROUP if self.cgroup else _LOOSE)
        if self.preempt_user_signal:
            options["SlurmctldParameters"] = "preempt_send_user_signal"
        options |= self._options
        lines = "".join(f"{key}={value}\n" for key, value in options.items())
        off = "AccountingStorageType=accounting_storage/none\n"
        self._write("slurm.conf", extra=lines + (_ACCOUNTING_LINES if self.accounting else off))

    def tails(self, lines: int = 15) -> str:
        """The last lines of every daemon's log."""
        parts = []
        logs = self.directory / "log"  # what Slurm's daemons write to *.log, they also print
        for log in sorted([*logs.glob("*.out"), *logs.glob("mariadbd.log")]):
            if text := log.read_text(errors="replace").splitlines()[-lines:]:
                parts.append("\n".join([f"--- {log.name}", *text]))
        return "\n".join(parts)

    # --- processes -----------------------------------------------------------------------------

    def _record(self, name: str) -> Path:
        return self.directory / "run" / f"{name}.pid"

    def _spawn(self, name: str, *argv: str) -> None:
        output = self.directory / "log" / f"{name}.out"
        self._children[name] = daemons.spawn(self._record(name), argv, self.environment(), output)

    def _end(self, name: str, how: signal.Signals) -> None:
        daemons.end([self._record(name)], how, timeout=30)
        if (child := self._children.pop(name, None)) is not None:
            child.wait()

    def _spawn_node(self, name: str) -> None:
        inside = ("sh", "-c", _NODE, "slurmd", name, str(self.directory / "etc" / "hosts"), str(self.directory / "oci"))
        self._spawn(name, "unshare", "--uts", "--pid", "--mount", "--fork", "--kill-child=KILL", *inside)

    def _until(self, what: str, done: Callable[[], bool], timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while not done():
            for name, child in self._children.items():
                if child.poll() is not None:
                    raise BedError(f"{name} ended with {child.returncode} while waiting for {what}")
            if time.monotonic() > deadline:
                raise BedError(f"waited {timeout:g} s for {what}")
            time.sleep(0.1)

    def kill_node(self, name: str, notice: bool = False) -> None:
        """Crash a node: slurmd and every process of its jobs are gone without a word.

        Slurm takes about 30 s to see that; with `notice` it is told, as an operator would.
        """
        self._known(name)
        self._end(name, signal.SIGKILL)
        if notice:
            self.run("scontrol", "update", f"nodename={name}", "state=down", "reason=crashed")

    def start_node(self, name: str, timeout: float = 60) -> None:
        """Boot a crashed node and wait until the controller uses it again.

        A crash that the controller has not noticed by then leaves young jobs RUNNING for a long
        time, as on any cluster: what is not 10 s old is not missed when the node registers.
        """
        self._known(name)
        since = time.strftime("%Y-%m-%dT%H:%M:%S")
        if daemons.running(self._record(name)) is not None:
            return
        self._spawn_node(name)
        usable = ("idle", "planned", "mixed", "allocated", "completing")

        def registered() -> bool:
            # The state alone would do only if the controller had noticed that the node was gone.
            shown = re.search(r"SlurmdStartTime=(\S+)", self.run("scontrol", "show", "node", name))
            return shown is not None and "T" in shown[1] and shown[1] >= since

        self._until(f"{name} in service", lambda: registered() and self.node_states()[name] in usable, timeout)

    def _known(self, name: str) -> None:
        if name not in self.nodes:
            raise BedError(f"no node {name}; there are {', '.join(self.nodes)}")

    def stop_controller(self) -> None:
        """End slurmctld properly (it saves its state); jobs go on running."""
        self._end("slurmctld", signal.SIGTERM)

    def start_controller(self, timeout: float = 60) -> None:
        """Start slurmctld and wait until it has heard from every node that runs."""
        if daemons.running(self._record("slurmctld")) is None:
            self._spawn("slurmctld", "slurmctld", "-D")
        up = [node for node in self.nodes if daemons.running(self._record(node)) is not None]

        def heard() -> bool:
            states = self.node_states()
            return all(node in states and not re.search(r"unknown|\*", states[node]) for node in up)

        self._until("the controller", heard, timeout)

    def restart_controller(self) -> None:
        """Stop and start slurmctld; it rereads slurm.conf."""
        self.stop_controller()
        self.start_controller()

    def set_option(self, key: str, value: str | None) -> None:
        """Add a line to slurm.conf (None takes it out again) and restart the controller."""
        if value is None:
            self._options.pop(key, None)
        else:
            self._options[key] = value
        self._write_slurm_conf()
        self.restart_controller()

    def set_preempt_user_signal(self, on: bool) -> None:
        """Whether preemption sends the job's --signal; otherwise its steps get TERM."""
        if on != self.preempt_user_signal:
            self.preempt_user_signal = on
            self._write_slurm_conf()
            self.run("scontrol", "reconfigure")  # enough for this option, and 5 s faster than a restart

    def reset(self) -> None:
        """Make the bed fit for the next test: all daemons up, no job, every node idle."""
        self.start_controller()
        for node in self.nodes:
            if daemons.running(self._record(node)) is None:
                self._spawn_node(node)
        if held := self.run("squeue", "-h", "-o", "%A").split():
            self.run("scancel", *held, check=False)
            self.run("scancel", "--signal=KILL", "--full", *held, check=False)
        self.wait_gone(30)
        self._until("every node idle", lambda: set(self.node_states().values()) == {"idle"}, 60)
