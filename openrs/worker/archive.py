"""`python -m openrs.worker.archive RUN_DIR`: a tar archive of a run, without checkpoints, on standard output."""

from __future__ import annotations

import sys
import tarfile
from pathlib import Path

LEFT_OUT = ("checkpoints", "journal", "lease")
"""Directories that are large, or mean nothing elsewhere."""


def main() -> int:
    """Writes the archive; returns the exit code."""
    run = Path(sys.argv[1])
    if not run.is_dir():
        print(
            f"openrs: the run directory {run} is not there: no attempt has begun yet, or it was removed",
            file=sys.stderr,
        )
        return 1
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as archive:
        # The spec comes first: it tells whether this is the run that was asked for.
        for path in sorted(run.rglob("*"), key=lambda path: (path != run / "spec.json", path)):
            inside = path.relative_to(run)
            if path.is_symlink() or not path.is_file() or inside.parts[0] in LEFT_OUT or path.name.startswith("."):
                continue
            try:
                size = path.stat().st_size
                with open(path, "rb") as file:
                    entry = tarfile.TarInfo(str(inside))
                    entry.size, entry.mtime = size, path.stat().st_mtime
                    # A file that grows meanwhile is taken as long as it was; one that was replaced is whole either way.
                    archive.addfile(entry, file)
            except FileNotFoundError:
                continue
    return 0


if __name__ == "__main__":
    sys.exit(main())
