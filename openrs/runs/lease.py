"""The lease: one supervisor at a time writes for a stage, without comparing clocks.

The holder rewrites its file every few seconds. Who finds a file watches it: only if it has not changed for one whole
time-to-live on the watcher's own monotonic clock is the holder taken for dead (a holder that is known to be dead, because
it ran on this very machine, is not waited for). A holder that could not renew in time must have stopped by then, and a
holder that finds another's nonce has lost. Ranks watch the same file (`Watch`), so that they stop even when their
supervisor is frozen. Compare: Gray & Cheriton, "Leases", SOSP 1989.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from openrs.runs.files import clean, is_disk_full, read_object, write_atomic

SAFE_SHARE = 0.6
"""Share of the time-to-live after which a holder that could not renew stops; the rest is for its ranks to die."""


class LeaseLost(Exception):
    """Somebody else holds the lease now, or it could not be renewed in time: write nothing more."""


def process_identity(pid: int | None = None) -> dict[str, Any]:
    """What tells a process from every other: boot, PID namespace, pid, and its start in clock ticks (proc(5))."""
    pid = os.getpid() if pid is None else pid
    return {"boot": _boot_id(), "namespace": _pid_namespace(), "pid": pid, "start": start_ticks(pid)}


def is_dead(identity: dict[str, Any]) -> bool:
    """True only if that process certainly does not run any more: it was on this boot, in this PID namespace."""
    if identity.get("boot") != _boot_id() or identity.get("namespace") != _pid_namespace():
        return False
    start = start_ticks(int(identity.get("pid", 0)))
    return start is None or start != identity.get("start")


def start_ticks(pid: int, *, zombie: bool = False) -> int | None:
    """Start time of a process since boot in clock ticks; None where there is none, or (unless asked for) a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" and not zombie else int(fields[19])


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _pid_namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


class Lease:
    """A named lease of a run. `acquire`, then `renew` often, `release` at the end."""

    def __init__(
        self, path: Path, ttl: float, holder: dict[str, Any], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.path = path
        self.ttl = ttl
        self.nonce = secrets.token_hex(8)
        self._holder = {**holder, "nonce": self.nonce, **process_identity()}
        self._clock = clock
        self._renewed = 0.0
        self._count = 0

    def acquire(self, give_up: Callable[[], bool] = lambda: False, wait: Callable[[float], None] = time.sleep) -> bool:
        """Takes the lease, watching a living holder for as long as it takes; False if `give_up` says so first.

        Raises OSError where the directory cannot be written.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        seen, since = read_object(self.path), self._clock()
        while True:
            if give_up():
                return False
            now = read_object(self.path)
            if now != seen:
                seen, since = now, self._clock()
            if seen is None or is_dead(seen) or self._clock() - since > self.ttl:
                self._write()
                # Two watchers may write at the same moment: the file has one content, and its owner is the holder.
                wait(min(0.5, self.ttl / 20))
                if self._mine():
                    return True
                seen, since = read_object(self.path), self._clock()
            wait(min(0.2, self.ttl / 20))

    def renew(self) -> None:
        """Proves that the holder lives. Raises LeaseLost if it is another's, or if it is too late."""
        if self.late:
            raise LeaseLost(f"the lease {self.path} could not be renewed in time")
        try:
            content = json.loads(self.path.read_bytes())
        except FileNotFoundError:
            content = {}
        except (OSError, ValueError):
            return  # the file system does not answer: tried again, until it is too late
        if content.get("nonce") != self.nonce:
            raise LeaseLost(f"the lease {self.path} is no longer ours")
        try:
            self._write(before_rename=self._still_in_time)
        except OSError as error:  # tried again, until it is too late
            if is_disk_full(error):
                self._overwrite()

    @property
    def due(self) -> bool:
        """Whether it is time to renew."""
        return self._clock() - self._renewed > self.ttl / 8

    @property
    def late(self) -> bool:
        """Whether it is too late to renew: the ranks must die before a successor may start."""
        return self._clock() - self._renewed > self.ttl * SAFE_SHARE

    def release(self) -> None:
        """Gives the lease back, if it is still ours."""
        if self._mine():
            clean(self.path.parent, self.path.name)
            self.path.unlink(missing_ok=True)

    def _mine(self) -> bool:
        content = read_object(self.path)
        return content is not None and content.get("nonce") == self.nonce

    def _still_in_time(self) -> None:
        """A holder that was frozen just before it renamed must not overwrite its successor's lease."""
        if self.late:
            raise LeaseLost(f"the lease {self.path} could not be renewed in time")

    def _write(self, before_rename: Callable[[], None] = lambda: None) -> None:
        self._count += 1
        before = self._clock()
        write_atomic(self.path, self._content(), before_rename=before_rename)
        self._renewed = before

    def _overwrite(self) -> None:
        """Renews on a full disk, in place, which takes no room. Whoever reads halfway sees some digits of the new count."""
        before = self._clock()
        self._still_in_time()
        with contextlib.suppress(OSError), open(self.path, "r+b", buffering=0) as file:
            file.write(self._content().encode())
            os.fsync(file.fileno())
            self._renewed = before

    def _content(self) -> str:
        # Always as long, so that it can be written over.
        return json.dumps({**self._holder, "count": f"{self._count:012d}"}) + "\n"


class Watch:
    """A rank's look at the lease of its supervisor."""

    def __init__(self, path: Path, nonce: str, ttl: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self.nonce, self._ttl, self._clock = path, nonce, ttl, clock
        self._seen: dict[str, Any] | None = None
        self._since = clock()

    def check(self) -> None:
        """Raises LeaseLost if the lease is another's or has not been renewed in time. Call it before every write."""
        content = read_object(self._path)
        if (content is None and not self._path.exists()) or (
            content is not None and content.get("nonce") != self.nonce
        ):
            raise LeaseLost(f"the lease {self._path} is another's, or was given back")
        now = self._clock()
        if content is not None and content != self._seen:
            self._seen, self._since = content, now
        elif now - self._since > self._ttl * SAFE_SHARE:
            raise LeaseLost(f"the lease {self._path} was not renewed for {now - self._since:.0f} s")
