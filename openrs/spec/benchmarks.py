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
from openrs.spec.raw import anchor_paths, existing_file, merge, read_yaml

CATALOGUE = Path(__file__).resolve().parents[1] / "evaluation" / "benchmarks.yaml"


@lru_cache(maxsize=1)
def shipped() -> dict[str, dict[str, Any]]:
    """Name → raw entry of the shipped benchmarks."""
    return {name: {"name": name, **entry} for name, entry in read_yaml(CATALOGUE).items()}


def expand(entries: Any, relative_to: Path, where: str) -> Any:
    """A raw `evaluation.benchmarks` with every name, file and `extends` replaced by what it stands for.

    What has none of these is left as it is, so that to expand twice changes nothing. Raises BadInput; `where` says of which
    file they are.
    """
    if not isinstance(entries, list):
        return entries
    return [entry(one, relative_to, f"{where}: evaluation.benchmarks.{i}") for i, one in enumerate(entries)]


def entry(given: Any, relative_to: Path, where: str) -> Any:
    """One of them. Raises BadInput, which begins with `where`."""
    try:
        return _entry(given, relative_to)
    except BadInput as error:
        raise BadInput(f"{where}: {error}") from None


def _entry(entry: Any, relative_to: Path, depth: int = 0) -> Any:
    if isinstance(entry, str):
        return _named(entry, relative_to, depth)
    if not isinstance(entry, dict) or "extends" not in entry:
        return entry
    parent = entry["extends"]
    if not isinstance(parent, str):
        raise BadInput(f"extends = {shortened(str(parent))!r} is no name of a benchmark")
    return merge(_named(parent, relative_to, depth), {key: value for key, value in entry.items() if key != "extends"})


def _named(name: str, relative_to: Path, depth: int) -> dict[str, Any]:
    if depth > 8:
        raise BadInput(f"benchmark {shortened(name)!r}: more than 8 extends, one after the other")
    if name.endswith((".yaml", ".yml")) or os.sep in name:
        path = existing_file(name, relative_to, "benchmark file")
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
