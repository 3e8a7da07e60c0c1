"""What would be lost with the power: writes and names that fsync(2) has not made durable. Imports no torch.

A process that is killed loses nothing that it has handed to the kernel; a machine that stops may lose all of it. `Disk` sees
every fsync and rename of this process, and can put files into the worst state that those leave room for: contents back to
what was last fsynced, names back to what they were before a rename whose directory was not fsynced. What it does not play
through: a directory entry that was made and not fsynced, and writes that reach the disk in part.
"""

from __future__ import annotations

import os
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

OPERATIONS = ("open", "os.mkdir", "os.remove", "os.rmdir", "os.rename", "os.truncate")
"""Audit events (PEP 578) of operations on files; `open` counts where it is for writing."""

Inode = tuple[int, int]


class Disk:
    """Watches this process's file operations from `install` on."""

    def __init__(self, roots: list[Path], operation: Callable[[], None]) -> None:
        """`roots` are files and directories that no other process writes to; `operation` is called before each operation."""
        self._roots, self._operation = roots, operation
        self._durable = {_inode(found): found.st_size for _, found in self._files()}
        self._renames: list[tuple[str, str]] = []
        self._killer: threading.Thread | None = None
        self._fsync, self._rename, self._replace = os.fsync, os.rename, os.replace

    def install(self) -> None:
        """Begins to watch; it ends with the process."""
        os.fsync = self._watched_fsync  # type: ignore[assignment]
        os.rename = self._watched(self._rename)
        os.replace = self._watched(self._replace)
        sys.addaudithook(self._audit)

    def freeze(self) -> None:
        """No other thread does anything to a file any more: this process is about to be killed."""
        self._killer = threading.current_thread()

    def lose(self) -> list[str]:
        """Takes away what is not durable; what that was. Call `freeze` before."""
        lost = []
        for path, found in list(self._files()):
            durable = self._durable.get(_inode(found), 0)
            if found.st_size > durable:
                os.truncate(path, durable)
                lost.append(f"{found.st_size - durable} bytes of {path.name}")
        for before, after in reversed(self._renames):
            if not os.path.lexists(before) and os.path.lexists(after):
                self._rename(after, before)
                lost.append(f"the name {os.path.basename(after)}")
        return lost

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        for root in self._roots:
            for path in [root] if root.is_file() else root.rglob("*"):
                found = path.lstat()
                if stat.S_ISREG(found.st_mode):
                    yield path, found

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in OPERATIONS:
            return
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, int) or not (isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)):
                return
        self._before()
        if event == "os.remove":
            path, directory = arguments
            self._forget(path if directory == -1 else f"/proc/self/fd/{directory}/{os.fsdecode(path)}")

    def _before(self) -> None:
        if self._killer is None:
            self._operation()
        elif threading.current_thread() is not self._killer:
            threading.Event().wait()  # for ever: it dies with the process

    def _forget(self, path: Any) -> None:
        """What is at `path` goes, and its inode may be another file's next."""
        try:
            found = os.lstat(path)
        except OSError:
            return
        if found.st_nlink == 1:
            self._durable.pop(_inode(found), None)

    def _watched(self, rename: Callable[..., None]) -> Callable[..., None]:
        def watched(source: Any, target: Any, **options: Any) -> None:
            existed = os.path.lexists(target)
            if existed and not os.path.isdir(target):
                self._forget(target)
            rename(source, target, **options)
            if not existed:
                self._renames.append((os.path.abspath(source), os.path.abspath(target)))

        return watched

    def _watched_fsync(self, descriptor: int) -> None:
        self._before()
        found = os.fstat(descriptor)
        self._fsync(descriptor)
        if stat.S_ISDIR(found.st_mode):
            directory = os.readlink(f"/proc/self/fd/{descriptor}")
            self._renames = [pair for pair in self._renames if os.path.dirname(pair[1]) != directory]
        else:
            self._durable[_inode(found)] = found.st_size


def _inode(found: os.stat_result) -> Inode:
    return found.st_dev, found.st_ino
