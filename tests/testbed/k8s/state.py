"""What of a bed outlives the process that made it: its sizes, its number, and whose it is."""

from __future__ import annotations

import contextlib
import json
import socket
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from tests.testbed.k8s.machine import BedError, has_interface, run, start_time
from tests.testbed.k8s.node import Site

RECORD = "bed.json"
_FIRST_PORT = 16440
_MOST_BEDS = 15


@dataclass(frozen=True)
class State:
    """The record in a bed's directory."""

    bin: str
    number: int
    nodes: int
    gpus: int
    cpus: int
    memory: int
    job_backoff: int
    read_only: list[str]
    owner: str | None
    """`pid start` of the process that the bed ends with."""

    @classmethod
    def read(cls, directory: Path) -> Self:
        """As it was written."""
        return cls(**json.loads((directory / RECORD).read_text()))

    def write(self, directory: Path) -> None:
        """At once or not at all: from here on `down` knows what there is to end."""
        fresh = directory / f"{RECORD}.new"
        fresh.write_text(json.dumps(asdict(self)))
        fresh.rename(directory / RECORD)

    def site(self, directory: Path) -> Site:
        """What nodes and daemons are told."""
        return Site(
            directory=directory,
            bin=Path(self.bin),
            number=self.number,
            port=_FIRST_PORT + self.number,
            nodes=self.nodes,
            gpus=self.gpus,
            cpus=self.cpus,
            memory=self.memory,
            read_only=tuple(map(Path, self.read_only)),
        )

    def abandoned(self) -> bool:
        """Whether the process that it should have ended with is gone; one made by hand has none."""
        if self.owner is None:
            return False
        pid, start = self.owner.split()
        return start_time(int(pid)) != start


def claim_number() -> int:
    """The bridge's name is the claim: of two beds that start at once only one can make it."""
    for number in range(_MOST_BEDS):
        with socket.socket() as probe:
            try:
                probe.bind(("", _FIRST_PORT + number))
            except OSError:
                continue
        if has_interface(f"kbed{number}") or run("ip", "route", "show", "root", f"10.{240 + number}.0.0/16").strip():
            continue
        with contextlib.suppress(BedError):
            run("ip", "link", "add", f"kbed{number}", "type", "bridge")
            return number
    raise BedError(f"{_MOST_BEDS} beds are up: take one down")
