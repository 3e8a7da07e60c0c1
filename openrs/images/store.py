"""Images on a Slurm cluster's shared root: where they stand, and whether they are still what was brought there.

`python -m openrs.images.store STAGE_FILE DIGEST DIRECTORY` is the last thing that the host does before it starts the container.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from pathlib import Path

from openrs.errors import BadInput
from openrs.runs.directory import RunDirectory
from openrs.runs.files import read_object
from openrs.spec.cluster import Cluster
from openrs.stage import StageFile, read
from openrs.worker.exits import CONFIGURATION

RECORD = "image.json"
"""Beside an image: its digest, and a hash over what was made of it."""

CONTENT = {"pyxis": "image.sqsh", "apptainer": "image.sif", "oci": "rootfs"}
"""Runtime → the file, or the tree, that it starts."""


def reference(cluster: Cluster) -> str:
    """The cluster's image, by digest. Raises BadInput without one: no other name stands for known bytes."""
    if cluster.image is None:
        raise BadInput(
            f'cluster {cluster.name}: image is not set; name one by digest in openrs.toml: image = "…@sha256:…"'
        )
    if "@sha256:" not in cluster.image:
        raise BadInput(
            f"cluster {cluster.name}: image {cluster.image} has no digest, and container = {cluster.container!r} needs one: a tag may be "
            f"another image tomorrow; `skopeo inspect docker://{cluster.image}` shows it"
        )
    return cluster.image


def directory(cluster: Cluster) -> Path:
    """Where `openrs images fetch` puts the cluster's image: one directory a digest and runtime, below the shared root."""
    if cluster.shared_root is None:
        raise BadInput(
            f"cluster {cluster.name}: container = {cluster.container!r} needs shared_root, where nodes find the image"
        )
    return Path(cluster.shared_root) / "images" / f"{reference(cluster).rpartition(':')[2][:16]}-{cluster.container}"


def mounts(cluster: Cluster) -> list[tuple[str, str]]:
    """Directory of the host → directory in the container: the shared root and the profile's own at their paths, caches at /cache."""
    same = [path for path in (cluster.shared_root, *cluster.container_mounts) if path is not None]
    return [(path, path) for path in same] + [(str(Path(cluster.shared_root or "/") / "cache"), "/cache")]


def fingerprint(content: Path) -> str:
    """A hash over a file's bytes, or over names, sizes, modes and times of all that is in a tree.

    A tree has tens of thousands of files, which a shared file system would take minutes to read at every start of a job.
    """
    if content.is_file():
        with open(content, "rb") as file:
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    digest, waiting = hashlib.sha256(), [str(content)]
    while waiting:
        place = waiting.pop()
        for entry in sorted(os.scandir(place), key=lambda item: item.name):
            status = entry.stat(follow_symlinks=False)
            facts: tuple[object, ...] = (os.path.relpath(entry.path, content), status.st_mode)
            if entry.is_dir(follow_symlinks=False):
                waiting.append(entry.path)
            else:
                facts = (*facts, status.st_size, status.st_mtime_ns)
            digest.update(f"{facts}\n".encode())
    return f"tree:{digest.hexdigest()}"


def check(place: Path, digest: str) -> None:
    """Raises BadInput unless `place` holds the image of that digest as it was fetched."""
    record = read_object(place / RECORD)
    if record is None:
        raise BadInput(f"the image {digest} is not at {place}; bring it there: openrs images fetch --cluster …")
    if record.get("digest") != digest:
        raise BadInput(
            f"{place} holds the image {record.get('digest')}, not {digest}; remove it, then openrs images fetch --cluster …"
        )
    now = fingerprint(place / str(record.get("content")))
    if now != record.get("fingerprint"):
        raise BadInput(
            f"the image at {place} was changed since it was fetched ({now[:19]}…, not {str(record.get('fingerprint'))[:19]}…); "
            f"remove it, then openrs images fetch --cluster …"
        )


def main() -> int:
    """Exit code 78, with the reason on standard error and in the run's ledger, unless the image may be started."""
    parser = argparse.ArgumentParser(prog="openrs-image-store")
    parser.add_argument("stage_file", type=Path)
    parser.add_argument("digest")
    parser.add_argument("directory", type=Path)
    arguments = parser.parse_args()
    try:
        check(arguments.directory, arguments.digest)
    except (BadInput, OSError) as error:
        print(f"openrs: {error}", file=sys.stderr)
        stage = read(StageFile, arguments.stage_file)
        handle = os.environ.get("OPENRS_HANDLE", "host")
        task = os.environ.get("SLURM_ARRAY_TASK_ID")
        RunDirectory(Path(stage.run_dir)).log(
            f"host-{stage.stage}-{handle}",
            "end",
            stage=stage.stage,
            task=None if task is None else int(task),
            submission=stage.submission,
            code=CONFIGURATION,
            reason=str(error),
        )
        return CONFIGURATION
    return 0


if __name__ == "__main__":
    sys.exit(main())
