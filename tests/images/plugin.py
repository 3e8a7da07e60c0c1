"""Fixtures: images that are really built, once a machine and a state of the code, outside of the tree.

Where no registry can be asked their base is the stand-in, which is what `--stand-in` is for.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
REQUIRE = "OPENRS_REQUIRE_TESTBED"
PROGRAMS = ("buildah", "runc", "skopeo", "umoci", "mmdebstrap", "docker-registry")
CA = Path("/etc/ssl/certs/ca-certificates.crt")
# No namespaces for a build: they cannot be had everywhere where the tests run.
ENVIRONMENT = {"BUILDAH_ISOLATION": "chroot"}
PRIVATE = ("unshare", "--mount", "--propagation", "private")
"""Before a builder: what it mounts is not for other tests to see."""
_PARTS = ("images", "openrs", "slurm", "k8s", "pyproject.toml", "uv.lock", "README.md", "LICENSE")


@dataclass(frozen=True)
class Built:
    """An image on this machine."""

    name: str
    layout: Path
    digest: str
    size: int
    """Bytes of its layers."""


def missing() -> str | None:
    """What this machine lacks to build images, in words."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    absent = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    if absent:
        return f"{', '.join(absent)} (apt packages: buildah runc skopeo umoci mmdebstrap docker-registry)"
    return None if os.geteuid() == 0 else "root (buildah writes files of other users)"


def cache() -> Path:
    """Where built images are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "openrs" / "images"


def key() -> str:
    """What an image depends on: every file that a build may see."""
    digest = hashlib.sha256()
    for part in _PARTS:
        place = ROOT / part
        for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(f"{path.relative_to(ROOT)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


@contextmanager
def locked() -> Iterator[None]:
    """One process builds, the others wait; the kernel lets go of it however the process ends."""
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def run(*words: str | Path, cwd: Path = ROOT, stderr: int | None = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    """`openrs …` of this tree; what it says on the way is shown where `stderr` is None."""
    return subprocess.run(
        [*PRIVATE, sys.executable, "-m", "openrs", *map(str, words)],
        cwd=cwd,
        env={**os.environ, **ENVIRONMENT, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"},
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        check=False,
    )


def build(name: str, *options: str) -> Built:
    """The image of this tree, from the cache where nothing changed. Only the newest is kept."""
    place = cache() / name
    with locked():
        known = place / "built.json"
        if not known.exists() or json.loads(known.read_text())["key"] != key():
            known.unlink(missing_ok=True)
            ca: list[str | Path] = ["--ca", CA] if CA.exists() else []
            done = run("images", "build", name, "--stand-in", *ca, *options, "--out", cache(), "--json")
            assert done.returncode == 0, done.stderr
            known.write_text(json.dumps({"key": key(), **json.loads(done.stdout)}))
        said: dict[str, Any] = json.loads(known.read_text())
    return Built(name, place, said["digest"], said["bytes"])


def demand() -> None:
    """Skips the test where no images can be built; fails it where they must be."""
    if (lack := missing()) is not None:
        reason = f"no images can be built here; missing: {lack}"
        if os.environ.get(REQUIRE) == "1":
            pytest.fail(f"{reason} ({REQUIRE}=1)", pytrace=False)
        pytest.skip(reason)


@pytest.fixture(scope="session")
def smoke_image() -> Built:
    """The image `smoke`, which stays on this machine: 1.9 GB, whose compression would take longer than the tests."""
    demand()
    return build("smoke", "--uncompressed")
