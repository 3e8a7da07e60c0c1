"""Worker processes that judge pairs, each within a limit of time and memory, and that stay warm between calls.

They are started by exec, never by fork alone: a rank has torch's threads. Pairs of one gold answer go to one worker, which
parses it once. A pair that takes too long costs its worker; the pool starts another and goes on with the next pair. The
calling process waits by poll alone, so any thread may call, and no signal is used.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import selectors
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from openrs.errors import OpenRSError
from openrs.rewards.verifier.grade import Rule

SECONDS = 5.0
"""Time by the clock for the parse of a gold answer, and for the rest of a pair; then the worker is killed. Most pairs that
take too long are left before, by their processor time (`worker.CPU_SECONDS`)."""

MEMORY = 1 << 30
"""Bytes of address space that a worker may take beyond what its imports need."""

START_SECONDS = 300.0
"""Time for a worker to import sympy, from a network file system if it must."""

MOST = 8
"""Workers of one process."""

_PACKAGE_ROOT = Path(__file__).resolve().parents[3]


class Pair(NamedTuple):
    """A gold answer and a text to be compared with it."""

    rule: Rule
    gold: str
    text: str
    announced_only: bool = False


class Verdict(NamedTuple):
    """What became of a pair."""

    correct: bool | None
    """None where the gold answer cannot be read."""
    limit: Literal["time", "memory", "crash"] | None = None
    """Why it was given up; then it is not correct."""


@dataclass
class _Worker:
    """One process and what it is doing."""

    process: subprocess.Popen[bytes]
    deadline: float
    ready: bool = False
    work: deque[int] = field(default_factory=deque)
    """Indices of pairs, the one in progress first."""
    busy: bool = False
    readable: bool | None = None
    """Whether the gold answer of the pair in progress can be read, once that is known."""
    unsent: memoryview = field(default_factory=lambda: memoryview(b""))
    received: bytearray = field(default_factory=bytearray)

    @property
    def pipes(self) -> tuple[int, int]:
        """File descriptors to write to and to read from."""
        assert self.process.stdin is not None and self.process.stdout is not None
        return self.process.stdin.fileno(), self.process.stdout.fileno()

    def send(self, message: dict[str, Any]) -> None:
        """Takes a message to be written."""
        self.unsent = memoryview(json.dumps(message).encode() + b"\n")
        self.flush()

    def flush(self) -> None:
        """Writes what the pipe takes. A worker that has died is noticed by its closed output."""
        try:
            while self.unsent:
                self.unsent = self.unsent[os.write(self.pipes[0], self.unsent) :]
        except BlockingIOError:
            pass
        except BrokenPipeError:
            self.unsent = memoryview(b"")

    def end(self) -> None:
        """Kills the process and waits for it."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


class Pool:
    """So many worker processes, started when there is work for them."""

    def __init__(
        self, size: int | None = None, seconds: float = SECONDS, memory: int = MEMORY, lighteval: bool = False
    ) -> None:
        self.size = size or default_size()
        self.seconds, self._memory = seconds, memory
        self._lighteval = lighteval
        """Whether its workers judge by lighteval's metrics."""
        self.workers: list[_Worker] = []
        self._lock = threading.Lock()
        self._failed_starts = 0
        self._owner = os.getpid()

    def judge(self, pairs: Sequence[Pair]) -> list[Verdict]:
        """The verdicts of some pairs, in their order. Raises OpenRSError where math-verify cannot be run at all."""
        with self._lock:
            return _Call(self, pairs).run() if pairs else []

    def processes(self) -> list[int]:
        """The ids of the worker processes."""
        return [worker.process.pid for worker in self.workers]

    def close(self) -> None:
        """Ends all workers. The next call starts new ones."""
        if os.getpid() != self._owner:
            return  # a fork of the owner: the workers are not its own
        with self._lock:
            while self.workers:
                self.workers.pop().end()

    # For the call in progress.

    def provide(self, wanted: int) -> None:
        """Replaces idle workers that have died, and starts more until there are `wanted`, or as many as there may be."""
        for worker in [worker for worker in self.workers if not worker.busy and worker.process.poll() is not None]:
            if worker.ready:
                self.drop(worker)
        while len(self.workers) < min(wanted, self.size):
            self.workers.append(self._start())

    def drop(self, worker: _Worker) -> None:
        """Ends a worker for good."""
        worker.end()
        self.workers.remove(worker)

    def _start(self) -> _Worker:
        path = os.pathsep.join(filter(None, [str(_PACKAGE_ROOT), os.environ.get("PYTHONPATH")]))
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "openrs.rewards.verifier.worker", str(os.getpid())],
            env={**os.environ, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )
        worker = _Worker(process, time.monotonic() + START_SECONDS)
        for pipe in worker.pipes:
            os.set_blocking(pipe, False)
        worker.send({"memory": self._memory, "lighteval": self._lighteval})
        return worker

    def started(self, error: str | None) -> None:
        """Takes note of how a start ended. Raises OpenRSError where none succeeds."""
        self._failed_starts = 0 if error is None else self._failed_starts + 1
        if error is not None and self._failed_starts >= 3:
            self._failed_starts = 0
            what, extra = ("lighteval", "eval") if self._lighteval else ("math-verify", "train")
            raise OpenRSError(f"{what} cannot be run by {sys.executable}: {error}; install openrs[{extra}] there")


class _Call:
    """One call's pairs on their way through the workers."""

    def __init__(self, pool: Pool, pairs: Sequence[Pair]) -> None:
        self._pool, self._pairs = pool, pairs
        self._verdicts: dict[int, Verdict] = {}
        groups: dict[tuple[str, str], list[int]] = {}
        for index, pair in enumerate(pairs):
            groups.setdefault((pair.rule, pair.gold), []).append(index)
        most = -(-len(pairs) // pool.size)
        pieces = [group[at : at + most] for group in groups.values() for at in range(0, len(group), most)]
        self._waiting = deque(deque(piece) for piece in sorted(pieces, key=len, reverse=True))
        self._unreadable: dict[tuple[str, str], Verdict] = {}
        """Rule and gold answer → what is then said of each of its pairs."""
        self._crashed: set[int] = set()

    def run(self) -> list[Verdict]:
        try:
            while len(self._verdicts) < len(self._pairs):
                self._give_out()
                self._wait()
        except BaseException:
            # What is under way belongs to nobody any more.
            for worker in [worker for worker in self._pool.workers if worker.busy]:
                self._pool.drop(worker)
            raise
        return [self._verdicts[index] for index in range(len(self._pairs))]

    def _give_out(self) -> None:
        left = sum(map(len, self._waiting))
        self._pool.provide(max(1, min(len(self._waiting), 1 + left // 4)))
        for worker in self._pool.workers:
            if not worker.ready or worker.busy:
                continue
            while not worker.busy and (worker.work or self._waiting):
                if not worker.work:
                    worker.work = self._waiting.popleft()
                self._next(worker)

    def _next(self, worker: _Worker) -> None:
        """Sends the next pair of the worker's piece, or settles it where its gold answer is known to be of no use."""
        index = worker.work[0]
        pair = self._pairs[index]
        if (pair.rule, pair.gold) in self._unreadable:
            self._verdicts[index] = self._unreadable[pair.rule, pair.gold]
            worker.work.popleft()
            return
        worker.busy, worker.readable = True, None
        worker.deadline = time.monotonic() + self._pool.seconds
        worker.send(pair._asdict())

    def _wait(self) -> None:
        active = [worker for worker in self._pool.workers if worker.busy or not worker.ready]
        if not active:
            return
        with selectors.PollSelector() as selector:
            for worker in active:
                write, read = worker.pipes
                selector.register(read, selectors.EVENT_READ, worker)
                if worker.unsent:
                    selector.register(write, selectors.EVENT_WRITE, worker)
            soonest = min(worker.deadline for worker in active)
            for key, events in selector.select(max(0.0, soonest - time.monotonic())):
                if events & selectors.EVENT_WRITE:
                    key.data.flush()
                else:
                    self._receive(key.data)
        now = time.monotonic()
        for worker in active:
            if worker in self._pool.workers and (worker.busy or not worker.ready) and worker.deadline <= now:
                self._lost(worker, "time")

    def _receive(self, worker: _Worker) -> None:
        try:
            chunk = os.read(worker.pipes[1], 1 << 16)
        except BlockingIOError:
            return
        if not chunk:
            self._lost(worker, "crash")
            return
        worker.received += chunk
        *lines, rest = worker.received.split(b"\n")
        worker.received = bytearray(rest)
        for line in lines:
            self._take(worker, json.loads(line))

    def _take(self, worker: _Worker, reply: Any) -> None:
        if not worker.ready:
            if reply == "ready":
                worker.ready = True
                self._pool.started(None)
            else:
                self._pool.drop(worker)
                self._pool.started(str(reply["error"]))
            return
        index = worker.work[0]
        if not isinstance(reply, dict):
            worker.readable, worker.deadline = reply is True, time.monotonic() + self._pool.seconds
            if reply is True:
                return
            self._give_up(index, Verdict(None, "time" if reply == "time" else None))
        else:
            self._verdicts[index] = Verdict(reply["correct"], reply["limit"])
        worker.work.popleft()
        worker.busy = False
        if isinstance(reply, dict) and reply["leaving"]:
            self._give_back(worker)
            self._pool.drop(worker)

    def _lost(self, worker: _Worker, why: Literal["time", "crash"]) -> None:
        """A worker that has died or must be killed: its pair is given up, its other pairs wait for another worker."""
        code = worker.process.poll()
        if worker.busy and why == "crash" and worker.work[0] not in self._crashed:
            # Something else may have ended it (the kernel's OOM killer, a user): the pair gets a second chance.
            self._crashed.add(worker.work[0])
        elif worker.busy:
            index = worker.work.popleft()
            if worker.readable is None:
                self._give_up(index, Verdict(None, why))
            else:
                self._verdicts[index] = Verdict(False, why)
        self._give_back(worker)
        ready = worker.ready
        self._pool.drop(worker)
        if not ready:
            self._pool.started("it took too long to start" if why == "time" else f"it ended with code {code}")

    def _give_up(self, index: int, verdict: Verdict) -> None:
        """Settles a pair whose gold answer cannot be read, and with it all others of that gold answer."""
        self._unreadable[self._pairs[index].rule, self._pairs[index].gold] = verdict
        self._verdicts[index] = verdict

    def _give_back(self, worker: _Worker) -> None:
        if worker.work:
            self._waiting.appendleft(worker.work)
        worker.work = deque()


def default_size() -> int:
    """Workers for this process: its share of the cores that it may use, among the ranks of its node."""
    ranks = os.environ.get("LOCAL_WORLD_SIZE", "1")
    ranks_here = int(ranks) if ranks.isdecimal() and int(ranks) > 0 else 1
    return max(1, min(MOST, len(os.sched_getaffinity(0)) // ranks_here))


_shared: tuple[int, Pool] | None = None
_shared_lock = threading.Lock()


def shared() -> Pool:
    """This process's pool. A process that was forked off gets its own."""
    global _shared
    with _shared_lock:
        if _shared is None or _shared[0] != os.getpid():
            _shared = (os.getpid(), Pool())
            atexit.register(_shared[1].close)
        return _shared[1]
