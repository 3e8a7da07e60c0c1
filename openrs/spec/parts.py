"""What training and evaluation both are made of: models, data sets, sampling, and what a job needs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from openrs.spec.base import Line, Number, PathLine, Strict

Positive = Annotated[int, Field(ge=1, le=10**9)]
Fraction = Annotated[Number, Field(ge=0.0, le=1.0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class HubModel(Strict):
    """A model of the Hugging Face Hub, at a revision."""

    type: Literal["hub"]
    name: Line
    """Repository, `organisation/name`."""
    revision: Line
    """Commit (40 hex digits) or branch. A branch is resolved when it is loaded, and the commit is recorded."""
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    """Data type of weights and activations."""
    attention: Literal["eager", "sdpa", "flash_attention_2"] = "sdpa"
    """Attention implementation of transformers."""


class PathModel(Strict):
    """A model directory in Hugging Face format that every node can read."""

    type: Literal["path"]
    path: PathLine
    """Directory; relative to the YAML file that names it. `openrs:DIR` is a directory of the installed package."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Data type of weights and activations."""
    attention: Literal["eager", "sdpa", "flash_attention_2"] = "sdpa"
    """Attention implementation of transformers."""


Model = Annotated[HubModel | PathModel, Field(discriminator="type")]


class HubData(Strict):
    """A data set of the Hugging Face Hub, at a revision."""

    type: Literal["hub"]
    name: Line
    """Repository, `organisation/name`."""
    revision: Line
    """Commit or branch; a branch is resolved when it is loaded, and the commit is recorded."""
    subset: Line | None = None
    """Configuration of the data set, where it has several."""
    split: Line = "train"
    """Split of the data set."""
    problem: Line = "problem"
    """Column with the question."""
    answer: Line = "answer"
    """Column with the gold answer (LaTeX, or a text in which `\\boxed{}` holds it)."""
    choices: list[Line] = []
    """Columns with wrong answers: the problem is then a multiple choice, and the gold answer is its letter."""
    limit: Positive | None = None
    """Use only so many rows, from the start."""


class JsonlData(Strict):
    """A local JSON Lines file."""

    type: Literal["jsonl"]
    path: PathLine
    """File; relative to the YAML file that names it."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """The file's checksum, as a revision is a data set's: filled in where the file can be read when the spec is. Another file
    under the same name is then refused."""
    problem: Line = "problem"
    """Column with the question."""
    answer: Line = "answer"
    """Column with the gold answer (LaTeX, or a text in which `\\boxed{}` holds it)."""
    choices: list[Line] = []
    """Columns with wrong answers: the problem is then a multiple choice, and the gold answer is its letter."""
    limit: Positive | None = None
    """Use only so many rows, from the start."""


class SumsData(Strict):
    """Generated problems such as `3+8-2+1=?` (3–5 one-digit terms), from a seed."""

    type: Literal["sums"]
    split: Literal["train", "held_out"]
    """The two splits share no problem."""
    count: Positive
    """Number of problems."""
    seed: Seed = 0
    """Seed of the generator."""


Data = Annotated[HubData | JsonlData | SumsData, Field(discriminator="type")]


class Sampling(Strict):
    """How completions are drawn."""

    temperature: Annotated[Number, Field(gt=0.0, le=10.0)]
    """Sampling temperature; the log-probabilities of training use the same, unless `training.logprob_temperature` is
    given."""
    top_p: Annotated[Number, Field(gt=0.0, le=1.0)] = 1.0
    """Nucleus sampling; 1 is off."""
    max_prompt_tokens: Positive = 512
    """Longer prompts lose their beginning."""
    max_new_tokens: Positive
    """A completion that is longer is cut there."""


class Resources(Strict):
    """What one job of a stage needs, on one node."""

    gpus: Annotated[int, Field(ge=0, le=64)] = 0
    """GPUs."""
    cpu_ranks: Positive = 1
    """Training processes where there are no GPUs. Several of them work as several GPUs do (ZeRO-2, over gloo): to try
    that out on one machine."""
    gpu_type: Line | None = None
    """Type of GPU in the scheduler's words, e.g. `a40`; the cluster profile may translate it."""
    cpus: Positive = 1
    """CPU cores."""
    memory_gb: Positive = 4
    """Main memory in GiB."""
    minutes: Positive = 60
    """Longest time of one attempt; a run goes on in the next attempt."""


class Recovery(Strict):
    """How a stage answers to being stopped and to failing."""

    grace_seconds: Annotated[int, Field(ge=1, le=86400)] = 300
    """Time from the request to stop to the end: a step in progress is left and a checkpoint is written in it."""
    max_attempts: Positive = 100
    """Starts of one stage in one submission; then it has failed."""
    node_fault_retries: Annotated[int, Field(ge=0, le=1000)] = 3
    """Attempts that may end for a GPU or driver missing on the node before the stage has failed."""
    stall_factor: Annotated[Number, Field(ge=2.0, le=1e6)] = 20.0
    """A training rank whose step takes so many times the median step, and at least `stall_minutes`, has failed: it says
    where it stands and ends."""
    stall_minutes: Annotated[Number, Field(gt=0.0, le=1e6)] = 60.0
    """See `stall_factor`; also the limit of the first step."""
