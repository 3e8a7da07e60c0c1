"""The Experiment: everything that decides what a run computes, and nothing about where it runs."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from openrs.rewards import Reward
from openrs.spec.base import EnvironmentName, Line, Name, Number, Secret, Strict, Text
from openrs.spec.evaluation import Evaluation, ModelEvaluation
from openrs.spec.parts import Data, Fraction, Model, Positive, Recovery, Resources, Sampling, Seed


class Prompt(Strict):
    """How a problem becomes a conversation."""

    system: Text | None = None
    """System message; none by default."""


class Training(Strict):
    """GRPO (arXiv 2402.03300): one update from each step's completions (μ = 1), against a fixed reference model."""

    steps: Positive
    """Optimizer steps."""
    prompts_per_step: Positive
    """Different problems in a step."""
    completions_per_prompt: Annotated[int, Field(ge=2, le=1024)]
    """G, the size of a group."""
    micro_batch: Positive
    """Most completions in one forward and backward pass on one rank; with loss `bnpo` also those, in their order, whose
    tokens divide a token's cost."""
    micro_batch_tokens: Positive | None = None
    """Most tokens, prompts and padding included, in one forward and backward pass on one rank. Nothing but memory and
    rounding depends on it."""
    loss: Literal["dapo", "bnpo", "grpo", "dr_grpo"] = "dapo"
    """What a token's cost is divided by. `dapo`: the tokens of the whole step (arXiv 2503.14476); `bnpo`: those of its
    micro-batch, as TRL 0.16.1; `grpo`: those of its completion (arXiv 2402.03300); `dr_grpo`: `sampling.max_new_tokens`
    (arXiv 2503.20783)."""
    learning_rate: Annotated[Number, Field(gt=0.0, le=1.0)]
    """Peak learning rate of AdamW."""
    schedule: Literal["constant", "linear", "cosine", "cosine_with_min_lr"] = "cosine_with_min_lr"
    """Learning-rate schedule after the warm-up."""
    min_lr_rate: Fraction = 0.1
    """End of the `cosine_with_min_lr` schedule, as a share of the peak."""
    warmup_ratio: Fraction = 0.1
    """Share of the steps in which the learning rate rises linearly from 0."""
    adam_beta2: Annotated[Number, Field(gt=0.0, lt=1.0)] = 0.999
    """Second-moment decay of AdamW."""
    max_grad_norm: Annotated[Number, Field(gt=0.0, le=1e9)] = 1.0
    """Gradients are clipped to this norm."""
    beta: Annotated[Number, Field(ge=0.0, le=1e6)] = 0.04
    """Weight of the KL term against the base model; 0 keeps no reference model."""
    epsilon: Annotated[Number, Field(gt=0.0, lt=1.0)] = 0.2
    """Clipping range of the probability ratio; below 1, and above 1 where `epsilon_high` is not given. At μ = 1 the ratio
    is 1 and nothing is clipped."""
    epsilon_high: Annotated[Number, Field(gt=0.0, le=1e6)] | None = None
    """Clipping range above 1 (arXiv 2503.14476)."""
    scale_rewards: bool = True
    """Divide advantages by the standard deviation of their group; Dr. GRPO (arXiv 2503.20783) does not."""
    mask_truncated: bool = False
    """Learn nothing from completions that were cut (arXiv 2503.14476, section 3.4); their rewards stay in the group."""
    logprob_temperature: Annotated[Number, Field(gt=0.0, le=10.0)] | None = None
    """Temperature at which log-probabilities are taken; that of the sampling where not given."""
    max_dropped_steps: Positive = 3
    """A step whose loss or gradient is not finite changes nothing; after so many in a row the run stops."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass (non-reentrant)."""
    seed: Seed = 42
    """Seed of data order and sampling."""
    log_completions: Annotated[int, Field(ge=0, le=10**6)] = 6
    """Completions of each step that are kept in the run directory."""


class TransformersGeneration(Strict):
    """Completions from the training model itself, on the training ranks: on a CPU, and on GPUs without vLLM."""

    type: Literal["transformers"]
    batch_tokens: Positive = 65536
    """Most tokens, prompts and longest completions together, that are drawn in one batch."""


class VllmGeneration(Strict):
    """Completions from vLLM 0.7.2, on GPUs."""

    type: Literal["vllm"]
    layout: Literal["server", "colocate"] = "colocate"
    """`colocate`: one engine in each training rank, resident beside its model; `server`: one engine with a GPU of its own,
    which the training ranks share."""
    max_sequences: Positive | None = None
    """Most completions that an engine draws at once; all of them by default. Its KV cache holds so many of the longest, so
    that none is ever preempted."""


Generation = Annotated[TransformersGeneration | VllmGeneration, Field(discriminator="type")]


class Wandb(Strict):
    """Metrics to Weights & Biases too, one run there for all attempts. Needs the extra `wandb`."""

    type: Literal["wandb"]
    project: Line
    """Its project."""
    entity: Line | None = None
    """User or team; the login's own by default."""
    mode: Literal["online", "offline"] = "online"
    """`offline` writes to `wandb/` in the run directory, for `wandb sync` later. `online` needs a secret WANDB_API_KEY."""


class Checkpointing(Strict):
    """Recovery checkpoints: what a run goes on from. They are never evaluated for being there."""

    every_steps: Positive | Literal["auto"]
    """A recovery checkpoint is written every so many steps; `auto`: as often as loses least (Young–Daly), from what a
    save costs and how often the run is interrupted."""
    hours_between_interruptions: Annotated[Number, Field(gt=0.0, le=1e5)] = 12.0
    """Mean time between interruptions at your site, for `auto`; what the run then meets counts as well."""
    keep: Positive = 2
    """So many of the newest are kept (and those of `evaluation.at_steps`)."""


class Experiment(Strict):
    """One experiment. Its canonical JSON form is hashed; the hash stands in every artefact and every result."""

    schema_version: Literal[1] = 1
    """Version of this format."""
    name: Name
    """Name of the experiment."""
    title: Line
    """One line for lists and reports."""
    fidelity: Literal["corrected", "paper", "as-shipped", "own"] = "own"
    """`corrected`: a paper's experiment with its known defects mended; `paper`: as its text says; `as-shipped`: as its
    code does; `own`: no paper's."""
    model: Model
    """The base model."""
    data: Data
    """The training problems."""
    prompt: Prompt = Prompt()
    """How a problem becomes a conversation in training."""
    rewards: Annotated[list[Reward], Field(min_length=1)]
    """Their weighted sum is the reward."""
    training: Training
    """The algorithm and its numbers."""
    sampling: Sampling
    """How completions are drawn in training."""
    generation: Generation
    """What draws them."""
    checkpoint: Checkpointing
    """Recovery checkpoints."""
    evaluation: Evaluation = Evaluation()
    """Checkpoints and benchmarks."""
    resources: Resources = Resources()
    """What the training job needs."""
    recovery: Recovery = Recovery()
    """Stops and failures."""
    tracking: Wandb | None = None
    """Where the metrics go beside the run directory."""
    environment: dict[EnvironmentName, Text] = {}
    """Environment variables of the training and evaluation processes; never secrets."""
    secrets: dict[EnvironmentName, Secret] = {}
    """Environment variable → where its value is found."""

    @property
    def models(self) -> list[Model]:
        """The models as they are that an evaluation may have for its subject: the base model."""
        return [self.model]

    @property
    def steps(self) -> int:
        """Training steps."""
        return self.training.steps

    @property
    def trainer_ranks(self) -> int:
        """Training processes: one a GPU, less the one that a generation server owns; `cpu_ranks` without GPUs."""
        if self.resources.gpus == 0:
            return self.resources.cpu_ranks
        return self.resources.gpus - self.has_server

    @property
    def has_server(self) -> bool:
        """Whether a generation server owns one of the GPUs."""
        return self.generation.type == "vllm" and self.generation.layout == "server"

    @property
    def sequences_per_engine(self) -> int:
        """Completions that one vLLM engine draws at once."""
        training = self.training
        step = training.prompts_per_step * training.completions_per_prompt
        wanted = step if self.has_server else self.completions_per_rank
        most = self.generation.max_sequences if self.generation.type == "vllm" else None
        return min(wanted, most or wanted)

    @property
    def window(self) -> int:
        """Tokens of the longest prompt and the longest completion together."""
        return self.sampling.max_prompt_tokens + self.sampling.max_new_tokens

    @property
    def completions_per_rank(self) -> int:
        """Completions that one training rank draws and learns from in one optimizer step: whole groups."""
        return self.training.prompts_per_step * self.training.completions_per_prompt // self.trainer_ranks

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        late = [step for step in self.evaluation.at_steps if step > self.training.steps]
        if late:
            raise ValueError(
                f"evaluation.at_steps: step {late[0]} is after the last one, training.steps = {self.training.steps}"
            )
        if self.generation.type == "vllm" and self.resources.gpus < 1 + self.has_server:
            least = "2 or more: one is the server's" if self.has_server else "1 or more"
            raise ValueError(
                f"generation.type vllm with layout {self.generation.layout} needs GPUs, but resources.gpus = {self.resources.gpus}; "
                f"ask for {least}, or use generation.type = transformers"
            )
        if self.tracking is not None and self.tracking.mode == "online" and "WANDB_API_KEY" not in self.secrets:
            raise ValueError(
                "tracking: mode online needs a login; give secrets.WANDB_API_KEY a reference, e.g. file:~/.wandb-key, or use "
                "mode offline"
            )
        if abs(sum(reward.weight for reward in self.rewards)) < 1e-9:
            raise ValueError("rewards: the weights sum to 0, so nothing could be learned")
        training = self.training
        if training.prompts_per_step % self.trainer_ranks:
            raise ValueError(
                f"training.prompts_per_step = {training.prompts_per_step} is not divisible by the {self.trainer_ranks} training "
                f"ranks (resources), and a prompt's completions stay on one rank"
            )
        if training.loss == "bnpo" and self.completions_per_rank % training.micro_batch:
            raise ValueError(
                f"training.micro_batch = {training.micro_batch} does not divide the {self.completions_per_rank} completions of a "
                f"rank and step, and training.loss bnpo means equal micro-batches"
            )
        if training.micro_batch_tokens is not None and training.micro_batch_tokens < self.window:
            raise ValueError(
                f"training.micro_batch_tokens = {training.micro_batch_tokens} does not hold one sequence of "
                f"sampling.max_prompt_tokens + sampling.max_new_tokens = {self.window}"
            )
        return self


Spec = Experiment | ModelEvaluation
"""What a run was sent with."""
