"""A real Slurm cluster for tests: `SlurmBed`, and `python -m tests.testbed.slurm up DIR` by hand."""

from tests.testbed.slurm.cluster import SlurmBed
from tests.testbed.slurm.commands import CommandFailed
from tests.testbed.slurm.daemons import PACKAGES, BedError, BedMissing, missing

__all__ = ["PACKAGES", "BedError", "BedMissing", "CommandFailed", "SlurmBed", "missing"]
