"""Copies what a run has left in its cluster to the client."""

from __future__ import annotations

from pathlib import Path

from openrs.engines import RemoteEngine, engine_for
from openrs.errors import BadInput
from openrs.launch import place_of
from openrs.runs.record import Record


def pull(record: Record) -> int | None:
    """Copies all files but checkpoints into the run's directory here; how many. None where they are here already.

    Raises OpenRSError.
    """
    engine = engine_for(record.cluster)
    if not isinstance(engine, RemoteEngine):
        return None
    here = Path(record.dir)
    try:
        return engine.pull(place_of(record.cluster, here.parent, record.run), here)
    except OSError as error:
        raise BadInput(f"{error.filename or here}: cannot write there ({error.strerror})") from None
