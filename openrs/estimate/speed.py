"""How long a training step should take: a model of it, to lay a measured one beside.

Generation reads all weights and the KV cache of the running completions once a token; training does the arithmetic of
forward, backward, recomputed forward and reference pass. Every completion is taken to be as long as allowed, so this is
the longest step; a measured one says in `phases` of metrics.jsonl where it differs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from openrs.estimate.memory import BYTES
from openrs.estimate.shape import Shape
from openrs.spec.experiment import Experiment


@dataclass(frozen=True)
class Gpu:
    """Of its data sheet."""

    memory: float
    """GiB that programs can use."""
    flops: float
    """Dense bfloat16, FLOP/s."""
    bandwidth: float
    """Bytes/s."""


GPUS = {
    "A40": Gpu(44.3, 149.7e12, 696e9),
    "A6000": Gpu(47.5, 154.8e12, 768e9),
    "L40S": Gpu(44.3, 362e12, 864e9),
    "A100": Gpu(79.1, 312e12, 2039e9),
    "H100": Gpu(79.1, 989e12, 3350e9),
}

BANDWIDTH_SHARE = 0.47
"""Share of the bandwidth that decoding reaches; fits the 14.6 ms a token of 18 sequences on an A40 behind the paper's cost."""
FLOPS_SHARE = 0.5
"""Share of the peak that training reaches, without padding."""

ASSUMPTIONS = (
    f"every completion as long as allowed; decoding at {BANDWIDTH_SHARE:.0%} of the memory bandwidth, "
    f"training at {FLOPS_SHARE:.0%} of the dense bfloat16 peak; rewards, saves and the first step left out"
)


@dataclass(frozen=True)
class Step:
    """A modelled step, in seconds."""

    name: str
    generation: float
    learning: float
    layout: str | None = None
    """`generation.layout` of a spec that makes it."""

    @property
    def total(self) -> float:
        """Of the whole step."""
        return self.generation + self.learning


def gpu_of(kind: str | None) -> Gpu | None:
    """The data sheet of a GPU type, whatever scheduler's words are around its name."""
    words = (kind or "").upper().replace("_", "-").split("-")
    return next((gpu for name, gpu in GPUS.items() if name in words), None)


def steps(experiment: Experiment, shape: Shape, gpu: Gpu) -> list[Step]:
    """The spec's step in both layouts, and as upstream makes it: one generation a micro-batch, on one of the GPUs."""
    total = experiment.training.prompts_per_step * experiment.training.completions_per_prompt
    gpus = experiment.resources.gpus
    found = []
    if gpus > 1:
        # The recipe's arithmetic: 6 a device at a time on all GPUs but one.
        rounds = max(1, math.ceil(total / (6 * (gpus - 1))))
        upstream = rounds * _generation(experiment, shape, gpu, math.ceil(total / rounds))
        learning = _learning(experiment, shape, gpu, total / (gpus - 1))
        found.append(Step(f"as shipped: {rounds} generations a step, {gpus - 1} + 1 GPUs", upstream, learning))
        once = _generation(experiment, shape, gpu, total)
        found.append(Step(f"layout server: one generation, {gpus - 1} + 1 GPUs", once, learning, "server"))
    each = _generation(experiment, shape, gpu, math.ceil(total / gpus))
    learning = _learning(experiment, shape, gpu, total / gpus)
    return [*found, Step(f"layout colocate: one generation on all {gpus} GPUs", each, learning, "colocate")]


def _generation(experiment: Experiment, shape: Shape, gpu: Gpu, sequences: int) -> float:
    """Seconds to draw so many completions at once on one GPU."""
    size, sampling = BYTES[experiment.model.dtype], experiment.sampling
    middle = sampling.max_prompt_tokens + sampling.max_new_tokens / 2
    read = shape.parameters * size + sequences * middle * shape.kv_bytes(size)
    return sampling.max_new_tokens * read / (gpu.bandwidth * BANDWIDTH_SHARE)


def _learning(experiment: Experiment, shape: Shape, gpu: Gpu, sequences: float) -> float:
    """Seconds to learn from so many completions on one GPU."""
    passes = 6 + 2 * experiment.training.gradient_checkpointing + 2 * (experiment.training.beta > 0)
    return passes * shape.parameters * sequences * experiment.window / (gpu.flops * FLOPS_SHARE)
