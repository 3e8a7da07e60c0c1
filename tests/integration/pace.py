"""Saves of a run's ranks on a test bed, as slow as a test wants them at that moment: `paced_saves` in the pods."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from tests.testbed.k8s.client import RUNS_PATH

HELD = 3600.0
"""Slow enough that a rank writes nothing more until it is told otherwise."""


class Pace:
    """Put on the volume of `openrs-runs`, which stands at `volume` on this machine."""

    def __init__(self, volume: Path) -> None:
        self._directory = volume / "paced"
        shutil.copytree(Path(__file__).parent / "paced_saves", self._directory)

    def __call__(self, run: str, seconds: float) -> None:
        """From now on so long for each file that its trainer writes (3 a step, 13 a save): 0.1 makes a step last a second."""
        (self._directory / run).write_text(str(seconds))

    @staticmethod
    def environment(variables: Mapping[str, str]) -> dict[str, str]:
        """Of a profile whose pods keep that pace."""
        path = [f"{RUNS_PATH}/paced", variables.get("PYTHONPATH", "")]
        return {**variables, "PYTHONPATH": ":".join(filter(None, path))}
