"""Requests to stop: by signal or by file, noted by handlers and read by the main loop."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable
from pathlib import Path

STOP_SIGNALS = (signal.SIGUSR2, signal.SIGTERM)
"""USR2 is what sbatch's --signal sends; TERM is what preemption, scancel and Kubernetes send."""

TURN_SECONDS = 0.1
"""Pause of a main loop; a signal's handler runs at once, and the next turn sees what it noted."""

_PR_SET_PDEATHSIG = 1


class StopRequest:
    """Becomes true once and stays true. Installing it makes USR2 and TERM harmless to this process."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self.reason = ""

    def install(self) -> None:
        """Takes over the stop signals, of this process's main thread; a lost terminal is no reason to stop."""
        for number in STOP_SIGNALS:
            signal.signal(number, self._note)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGCONT, lambda *_: None)  # Slurm sends it along with TERM

    def _note(self, number: int, _frame: object) -> None:
        # A handler interrupts anything: it only notes, the main loop acts.
        self.reason = self.reason or signal.Signals(number).name

    def __bool__(self) -> bool:
        if not self.reason and self._file is not None and self._file.exists():
            self.reason = "asked by the host"
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
