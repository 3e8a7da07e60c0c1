"""At the start of an attempt: is this the environment that the run began with? The first attempt writes `lock.json`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from openrs.errors import BadInput
from openrs.runs import provenance
from openrs.runs.directory import RunDirectory
from openrs.runs.files import read_object, write_atomic
from openrs.spec.experiment import Experiment
from openrs.stage import StageFile, read


def compare(stage: StageFile, directory: RunDirectory, writer: str, machine: dict[str, Any]) -> list[str]:
    """What differs from the first attempt and changes no result, to be recorded.

    Raises BadInput, one line, for what changes results: the image, packages, the GPUs that train, an image of another uv.lock.
    """
    source = stage.spec_path.parent / "source.json"
    foreign = provenance.foreign_image(source)
    if foreign is not None:
        raise BadInput(f"{foreign}; build the image anew, `openrs images pin` it, and submit a new run")
    if machine["compute_capability"]:  # there is a GPU
        unfit = provenance.unfit(machine, read(Experiment, stage.spec_path).model.attention)
        if unfit is not None:
            raise BadInput(f"{unfit}; use sdpa, or other nodes")
    grave, harmless = provenance.differences(_lock(directory, writer, source, machine), source)
    first = next((start["hardware"] for start in directory.attempts(stage.stage) if "hardware" in start), machine)
    other_machine, slower = provenance.machine_differences(first, machine)
    if stage.kind == "train":
        grave += other_machine
    else:  # a cell names its hardware itself, and the report pools only what is alike
        harmless += other_machine
    if grave:
        raise BadInput(
            f"this is not the environment that the run began with ({'; '.join(grave)}); restore it, or submit a new run"
        )
    return harmless + slower


def _lock(directory: RunDirectory, writer: str, source: Path, machine: dict[str, Any]) -> dict[str, Any]:
    """`lock.json`, written unless it is there."""
    lock = directory.lock
    if not lock.exists():
        ours = lock.with_name(f".lock.{writer}")
        write_atomic(ours, json.dumps(provenance.lock_content(source, machine), indent=2) + "\n")
        try:
            os.link(ours, lock)  # of several first attempts one wins, the others are compared with it
        except FileExistsError:
            pass
        except OSError:  # a file system without hard links
            os.replace(ours, lock)
        ours.unlink(missing_ok=True)
    known = read_object(lock)
    if known is None:
        raise BadInput(f"{lock}: not the JSON that an attempt wrote; remove it to record this environment anew")
    return known
