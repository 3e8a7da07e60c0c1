"""What an evaluation has left in a run directory."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any


def done(run: Path) -> dict[Path, dict[str, Any]]:
    """The finished cells."""
    found = {path: json.loads(path.read_text()) for path in (run / "eval").glob("*/*/*.json")}
    return {path: cell for path, cell in found.items() if cell["state"] == "done"}


def finished(run: Path) -> Counter[tuple[str, str, int]]:
    """How often each cell (checkpoint, benchmark, seed) was finished, by what the workers printed."""
    found: Counter[tuple[str, str, int]] = Counter()
    for log in (run / "logs").glob("eval/*/rank-0.log"):
        for line in log.read_text(errors="replace").splitlines():
            if line.startswith('{"cell"') and (said := json.loads(line))["state"] == "done":
                cell = said["cell"]
                found[cell["checkpoint"], cell["benchmark"], cell["seed"]] += 1
    return found
