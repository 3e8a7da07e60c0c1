"""Inside a training process: measures its phases, or kills it at the instant that its orders say. Imports no torch."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time

from openrs.drill.disk import Disk
from openrs.drill.instants import VARIABLE, Kill, Orders
from openrs.runs.directory import RunDirectory
from openrs.training import phases
from openrs.training.phases import Phase
from openrs.worker.rank import Rank


def arm(run: RunDirectory, rank: Rank) -> None:
    """Does what the environment asks of this attempt: nothing, where it was sent without a drill."""
    text = os.environ.get(VARIABLE)
    if text is None:
        return
    orders = Orders.model_validate_json(text)
    if not orders.typical:
        Executioner(run, rank, orders, None).install()
    elif rank.attempt <= len(orders.kills):
        kill = orders.kills[rank.attempt - 1]
        # The first rank alone gives checkpoints their names; in all other phases the ranks take turns.
        if rank.rank == (0 if kill.phase == phases.RENAME else rank.attempt % rank.world):
            Executioner(run, rank, orders, kill).install()


class Executioner:
    """Follows the phases of this process."""

    def __init__(self, run: RunDirectory, rank: Rank, orders: Orders, kill: Kill | None) -> None:
        self._run, self._rank, self._orders, self._kill = run, rank, orders, kill
        self._disk = Disk([run.checkpoints, run.journal, run.path / "completions", run.metrics], self._operation)
        self._seen = 0
        self._open: dict[int, tuple[Phase, float, int]] = {}
        """Thread → the phase that it is in, when that began, and how many operations there were in it."""
        self._armed = 0
        """Thread that is in the phase to be killed in."""
        self._lock = threading.Lock()

    def install(self) -> None:
        """Begins to listen."""
        self._disk.install()
        phases.listen(self._phase)

    def _phase(self, name: Phase, begins: bool) -> None:
        me = threading.get_ident()
        if begins:
            self._open[me] = (name, time.monotonic(), 0)
            if self._kill is not None and name == self._kill.phase:
                self._seen += 1
                if self._seen == self._kill.occurrence:
                    self._armed = me
                    if not self._kill.by_operation:
                        wait = self._kill.share * self._seconds(name)
                        threading.Thread(target=self._later, args=(wait,), daemon=True).start()
            return
        _, since, operations = self._open.pop(me)
        if self._armed == me:
            self._execute(self._kill, "its end")  # it was shorter than in the undisturbed run
        if self._kill is None and self._rank.rank == 0:
            self._log("phase", phase=name, seconds=time.monotonic() - since, operations=operations)

    def _seconds(self, name: Phase) -> float:
        seconds = self._orders.typical[name].seconds
        return max(seconds, self._orders.save_seconds) if name == phases.SAVE else seconds

    def _operation(self) -> None:
        me = threading.get_ident()
        if me not in self._open:
            return
        name, since, operations = self._open[me]
        self._open[me] = (name, since, operations + 1)
        if name == phases.SAVE and self._orders.save_seconds:
            time.sleep(self._orders.save_seconds / self._orders.typical[name].operations)
        kill = self._kill
        if kill is None or self._armed != me or not kill.by_operation:
            return
        if operations >= int(kill.share * self._orders.typical[name].operations):
            self._execute(kill, f"file operation {operations + 1}")

    def _later(self, seconds: float) -> None:
        time.sleep(seconds)
        self._execute(self._kill, f"{seconds:.3f} s")

    def _execute(self, kill: Kill | None, instant: str) -> None:
        assert kill is not None
        with self._lock:  # and never leaves it
            self._disk.freeze()
            lost = self._disk.lose() if kill.power_cut else []
            self._log("kill", **kill.model_dump(), at=instant, lost=lost)
            if kill.supervisor and os.getppid() > 1:  # the first process of a container cannot be killed from inside
                with contextlib.suppress(ProcessLookupError):
                    os.kill(os.getppid(), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)

    def _log(self, event: str, **facts: object) -> None:
        self._run.log(f"drill-{self._rank.attempt}-{self._rank.rank}", event, attempt=self._rank.attempt, **facts)
