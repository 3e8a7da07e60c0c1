"""What a job is told: the stage file and the cells file. Written by the client, read by the worker, on every engine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import Field, ValidationError

from openrs.errors import BadInput
from openrs.runs.files import read_object
from openrs.spec.base import RUN_ID, EnvironmentName, Line, Name, Secret, Strict, Text
from openrs.spec.evaluation import ModelEvaluation
from openrs.spec.experiment import Experiment, Spec
from openrs.spec.explain import explain

RunId = Annotated[str, Field(pattern=RUN_ID.pattern.removesuffix("$") + "$|^RUN$")]
"""`RUN` stands for the id in what is rendered without one."""


SECRET_PREFIX = "OPENRS_SECRET_"
"""Where the value of a `secret:` reference stands in a job's environment: this and the variable's name."""


class Process(Strict):
    """A group of equal processes of a stage."""

    role: Literal["trainer", "generation_server", "cell"]
    """What they do."""
    world: Annotated[int, Field(ge=1)]
    """How many."""
    gpus: list[int]
    """Indices, among the GPUs given to the job, of the GPUs that they share out; none on a CPU."""


class Cell(Strict):
    """One evaluation: a checkpoint on a benchmark with a seed."""

    checkpoint: Line
    """`step-000050`, or `rev-<12 hex>` for the base model."""
    step: int | None
    """Step of the checkpoint; none for the base model."""
    benchmark: Name
    """Name of the benchmark in the spec."""
    seed: int
    """Seed of the sampling."""
    settings: Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]
    """Hash of everything else that decides the result: data, sampling, model type, code of the cell runner."""

    @property
    def path(self) -> str:
        """Where its result stands, below the run directory."""
        return f"eval/{self.checkpoint}/{self.benchmark}/{self.seed}-{self.settings}.json"


class CellsFile(Strict):
    """Array index → the cells that this task evaluates, one after the other."""

    schema_version: Literal[1] = 1
    experiment_hash: str
    tasks: list[list[Cell]]


class StageFile(Strict):
    """All that a job is told. A job is started with the path of this file and nothing else."""

    schema_version: Literal[1] = 1
    run: RunId
    submission: Annotated[int, Field(ge=1)]
    """Number of the sending that this stage is part of."""
    stage: Name
    kind: Literal["train", "cells"]
    experiment: Name
    experiment_hash: str
    """Of the spec in `spec.json` of the same submission."""
    run_dir: Text
    """Absolute path of the run directory, as the job sees it."""
    cells_file: Text | None
    """Path of the cells file below the run directory."""
    processes: list[Process]
    gpus: int
    """GPUs that the node must offer to the job."""
    environment: dict[EnvironmentName, Text]
    """Set in every process that the supervisor starts."""
    secrets: dict[EnvironmentName, Secret]
    """Resolved by the supervisor, when it starts the processes."""
    steps: int
    """Training steps of the experiment."""
    wall_seconds: int | None
    """An attempt is stopped so that it ends within this time; none where nothing limits it."""
    grace_seconds: int
    """From the request to stop to the end."""
    max_attempts: int
    """Starts of this stage, or of one task of it, in this submission."""
    node_fault_retries: int
    """Attempts that may end for a GPU or driver missing on the node."""
    lease_seconds: int
    """Time-to-live of the lease."""
    releases: list[Text] = []
    """Jobs that wait for this stage and that its worker lets go when it is done (Kubernetes)."""

    @property
    def directory(self) -> Path:
        """Where this stage's artefacts stand."""
        return Path(self.run_dir) / "submission" / str(self.submission) / self.stage

    @property
    def spec_path(self) -> Path:
        """The resolved experiment of this submission."""
        return self.directory.parent / "spec.json"


F = TypeVar("F", bound=Strict)


def read(model: type[F], path: Path) -> F:
    """The `model` in the JSON file `path`. Raises BadInput where it is missing, broken or of another schema."""
    try:
        return model.model_validate_json(path.read_bytes())
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})") from None
    except ValidationError as error:
        raise BadInput(f"{path}: {explain(model, error)}") from None


def read_spec(path: Path) -> Spec:
    """The experiment, or the evaluation of models as they are, in the JSON file `path`. Raises BadInput."""
    kind = (read_object(path) or {}).get("kind")
    return read(ModelEvaluation, path) if kind == "evaluation" else read(Experiment, path)
