"""Checkpoints on disk: whole and checked, or not there. Imports no torch.

A checkpoint `step-NNNNNN` is a directory in Hugging Face format with the optimizer, the schedule and the trainer's
state beside the model. It is written as `.step-NNNNNN.<nonce>`, every file is fsynced, the manifest `COMPLETE` is
written last, and then the directory gets its name. No RNG state is in it, since all that is drawn in a step is seeded
from the step.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from openrs.errors import BadInput
from openrs.runs.files import sync_directory, write_atomic

MANIFEST = "COMPLETE"
SCHEMA_VERSION = 1

_NAME = re.compile(r"^step-(\d{6,})$")
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# torch and safetensors report a full disk in their own exception types.
_DISK_FULL_WORDS = (
    "No space left",
    "Disk quota exceeded",
    "File too large",
    "PytorchStreamWriter failed",
    "unexpected pos",
)


class Invalid(Exception):
    """This directory is no complete checkpoint; the message says why."""


@dataclass(frozen=True)
class Found:
    """What a run may go on from."""

    path: Path
    step: int


class Rejected(NamedTuple):
    """A checkpoint that was passed over."""

    checkpoint: str
    reason: str


def steps_in(checkpoints: Path) -> list[int]:
    """Steps of all checkpoint directories, ascending, valid or not."""
    try:
        matches = [_NAME.match(entry.name) for entry in checkpoints.iterdir()]
    except FileNotFoundError:
        return []
    return sorted(int(match[1]) for match in matches if match)


def verify(directory: Path, checksums: Callable[[str], bool] = lambda name: True) -> dict[str, Any]:
    """The manifest of a complete checkpoint: every size is compared, and the checksums of the files asked for.

    Raises Invalid where a file is missing, of another size or of other content, or where there is no usable manifest.
    """
    try:
        manifest = json.loads((directory / MANIFEST).read_bytes())
        files = {str(name): (int(entry["size"]), str(entry["sha256"])) for name, entry in manifest["files"].items()}
        version = manifest["schema_version"]
    except FileNotFoundError:
        raise Invalid(f"no manifest {MANIFEST}" if directory.is_dir() else "not there") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise Invalid(f"manifest {MANIFEST} cannot be read") from None
    if version != SCHEMA_VERSION:
        raise Invalid(f"manifest of schema version {version}, this is {SCHEMA_VERSION}")
    for name, (size, digest) in files.items():
        path = directory / name
        try:
            found = path.stat().st_size
            if found != size:
                raise Invalid(f"{name} has {found} bytes instead of {size}")
            if checksums(name) and _sha256(path) != digest:
                raise Invalid(f"{name} has another content than was written")
        except OSError as error:
            raise Invalid(f"{name} cannot be read ({error.strerror})") from None
    return dict(manifest)


def newest_valid(checkpoints: Path, experiment_hash: str, world: int) -> tuple[Found | None, list[Rejected]]:
    """The newest complete checkpoint, and what newer ones were passed over and why. Reads every byte of it.

    Raises BadInput where it belongs to another experiment or to another number of ranks: going on from it would be a
    different run, and going on without it would waste it.
    """
    rejected: list[Rejected] = []
    for step in reversed(steps_in(checkpoints)):
        directory = checkpoints / f"step-{step:06d}"
        try:
            manifest = verify(directory)
        except Invalid as reason:
            rejected.append(Rejected(directory.name, str(reason)))
            continue
        if manifest.get("experiment_hash") != experiment_hash:
            raise BadInput(
                f"{directory} was written by another experiment ({str(manifest.get('experiment_hash'))[:19]}…, this is "
                f"{experiment_hash[:19]}…); submit the changed experiment as a new run"
            )
        if manifest.get("world") != world:
            raise BadInput(
                f"{directory} was written by {manifest.get('world')} training ranks, this job has {world}; "
                f"ask for the same number of GPUs, or start a new run"
            )
        return Found(directory, step), rejected
    return None, rejected


def clean(checkpoints: Path) -> list[str]:
    """Removes what interrupted writes and removals left; their names. Only for who holds the lease."""
    stale = [entry for entry in checkpoints.glob(".step-*") if entry.is_dir()] if checkpoints.is_dir() else []
    for entry in stale:
        shutil.rmtree(entry, ignore_errors=True)
    return sorted(entry.name for entry in stale)


def temporary(checkpoints: Path, step: int) -> Path:
    """A fresh name for a checkpoint that is being written."""
    return checkpoints / f".step-{step:06d}.{secrets.token_hex(4)}"


def commit(
    directory: Path, step: int, *, experiment_hash: str, world: int, before_rename: Callable[[], None] = lambda: None
) -> Path:
    """Makes the written `directory` the checkpoint of `step`: fsync, manifest, rename. Its new path.

    An invalid checkpoint that stands there under the same name is put aside and removed. Raises OSError.
    """
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    for inner in sorted(path for path in directory.rglob("*") if path.is_dir()):
        sync_directory(inner)
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "step": step,
        "experiment_hash": experiment_hash,
        "world": world,
        "files": {
            str(path.relative_to(directory)): {"size": path.stat().st_size, "sha256": _sha256(path)} for path in files
        },
    }
    write_atomic(directory / MANIFEST, json.dumps(manifest, indent=1) + "\n")
    target = directory.with_name(f"step-{step:06d}")
    before_rename()
    aside = temporary(directory.parent, step) if target.exists() else None
    if aside:
        os.rename(target, aside)
    os.rename(directory, target)
    sync_directory(directory.parent)
    if aside:
        shutil.rmtree(aside, ignore_errors=True)
    return target


def prune(checkpoints: Path, newest: int, keep: int, always: list[int]) -> list[int]:
    """Removes checkpoints up to step `newest` that are neither among the `keep` newest nor in `always`; their steps.

    Call it when the checkpoint of `newest` is complete. Invalid ones do not count as kept.
    """
    present = [step for step in steps_in(checkpoints) if step <= newest]
    complete = [step for step in present if (checkpoints / f"step-{step:06d}" / MANIFEST).exists()]
    kept = {*complete[-keep:], *always, newest}
    removed = [step for step in present if step not in kept]
    for step in removed:
        # Out of sight first: a removal that is cut short must not leave half a checkpoint under its name.
        aside = temporary(checkpoints, step)
        os.rename(checkpoints / f"step-{step:06d}", aside)
        shutil.rmtree(aside, ignore_errors=True)
    return removed


def is_disk_full(error: BaseException) -> bool:
    """Whether this, or what caused it, says that there is no room left on the disk."""
    chain: BaseException | None = error
    while chain is not None:
        if isinstance(chain, OSError) and chain.errno in _DISK_FULL:
            return True
        if any(words in str(chain) for words in _DISK_FULL_WORDS):
            return True
        chain = chain.__cause__ or chain.__context__
    return False


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
