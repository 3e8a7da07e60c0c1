"""Fixtures: one cluster per pytest process (per xdist worker) that asks for it.

They last for the session, so a test finds what earlier ones left; `slurm_bed.reset()` clears it.
"""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.testbed.slurm.cluster import SlurmBed
from tests.testbed.slurm.daemons import missing

REQUIRE = "OPENRS_REQUIRE_TESTBED"


def _bed(accounting: bool) -> Iterator[SlurmBed]:
    if (lack := missing(accounting)) is not None:
        reason = f"no Slurm testbed here; missing: {lack}"
        if os.environ.get(REQUIRE) == "1":
            pytest.fail(f"{reason} ({REQUIRE}=1)", pytrace=False)
        pytest.skip(reason)
    # Not tmp_path_factory: its paths are long for sockets, and it keeps old directories.
    with SlurmBed(Path(tempfile.mkdtemp(prefix="slurmbed-")), accounting=accounting) as bed:
        yield bed


@pytest.fixture(scope="session")
def slurm_bed() -> Iterator[SlurmBed]:
    """A Slurm cluster of three nodes of four A40s, with accounting."""
    yield from _bed(accounting=True)


@pytest.fixture(scope="session")
def slurm_bed_noacct() -> Iterator[SlurmBed]:
    """The same without accounting: sacct answers nothing."""
    yield from _bed(accounting=False)
