"""Checkpoints on disk: whole and checked, or not there. Imports no torch.

A checkpoint `step-NNNNNN` is a directory in Hugging Face format with the optimizer, the schedule and the trainer's
state beside the model. It is written as `.step-NNNNNN.<nonce>`, every file is fsynced, the manifest `COMPLETE` is
written last, and then the directory gets its name. No RNG state is in it, since all that is drawn in a step is seeded
from the step.

Checksums are XXH3 with 128 bits: eight times as fast as SHA-256 with the processor's own instructions (13 against 1.6
GB/s), and they guard against accidents, not against people who can write here anyway.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import xxhash

from openrs.errors import BadInput
from openrs.runs.files import sync_directory, write_atomic

MANIFEST = "COMPLETE"
SCHEMA_VERSION = 2
BLOCK = 1 << 20
"""Bytes that are read at a time."""
READERS = 4
"""Files that are read at once for their checksums."""

_NAME = re.compile(r"^step-(\d{6,})$")
_NO_FILE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


class Invalid(Exception):
    """This directory is no complete checkpoint; the message says why."""


class Foreign(Invalid):
    """This directory is somebody else's checkpoint, or one of a later openrs: not to be used, and not to be removed."""


@dataclass(frozen=True)
class Identity:
    """What a checkpoint must agree with."""

    run: str
    """Id of the run."""
    trains: str
    """Hash of all in the experiment that decides what is trained (`openrs.spec.change.identity`)."""
    world: int
    """Training ranks."""


@dataclass(frozen=True)
class Found:
    """What a run may go on from."""

    path: Path
    step: int


class Rejected(NamedTuple):
    """A checkpoint that was passed over."""

    checkpoint: str
    reason: str
    foreign: bool = False
    """Whether it is somebody else's, who may want to keep it."""


class Entry(NamedTuple):
    """What the manifest says of a file."""

    size: int
    """Bytes."""
    xxh3: str
    """XXH3 of the content, 128 bits in hex."""


def steps_in(checkpoints: Path) -> list[int]:
    """Steps of all checkpoint directories, ascending, valid or not."""
    try:
        matches = [_NAME.match(entry.name) for entry in checkpoints.iterdir()]
    except FileNotFoundError:
        return []
    return sorted(int(match[1]) for match in matches if match)


def complete_in(checkpoints: Path) -> list[int]:
    """Steps of the checkpoints that have a manifest, ascending."""
    return [step for step in steps_in(checkpoints) if (checkpoints / f"step-{step:06d}" / MANIFEST).exists()]


def verify(directory: Path, checksums: Callable[[str], bool] = lambda name: True) -> dict[str, Any]:
    """The manifest of a complete checkpoint: every size is compared, and the checksums of the files asked for.

    Raises Invalid where a file is missing, of another size or of other content, or where there is no usable manifest; and
    OSError where a file is there and the storage does not give it out: that may pass, and says nothing of the file.
    """
    try:
        manifest = json.loads((directory / MANIFEST).read_bytes())
        version = manifest["schema_version"]
        files = _entries(manifest) if version == SCHEMA_VERSION else {}
    except FileNotFoundError:
        raise Invalid(f"no manifest {MANIFEST}" if directory.is_dir() else "not there") from None
    except (*_NO_FILE, ValueError, KeyError, TypeError, AttributeError):
        raise Invalid(f"manifest {MANIFEST} cannot be read") from None
    if version != SCHEMA_VERSION:
        raise Foreign(f"manifest of schema version {version}, this openrs writes and reads {SCHEMA_VERSION}")
    for name, entry in files.items():
        try:
            found = (directory / name).stat().st_size
        except _NO_FILE as error:
            raise Invalid(f"{name} cannot be read ({error.strerror})") from None
        if found != entry.size:
            raise Invalid(f"{name} has {found} bytes instead of {entry.size}")
    wanted = [name for name in files if checksums(name)]
    with ThreadPoolExecutor(READERS) as pool:
        digests = pool.map(lambda name: _digest(directory / name), wanted)
        for name in wanted:
            try:
                if next(digests) != files[name].xxh3:
                    raise Invalid(f"{name} has another content than was written")
            except _NO_FILE as error:
                raise Invalid(f"{name} cannot be read ({error.strerror})") from None
    return dict(manifest)


def newest_valid(checkpoints: Path, ours: Identity) -> tuple[Found | None, list[Rejected]]:
    """The newest complete checkpoint of this run, and what newer ones were passed over and why. Reads every byte of it.

    Raises BadInput where it was written by another number of ranks, and where all that is there is somebody else's:
    going on without it would waste it. Raises OSError where the storage does not answer, for the same reason.
    """
    rejected: list[Rejected] = []
    for step in reversed(steps_in(checkpoints)):
        directory = checkpoints / f"step-{step:06d}"
        try:
            manifest = verify(directory)
            _check_ours(manifest, ours)
        except Invalid as reason:
            rejected.append(Rejected(directory.name, str(reason), isinstance(reason, Foreign)))
            continue
        if manifest.get("world") != ours.world:
            raise BadInput(
                f"{directory} was written by {manifest.get('world')} training ranks, this job has {ours.world}; "
                f"ask for the same number of GPUs, or start a new run"
            )
        return Found(directory, step), rejected
    foreign = [entry for entry in rejected if entry.foreign]
    if foreign:
        raise BadInput(
            f"{checkpoints / foreign[0].checkpoint}: {foreign[0].reason}; there is no checkpoint of this run to go on "
            f"from: move that one away to begin anew, or submit a new run"
        )
    return None, rejected


def _check_ours(manifest: dict[str, Any], ours: Identity) -> None:
    if manifest.get("trains") != ours.trains:
        raise Foreign(
            f"written by another experiment ({str(manifest.get('trains'))[:19]}…, this is {ours.trains[:19]}…)"
        )
    if manifest.get("run") != ours.run:
        raise Foreign(f"written by another run ({manifest.get('run')}, this is {ours.run})")


def set_aside(checkpoints: Path, rejected: Iterable[Rejected]) -> list[str]:
    """Gives foreign checkpoints a name that this run will not write to; the new names. Only for who holds the lease.

    Damaged ones lose their manifest, so that they count as kept no longer.
    """
    moved = []
    for entry in rejected:
        manifest = checkpoints / entry.checkpoint / MANIFEST
        if not entry.foreign and manifest.is_file():
            os.rename(manifest, manifest.with_name(f"damaged-{MANIFEST}"))
        if entry.foreign:
            target = f"foreign-{entry.checkpoint}-{secrets.token_hex(2)}"
            os.rename(checkpoints / entry.checkpoint, checkpoints / target)
            moved.append(target)
    return moved


def clean(checkpoints: Path) -> list[str]:
    """Removes what interrupted writes and removals left; their names. Only for who holds the lease."""
    stale = list(checkpoints.glob(".step-*"))
    for entry in stale:
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:  # a rank's list of its files
            entry.unlink(missing_ok=True)
    return sorted(entry.name for entry in stale)


def temporary(checkpoints: Path, step: int, nonce: str | None = None) -> Path:
    """A name for a checkpoint that is being written or removed; a fresh one unless there is a `nonce`."""
    return checkpoints / f".step-{step:06d}.{nonce or secrets.token_hex(4)}"


def seal(directory: Path, files: Iterable[Path]) -> dict[str, Entry]:
    """Makes `files` below `directory` durable; what the manifest will say of them. Raises OSError."""
    entries = {}
    for path in sorted(files):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        entries[str(path.relative_to(directory))] = Entry(path.stat().st_size, _digest(path))
    return entries


def write_manifest(directory: Path, step: int, entries: dict[str, Entry], ours: Identity) -> None:
    """Makes the sealed `directory` whole: its names durable, and then the manifest. Raises OSError."""
    for inner in sorted(path for path in directory.rglob("*") if path.is_dir()):
        sync_directory(inner)
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "step": step,
        "run": ours.run,
        "trains": ours.trains,
        "world": ours.world,
        "files": {name: entry._asdict() for name, entry in sorted(entries.items())},
    }
    write_atomic(directory / MANIFEST, json.dumps(manifest, indent=1) + "\n")


def place(directory: Path, step: int, check: Callable[[], None] = lambda: None) -> Path:
    """Gives the whole `directory` the name of the checkpoint of `step`, durably. Its new path.

    An invalid checkpoint that stands there under this name is put aside and removed. Raises OSError, and before
    anything is changed what `check` raises.
    """
    target = directory.with_name(f"step-{step:06d}")
    check()
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
    complete = [step for step in complete_in(checkpoints) if step <= newest]
    kept = {*complete[-keep:], *always, newest}
    removed = [step for step in present if step not in kept]
    for step in removed:
        # Out of sight first: a removal that is cut short must not leave half a checkpoint under its name.
        aside = temporary(checkpoints, step)
        os.rename(checkpoints / f"step-{step:06d}", aside)
        shutil.rmtree(aside, ignore_errors=True)
    return removed


def _entries(manifest: dict[str, Any]) -> dict[str, Entry]:
    return {str(name): Entry(int(entry["size"]), str(entry["xxh3"])) for name, entry in manifest["files"].items()}


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        digest = xxhash.xxh3_128()
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
