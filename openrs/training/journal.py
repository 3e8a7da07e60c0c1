"""The journal: each step's completions and their scores on disk before anything is trained on them. Imports no torch.

One file a step and rank, `journal/step-NNNNNN.rank-R.json`: a head line that says what it is and the checksum of the rest,
then the rest. It is written beside, fsynced and renamed. After a kill the steps since the checkpoint are trained again from it
instead of being generated again; the entries stay until the older of the checkpoints that are kept covers them, so that a
damaged newest checkpoint costs no generation either.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from openrs.runs.files import write_atomic
from openrs.training.checkpoint import Identity
from openrs.worker.rank import Rank

SCHEMA_VERSION = 1

_NAME = re.compile(r"^step-(\d{6,})\.rank-\d+\.json$")


class Unusable(Exception):
    """This entry is missing, damaged or not of this run; the message says why."""


class Missing(Unusable):
    """There is no such entry."""


@dataclass(frozen=True)
class Journal:
    """One rank's entries in the directory of all of them."""

    directory: Path
    ours: Identity
    data: str
    """Fingerprint of the problems: other problems, other completions."""
    rank: Rank

    def write(self, step: int, content: dict[str, Any]) -> None:
        """Makes `content` (JSON) durable as what `step` trains on. Raises OSError and LeaseLost."""
        body = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
        head = json.dumps({**self._head(step), "size": len(body), "xxh3": xxhash.xxh3_128_hexdigest(body)})
        self.rank.check_lease()
        self.directory.mkdir(exist_ok=True)
        write_atomic(self._path(step), head.encode() + b"\n" + body, before_rename=self.rank.check_lease)

    def read(self, step: int) -> dict[str, Any]:
        """What was written for `step`. Raises Unusable."""
        try:
            head_line, newline, body = self._path(step).read_bytes().partition(b"\n")
        except FileNotFoundError:
            raise Missing("not there") from None
        except OSError as error:
            raise Unusable(f"cannot be read ({error.strerror})") from None
        try:
            head = json.loads(head_line)
            version, size, digest = head["schema_version"], head["size"], head["xxh3"]
        except (ValueError, KeyError, TypeError):
            raise Unusable("its head cannot be read") from None
        if version != SCHEMA_VERSION:
            raise Unusable(f"schema version {version}, this openrs writes and reads {SCHEMA_VERSION}")
        if not newline or len(body) != size:
            raise Unusable(f"{len(body)} bytes instead of {size}")
        if xxhash.xxh3_128_hexdigest(body) != digest:
            raise Unusable("another content than was written")
        wanted = self._head(step)
        differing = next((key for key in wanted if head.get(key) != wanted[key]), None)
        if differing:
            raise Unusable(f"of another run: {differing} is {head.get(differing)!r}, this is {wanted[differing]!r}")
        content = json.loads(body)
        if not isinstance(content, dict):
            raise Unusable("not an entry")
        return content

    def steps(self) -> list[int]:
        """Steps of which there is an entry of any rank, usable or not, ascending."""
        return sorted({step for _, step in _entries(self.directory)})

    def _head(self, step: int) -> dict[str, Any]:
        return {
            "schema_version": SCHEMA_VERSION,
            "run": self.ours.run,
            "trains": self.ours.trains,
            "data": self.data,
            "world": self.ours.world,
            "rank": self.rank.rank,
            "step": step,
        }

    def _path(self, step: int) -> Path:
        return self.directory / f"step-{step:06d}.rank-{self.rank.rank}.json"


def prune(directory: Path, covered: int) -> None:
    """Removes the entries of all ranks up to the step `covered`, and what an interrupted write left of them."""
    for path, step in _entries(directory):
        if step <= covered:
            path.unlink(missing_ok=True)


def _entries(directory: Path) -> list[tuple[Path, int]]:
    try:
        matches = [(path, _NAME.match(path.name)) for path in directory.iterdir()]
    except FileNotFoundError:
        return []
    return [(path, int(match[1])) for path, match in matches if match]
