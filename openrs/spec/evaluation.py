"""What is evaluated, on what and how: benchmarks, and the spec of a run that only evaluates."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from openrs.spec.base import EnvironmentName, Line, Name, Number, Secret, Strict, Text
from openrs.spec.parts import Data, Model, Positive, Recovery, Resources, Sampling, Seed

LIGHTEVAL = "lighteval:"
"""A prompt that begins with this is a prompt function of lighteval."""


def _unique(seeds: list[int]) -> list[int]:
    if len(set(seeds)) != len(seeds):
        raise ValueError("a seed stands there twice; each one is a cell of its own")
    return seeds


def _prompt(text: str) -> str:
    if text.startswith(LIGHTEVAL):
        if not text.removeprefix(LIGHTEVAL).isidentifier():
            raise ValueError("lighteval: is followed by the name of a function in lighteval.tasks.default_prompts")
    elif "{problem}" not in text:
        raise ValueError("must hold {problem}, which stands for the question")
    return text


class Benchmark(Strict):
    """Sampled accuracy on a set of problems: one cell for each checkpoint and seed.

    In an experiment, an entry may be the name of one that is shipped, or a mapping with `extends: NAME` and what differs.
    """

    name: Name
    """Name in paths and tables."""
    data: Data
    """The problems. They should share none with the training data."""
    problems: Positive | None = None
    """So many problems there must be; by default as many as there are."""
    prompt: Annotated[Text, AfterValidator(_prompt)] = "{problem}"
    """What is asked: a text in which `{problem}` stands for the question, or `lighteval:NAME`, a prompt of lighteval."""
    system: Text | None = None
    """System message; none by default."""
    sampling: Sampling
    """How answers are drawn; always by sampling."""
    metric: Literal["math-verify", "extractive-expr", "extractive-latex", "extractive-choice"] = "math-verify"
    """What makes an answer right: openrs's own use of math-verify, or lighteval's `extractive_match` with the gold answer an
    expression, LaTeX (a whole solution), or the letter of a choice."""
    samples_per_problem: Positive = 1
    """Answers drawn for each problem and seed."""
    seeds: Annotated[list[Seed], Field(min_length=1), AfterValidator(_unique)] = [0]
    """One cell each, for each of `evaluation.at_steps`."""
    full_seeds: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """The full protocol (base model, chosen checkpoints) has the seeds 0 to this less one too; by default only `seeds`."""
    batch: Positive = 256
    """Completions sampled at once. On a CPU it belongs to the result, since it changes the order of the draws; on a GPU it
    bounds what shares the memory for keys and values."""
    minutes: Annotated[Number, Field(gt=0.0, le=1e6)] | None = None
    """About how long a cell takes on one GPU, for `openrs plan` only."""

    def protocol(self, full: bool) -> list[int]:
        """The seeds of the full protocol, or of the short one, ascending."""
        return sorted({*self.seeds, *range((self.full_seeds or 0) if full else 0)})


class Evaluation(Strict):
    """Which checkpoints are evaluated, and on what."""

    at_steps: list[Positive] = []
    """Checkpoints that are kept for good and evaluated."""
    base: bool = True
    """Evaluate the base model too, by the full protocol."""
    runner: Literal["sampled", "lighteval"] = "sampled"
    """`sampled`: transformers' own generation, which starts in seconds. `lighteval`: lighteval 0.8.1, on vLLM where the
    evaluation has GPUs, else on transformers."""
    gpu_memory_utilization: Annotated[Number, Field(gt=0.0, le=1.0)] = 0.8
    """Share of a GPU's memory that vLLM takes (lighteval)."""
    benchmarks: list[Benchmark] = []
    """What each of them is evaluated on."""
    resources: Resources = Resources()
    """What one evaluation job needs. With several GPUs, the job's cells are shared out, one engine a GPU."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [benchmark.name for benchmark in self.benchmarks]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"benchmarks: two of them have the same name {twice}")
        if len(set(self.at_steps)) != len(self.at_steps):
            raise ValueError("at_steps: a step stands there twice")
        for benchmark in self.benchmarks:
            if self.runner == "sampled" and (
                benchmark.prompt.startswith(LIGHTEVAL) or benchmark.metric != "math-verify"
            ):
                what = "prompt" if benchmark.prompt.startswith(LIGHTEVAL) else "metric"
                raise ValueError(
                    f"benchmarks.{benchmark.name}.{what} = {getattr(benchmark, what)} is lighteval's; "
                    f"set evaluation.runner to lighteval"
                )
        return self


class ModelEvaluation(Strict):
    """A run that only evaluates: models as they are, without training. What `openrs eval MODEL` sends."""

    schema_version: Literal[1] = 1
    """Version of this format."""
    kind: Literal["evaluation"] = "evaluation"
    """Tells it from an experiment."""
    name: Name
    """Name of the run's subject."""
    title: Line
    """One line for lists and reports."""
    model: Model
    """What is evaluated."""
    revisions: list[Line] = []
    """Revisions of the Hub model that are evaluated instead of the one in `model`."""
    evaluation: Evaluation
    """Benchmarks, runner and resources."""
    recovery: Recovery = Recovery()
    """Stops and failures."""
    environment: dict[EnvironmentName, Text] = {}
    """Environment variables of the processes; never secrets."""
    secrets: dict[EnvironmentName, Secret] = {}
    """Environment variable → where its value is found."""

    @property
    def models(self) -> list[Model]:
        """Each model that is evaluated."""
        if self.model.type == "path" or not self.revisions:
            return [self.model]
        return [self.model.model_copy(update={"revision": revision}) for revision in self.revisions]

    @property
    def steps(self) -> int:
        """Training steps: none."""
        return 0

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.revisions and self.model.type == "path":
            raise ValueError("revisions: a directory has none; give a repository of the Hub, or one directory a run")
        if len(set(self.revisions)) != len(self.revisions):
            raise ValueError("revisions: one stands there twice")
        if self.evaluation.at_steps:
            raise ValueError("evaluation.at_steps: nothing is trained here, so there are no steps")
        if not self.evaluation.benchmarks:
            raise ValueError("evaluation.benchmarks: none, so there is nothing to evaluate")
        return self
