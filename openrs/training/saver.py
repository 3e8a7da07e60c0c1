"""The writing of one checkpoint in a thread, beside training. Imports no torch.

Each rank writes its own files into the same directory and makes them durable; every rank but the first then leaves a list of
them, and the first one, once it has all lists, writes the manifest and gives the directory its name. Ranks meet in the
directory and nowhere else: a collective operation in a thread would get between those of training.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

from openrs.runs.files import read_object, write_atomic
from openrs.training import checkpoint
from openrs.training.checkpoint import Entry, Identity
from openrs.training.phases import RENAME, SAVE, phase
from openrs.worker.rank import Rank

POLL_SECONDS = 0.02

Write = Callable[[], list[Path]]
"""Writes this rank's files from memory that nobody else changes, and names them."""


class _Abandoned(Exception):
    """Another rank has failed."""


class Save:
    """One checkpoint on its way to the disk. `error` and `busy` are for the main thread to look at."""

    def __init__(
        self,
        directory: Path,
        step: int,
        write: Write,
        *,
        rank: Rank,
        ours: Identity,
        sealed: Callable[[int, dict[str, Entry]], None],
        tidy: Callable[[], None],
    ) -> None:
        """`directory` is the same on all ranks and new.

        On the first rank, `sealed` is told what the checkpoint holds, just before it gets its name, and `tidy` removes what
        it has made superfluous.
        """
        self.step = step
        self.error: Exception | None = None
        """What this rank's part of it failed with."""
        self.seconds = 0.0
        """From its beginning to its end on this rank, once it has ended."""
        self._directory, self._write, self._rank, self._ours = directory, write, rank, ours
        self._on_sealed, self._tidy = sealed, tidy
        self._abandoned = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"save-{step}", daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        """Whether this rank still works at it."""
        return self._thread.is_alive()

    def abandon(self) -> None:
        """Gives it up because a rank has failed; returns when this rank writes no more."""
        self._abandoned.set()
        self._thread.join()

    def remove(self) -> None:
        """Removes what there is of it, once every rank has given it up."""
        if self._rank.rank == 0:
            shutil.rmtree(self._directory, ignore_errors=True)
            for number in range(1, self._rank.world):
                _list_of(self._directory, number).unlink(missing_ok=True)

    def _run(self) -> None:
        began = time.monotonic()
        try:
            self._save()
        except _Abandoned:
            pass
        except Exception as error:  # torch and safetensors have their own types for a full disk
            if self._rank.world == 1:
                self.remove()  # at once: what training writes needs the room
            self.error = error
        self.seconds = time.monotonic() - began

    def _save(self) -> None:
        directory, rank = self._directory, self._rank
        rank.check_lease()
        with phase(SAVE):
            directory.mkdir(parents=True, exist_ok=True)
            entries = checkpoint.seal(directory, self._write())
            if rank.rank > 0:
                listed = {name: entry._asdict() for name, entry in entries.items()}
                write_atomic(_list_of(directory, rank.rank), json.dumps(listed))
                return
            for number in range(1, rank.world):
                entries |= self._entries_of(number)
            checkpoint.write_manifest(directory, self.step, entries, self._ours)
        self._on_sealed(self.step, entries)
        with phase(RENAME):
            checkpoint.place(directory, self.step, rank.check_lease)
            self._tidy()

    def _entries_of(self, number: int) -> dict[str, Entry]:
        """What another rank has written, as soon as it has. Raises LeaseLost."""
        path = _list_of(self._directory, number)
        while (listed := read_object(path)) is None:
            if self._abandoned.wait(POLL_SECONDS):
                raise _Abandoned
            self._rank.check_lease()
        path.unlink()
        return {name: Entry(**entry) for name, entry in listed.items()}


def _list_of(directory: Path, rank: int) -> Path:
    # Beside it: what is in it belongs to the checkpoint.
    return directory.with_name(f"{directory.name}.rank-{rank}")
