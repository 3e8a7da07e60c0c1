"""The step's metrics to Weights & Biases, by its own library."""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from pathlib import Path
from typing import Any

from openrs.errors import BadInput
from openrs.spec.experiment import Experiment, Wandb

START_SECONDS = 60
"""The service answers in so much time or not at all."""


class Tracker:
    """One run there, under the run's own id, which every attempt goes on with."""

    def __init__(self, spec: Wandb, experiment: Experiment, run: str, directory: Path) -> None:
        """Raises BadInput where the library is missing, or the service cannot be reached or refuses the login."""
        try:
            import wandb
        except ImportError:
            raise BadInput(
                "tracking: this Python has no wandb; install openrs[wandb] there, then resume the run"
            ) from None
        try:
            self._run = wandb.init(
                project=spec.project,
                entity=spec.entity,
                id=run,
                name=run,
                resume="allow" if spec.mode == "online" else None,
                mode=spec.mode,
                dir=str(directory),
                config=experiment.model_dump(mode="json", exclude={"secrets"}),
                settings=wandb.Settings(init_timeout=START_SECONDS, silent=True, console="off"),
            )
        except wandb.errors.Error as error:
            raise BadInput(f"tracking: {' '.join(str(error).split())}; use mode offline to go on without it") from None
        # Steps of their own: after a restart a few are told again, which W&B's own counter would refuse.
        self._run.define_metric("*", step_metric="step")

    def log(self, record: dict[str, Any]) -> None:
        """Sends a metrics line: numbers only, parts of it as `rewards/accuracy`."""
        self._run.log(flat(record))

    def close(self) -> None:
        """Sends what is still on its way."""
        self._run.finish(quiet=True)


def flat(record: dict[str, Any]) -> dict[str, float]:
    """The numbers of a metrics line, those of its parts as `part/name`."""
    found: dict[str, float] = {}
    for name, value in record.items():
        parts = {f"{name}/{key}": inner for key, inner in value.items()} if isinstance(value, dict) else {name: value}
        found |= {key: inner for key, inner in parts.items() if isinstance(inner, (int, float))}
    return found
