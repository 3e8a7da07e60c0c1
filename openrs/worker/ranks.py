"""Starting, watching and ending the processes of a stage."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from openrs.errors import BadInput
from openrs.runs.files import tail
from openrs.runs.lease import Lease
from openrs.spec.load import PACKAGE
from openrs.stage import Process, StageFile
from openrs.worker.stop import child_setup

MODULES = {
    "trainer": "openrs.training",
    "cell": "openrs.evaluation",
    "generation_server": "openrs.training.generation.server",
}

NEEDS = {
    "trainer": ("train", ("torch", "transformers", "accelerate", "datasets", "math_verify")),
    "cell": ("train", ("torch", "transformers", "math_verify")),
    "generation_server": ("vllm", ("vllm",)),
}
"""Role → the extra of openrs that brings what it imports, and what that is."""


@dataclass
class Member:
    """One started process."""

    name: str
    role: str
    process: subprocess.Popen[bytes]
    log: Path


@dataclass
class Ranks:
    """All processes of an attempt."""

    stage: StageFile
    stage_path: Path
    task: int | None
    attempt: int
    logs: Path
    stop_flag: Path
    lease: Lease
    secrets: dict[str, str]
    members: list[Member] = field(default_factory=list)
    _forwarded: int = 0

    def start(self) -> None:
        """Starts every process of the stage file. Raises OSError."""
        master_port = free_port()
        given = visible_gpus(self.stage.gpus)
        server = next((process for process in self.stage.processes if process.role == "generation_server"), None)
        server_address = f"127.0.0.1:{free_port()}" if server else ""
        for group in self.stage.processes:
            for rank in range(group.world):
                environment = self._environment(group, rank, master_port, given, server_address)
                name = "server" if group.role == "generation_server" else f"rank-{rank}"
                command = [sys.executable, "-m", MODULES[group.role], str(self.stage_path)]
                command += [] if self.task is None else ["--task", str(self.task)]
                self._spawn(name, group.role, command, environment)

    def _environment(self, group: Process, rank: int, port: int, given: list[str], server: str) -> dict[str, str]:
        distributed = {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(group.world),
            "LOCAL_WORLD_SIZE": str(group.world),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "CUDA_VISIBLE_DEVICES": ",".join(given[index] for index in group.gpus),
        }
        if not group.gpus:
            distributed["ACCELERATE_USE_CPU"] = "true"
        ours = {
            "OPENRS_ATTEMPT": str(self.attempt),
            "OPENRS_STOP_FLAG": str(self.stop_flag),
            "OPENRS_LEASE": str(self.lease.path),
            "OPENRS_LEASE_NONCE": self.lease.nonce,
            "OPENRS_LEASE_SECONDS": str(self.lease.ttl),
            "OPENRS_GENERATION_SERVER": server,
            "PYTHONUNBUFFERED": "1",
        }
        merged = {**os.environ, **self.stage.environment, **self.secrets, **distributed, **ours}
        # The snapshot comes before whatever the spec or the profile may put there.
        merged["PYTHONPATH"] = os.pathsep.join(filter(None, [str(PACKAGE.parent), merged.get("PYTHONPATH")]))
        return merged

    def _spawn(self, name: str, role: str, command: list[str], environment: dict[str, str]) -> None:
        log = self.logs / f"{name}.log"
        with open(log, "ab") as output:
            process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                preexec_fn=child_setup(os.getpid()),
                process_group=0,
            )
        self.members.append(Member(name, role, process, log))

    @property
    def workers(self) -> list[Member]:
        """The processes whose end is the end of the stage; a generation server only serves them."""
        return [member for member in self.members if member.role != "generation_server"]

    def codes(self) -> list[int | None]:
        """Exit codes of the workers, None for one that runs."""
        return [member.process.poll() for member in self.workers]

    def server_died(self) -> Member | None:
        """The generation server, if it has ended by itself."""
        return next((m for m in self.members if m.role == "generation_server" and m.process.poll() is not None), None)

    def kill(self) -> None:
        """Ends whatever still runs, with its children, at once, and waits for it."""
        for member in self.members:
            # The group outlives its leader while a child of it runs.
            try:
                os.killpg(member.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        for member in self.members:
            try:
                member.process.wait(timeout=30)
            except subprocess.TimeoutExpired:  # in an uninterruptible system call: it cannot write either
                continue

    def forward(self, out: BinaryIO) -> None:
        """Copies what the first worker has printed since the last call to `out`, for `kubectl logs` and the like."""
        try:
            with open(self.workers[0].log, "rb") as log:
                log.seek(self._forwarded)
                news = log.read(1 << 20)
        except OSError:
            return
        if news:
            self._forwarded += len(news)
            out.write(news)
            out.flush()

    def complaint(self) -> str:
        """Why it failed, in one line: a worker's own `openrs: …` line, else the last line of its log."""
        for member in [*self.workers, *self.members]:
            code = member.process.poll()
            if code in (0, None):
                continue
            lines = tail(member.log)
            own = [line.removeprefix("openrs: ") for line in lines if line.startswith("openrs: ")]
            if own:
                return own[-1]
            if code is not None and code < 0:
                hint = "; out of memory?" if code == -signal.SIGKILL else ""
                return f"{member.name} was killed by {signal.Signals(-code).name}{hint}"
            return f"{member.name} ended with code {code}: {lines[-1] if lines else 'it printed nothing'}"
        return "a process ended without a reason"


def check_packages(processes: list[Process]) -> None:
    """Raises BadInput where this Python lacks what the processes import: a base install has no torch."""
    for process in processes:
        extra, modules = NEEDS[process.role]
        missing = [module for module in modules if importlib.util.find_spec(module) is None]
        if missing:
            raise BadInput(
                f"{sys.executable} has no {', '.join(missing)}; install openrs[{extra}] there, then resume the run"
            )


def visible_gpus(count: int) -> list[str]:
    """Names, for CUDA_VISIBLE_DEVICES, of the GPUs that this job was given: the scheduler's list, else the first ones.

    Raises BadInput where the list is shorter: the others are somebody else's.
    """
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is None:
        return [str(index) for index in range(count)]
    names = [name for name in given.split(",") if name]
    if len(names) < count:
        raise BadInput(f"CUDA_VISIBLE_DEVICES = {given!r}: the job needs {count} GPUs; unset it, or name so many")
    return names


def free_port() -> int:
    """A TCP port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
