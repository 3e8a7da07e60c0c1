"""What pods of a bed have of this machine: the environment that runs the tests, the code under test, a place for runs.

An environment with torch is 5 GB, which no image should hold: the nodes are this machine, so pods mount it where it is.
"""

from __future__ import annotations

import compileall
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.testbed.k8s.client import RUNS_CLAIM, RUNS_PATH
from tests.testbed.k8s.machine import BedError

USER = 1000
CODE_CLAIM = "openrs-code"
ENVIRONMENT_CLAIM = "openrs-environment"
_CODE_PATH = "/opt/openrs"
_ENVIRONMENT_PATH = "/opt/openrs-environment"
_CODE = ("openrs", "slurm", "k8s", "uv.lock")


@dataclass(frozen=True)
class Place:
    """A directory of this machine, and where pods have it."""

    source: Path
    target: str
    read_only: bool

    @property
    def mode(self) -> str:
        """In the words of a claim."""
        return "ReadOnlyMany" if self.read_only else "ReadWriteMany"


def environment() -> Path | None:
    """The virtual environment that runs this, if one does."""
    return None if sys.prefix == sys.base_prefix else Path(sys.prefix).resolve()


def python() -> Path:
    """The interpreter for pods. Their environment has a place of its own: this checkout may stand below /tmp."""
    return Path(sys.prefix if environment() is None else _ENVIRONMENT_PATH) / "bin" / "python"


def snapshot(root: Path, directory: Path) -> Path:
    """A copy of the package under `root`: the tree may be edited while a test runs."""
    directory.mkdir()
    for name in _CODE:
        source = root / name
        if source.is_dir():
            shutil.copytree(source, directory / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.exists():
            shutil.copy2(source, directory / name)
    for path in (directory, *directory.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    # A pod could not keep what it compiles.
    compileall.compile_dir(directory, quiet=2)
    return directory


def places(code: Path, runs: Path, mounts: Mapping[str, Path]) -> dict[str, Place]:
    """By claim."""
    found = {
        RUNS_CLAIM: Place(runs, RUNS_PATH, read_only=False),
        CODE_CLAIM: Place(code, _CODE_PATH, read_only=True),
    }
    if (own := environment()) is not None:
        found[ENVIRONMENT_CLAIM] = Place(own, _ENVIRONMENT_PATH, read_only=True)
    for claim, directory in mounts.items():
        if claim in found:
            raise BedError(f"{claim} is a volume that every namespace has")
        found[claim] = Place(directory.resolve(), str(directory.absolute()), read_only=True)
    return found


def name(namespace: str, claim: str) -> str:
    """Of a volume: there is one list of them for the whole cluster."""
    return f"{namespace}-{claim}"


def manifest(namespace: str, claim: str, place: Place) -> dict[str, Any]:
    """A PersistentVolume for that one claim."""
    spec = {
        "capacity": {"storage": "1Gi"},
        "accessModes": [place.mode],
        "storageClassName": "",
        "persistentVolumeReclaimPolicy": "Retain",
        "hostPath": {"path": str(place.source), "type": "Directory"},
        "claimRef": {"namespace": namespace, "name": claim},
    }
    return {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name(namespace, claim)}, "spec": spec}
