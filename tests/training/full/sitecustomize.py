"""A disk on which the thread that trains finds no room for a checkpoint. On PYTHONPATH, imported by Python at start."""

import errno
import os
import sys
import threading
from typing import Any


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if event in ("open", "os.mkdir") and threading.current_thread() is threading.main_thread():
        path = arguments[0]
        if isinstance(path, str | os.PathLike) and "/checkpoints/.step-" in str(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


if "OPENRS_LEASE" in os.environ:
    sys.addaudithook(_refuse)
