"""Benchmarks by name: the shipped ones, and what a user's own entry takes over from another."""

from __future__ import annotations

import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from openrs.errors import BadInput
from openrs.spec.explain import nearest
from openrs.spec.paths import shortened
from openrs.spec.raw import anchor_paths, merge, read_yaml

CATALOGUE = Path(__file__).resolve().parents[1] / "evaluation" / "benchmarks.yaml"


@lru_cache(maxsize=1)
def shipped() -> dict[str, dict[str, Any]]:
    """Name → raw entry of the shipped benchmarks."""
    return {name: {"name": name, **entry} for name, entry in read_yaml(CATALOGUE).items()}


def expand(entries: Any, relative_to: Path) -> Any:
    """A raw `evaluation.benchmarks` with every name, file and `extends` replaced by what it stands for.

    What has none of these is left as it is, so that to expand twice changes nothing. Raises BadInput.
    """
    return [_entry(entry, relative_to) for entry in entries] if isinstance(entries, list) else entries


def _entry(entry: Any, relative_to: Path, depth: int = 0) -> Any:
    if isinstance(entry, str):
        return _named(entry, relative_to, depth)
    if not isinstance(entry, dict) or "extends" not in entry:
        return entry
    parent = entry["extends"]
    if not isinstance(parent, str):
        raise BadInput(f"evaluation.benchmarks: extends = {shortened(str(parent))!r} is no name of a benchmark")
    return merge(_named(parent, relative_to, depth), {key: value for key, value in entry.items() if key != "extends"})


def _named(name: str, relative_to: Path, depth: int) -> dict[str, Any]:
    if depth > 8:
        raise BadInput(f"benchmark {shortened(name)!r}: more than 8 extends, one after the other")
    if name.endswith((".yaml", ".yml")) or os.sep in name:
        path = (relative_to / name).resolve()
        if not path.is_file():
            raise BadInput(f"benchmark file {shortened(name)!r} does not exist")
        content = anchor_paths(read_yaml(path), path.parent, str(path))
        found = _entry({"name": path.stem.lower(), **content}, path.parent, depth + 1)
        return dict(found)
    # As people and other tools write them: math-500, gpqa:diamond.
    known = {_plain(one): one for one in shipped()}
    if _plain(name) not in known:
        raise BadInput(
            f"unknown benchmark {shortened(name)!r}{nearest(name, shipped())}; there are {', '.join(shipped())}, or name a YAML file"
        )
    return shipped()[known[_plain(name)]]


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
