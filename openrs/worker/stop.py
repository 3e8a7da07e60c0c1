"""Requests to stop: by signal or by file, noted by handlers and read by the main loop."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

STOP_SIGNALS = (signal.SIGUSR2, signal.SIGTERM)
"""USR2 is what sbatch's --signal sends; TERM is what preemption, scancel and Kubernetes send."""

TURN_SECONDS = 0.1
"""Pause of a main loop; a signal's handler runs at once, and the next turn sees what it noted."""

SAME_SECONDS = 2.0
"""Within so much time after the first, another signal is the same request, which came by another way."""

_PR_SET_PDEATHSIG = 1


def hurry_flag(stop_flag: Path) -> Path:
    """The file beside a file that asks to stop that asks to make haste."""
    return stop_flag.with_name(f"{stop_flag.name}-now")


class StopRequest:
    """Becomes true once and stays true. Installing it makes USR2 and TERM harmless to this process."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._since = 0.0
        self._again = False
        self.reason = ""

    def install(self) -> None:
        """Takes over the stop signals, of this process's main thread; a lost terminal is no reason to stop."""
        for number in STOP_SIGNALS:
            signal.signal(number, self._note)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGCONT, lambda *_: None)  # Slurm sends it along with TERM

    def _note(self, number: int, _frame: object) -> None:
        # A handler interrupts anything: it only notes, the main loop acts.
        self.ask(signal.Signals(number).name)

    def ask(self, reason: str) -> None:
        """Makes it true, or notes that somebody has asked again."""
        if not self.reason:
            self.reason, self._since = reason, time.monotonic()
        elif time.monotonic() - self._since > SAME_SECONDS:
            self._again = True

    @property
    def hurry(self) -> bool:
        """Whether there was a second request: the end is near, what is not saved yet is left."""
        if not self._again and self._file is not None and hurry_flag(self._file).exists():
            self._again = True
        return self._again

    def __bool__(self) -> bool:
        if not self.reason and self._file is not None and self._file.exists():
            self.ask("asked by the host")
        return bool(self.reason)


def child_setup(parent: int) -> Callable[[], None]:
    """What a child does between fork and exec: ignore the stop signals, and die with its parent.

    Ignored signals stay ignored across exec, so a signal to the whole step reaches only who takes it up again.
    Dying with the parent is prctl(2), PR_SET_PDEATHSIG.
    """
    libc = ctypes.CDLL(None, use_errno=True)

    def setup() -> None:
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before prctl
            os._exit(1)

    return setup
