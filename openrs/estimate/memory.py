"""The most memory that one training rank's GPU needs, part by part.

Counted, not measured. Weights, optimizer, KV cache and logits are exact; activations are an upper estimate from the sizes
of what a decoder layer keeps for its backward pass; context and graphs are round numbers from experience.
"""

from __future__ import annotations

from dataclasses import dataclass

from openrs.estimate.shape import Shape
from openrs.spec.experiment import Experiment
from openrs.training.sizes import KV_BLOCK_TOKENS, LOGITS_BLOCK, ZERO_BUCKET, kv_blocks

GIB = 2**30
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
CONTEXT = 1.0
"""GiB of the CUDA context and NCCL."""
ENGINE = 1.0
"""GiB of vLLM's CUDA graphs and work space."""


@dataclass(frozen=True)
class MemoryPlan:
    """GiB of each part, in the training phase and in generation."""

    training: dict[str, float]
    generation: dict[str, float]

    @property
    def total(self) -> float:
        """The larger of the two phases."""
        return max(sum(self.training.values()), sum(self.generation.values()))


def memory_plan(experiment: Experiment, shape: Shape) -> MemoryPlan:
    """The plan for one training rank with a GPU of its own."""
    training, ranks = experiment.training, experiment.trainer_ranks
    count, size = shape.parameters, BYTES[experiment.model.dtype]
    if ranks > 1:
        held = {"weights": count * size, "gradients, optimizer (this rank's share)": count * (size + 12) / ranks}
    else:  # float32 under autocast, see `openrs.training.config`
        held = {"weights": count * 4, "gradients, optimizer": count * 12}
    if training.beta:
        held["reference model"] = count * (size if ranks > 1 else 4)
    buckets = {"ZeRO buckets": 2 * ZERO_BUCKET * size} if ranks > 1 else {}
    tokens = min(training.micro_batch_tokens or training.micro_batch * experiment.window, _step_tokens(experiment))
    layer = tokens * (16 * shape.hidden + 8 * shape.intermediate) * size
    if training.gradient_checkpointing:
        activations = tokens * shape.layers * shape.hidden * size + layer
    else:
        activations = shape.layers * layer
    block = max(LOGITS_BLOCK, shape.vocabulary)
    learning = {
        "activations": activations,
        "logits, gradient of the output layer": block * (8 + size) + shape.head * 4,
    }
    engine, drawing = {}, {}
    if experiment.generation.type == "transformers":
        drawing["KV cache"] = experiment.generation.batch_tokens * shape.kv_bytes(size)
    elif not experiment.has_server:
        blocks = kv_blocks(experiment.sequences_per_engine, experiment.window)
        engine["vLLM: weights"] = count * size
        engine["vLLM: KV cache"] = blocks * KV_BLOCK_TOKENS * shape.kv_bytes(size)
        engine["vLLM: graphs, work space"] = int(ENGINE * GIB)
    context = {"CUDA context, NCCL": CONTEXT * GIB}
    return MemoryPlan(
        training=_gib({**held, **context, **engine, **buckets, **learning}),
        generation=_gib({**held, **context, **engine, **drawing}),
    )


def _step_tokens(experiment: Experiment) -> int:
    """Tokens of a rank's whole step at their longest."""
    return experiment.completions_per_rank * experiment.window


def _gib(parts: dict[str, float]) -> dict[str, float]:
    return {name: value / GIB for name, value in parts.items()}
